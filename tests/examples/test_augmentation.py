"""Random views of radiographs."""

import math

import pytest
import torch
import torch.nn.functional as F

from augmentation import augment, sampling_grid
from recipe import Config


def test_views_depend_on_seed_epoch_and_index_alone() -> None:
    settings = Config(seed=3).augmentation
    images = torch.rand(1, 1, 32, 32).expand(3, -1, -1, -1)
    first = augment(images, torch.tensor([4, 5, 6]), 1, **settings)
    again = augment(images[:2], torch.tensor([6, 4]), 1, **settings)
    torch.testing.assert_close(again, first[[2, 0]])
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(first, augment(images, torch.tensor([4, 5, 6]), 2, **settings))
    assert 0 <= first.min() <= first.max() <= 1


def test_nothing_to_change_leaves_images_as_they_are() -> None:
    images = torch.rand(2, 1, 24, 40)
    same = augment(images, torch.arange(2), 0, seed=0, rotate=0, scale=0, shift=0, contrast=0)
    torch.testing.assert_close(same, images)


def test_contrast_and_brightness_change_around_the_mean() -> None:
    images = 0.4 + 0.2 * torch.rand(1, 1, 16, 16)
    changed = augment(images, torch.tensor([7]), 1, seed=0, rotate=0, scale=0, shift=0, contrast=0.2)
    gain = changed.std() / images.std()
    assert 0.8 < gain < 1.2
    expected = (images - images.mean()) * gain + changed.mean()
    torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-5)
    assert abs(changed.mean() - images.mean()) < 0.2


@pytest.mark.parametrize("size", [(32, 32), (7, 20), (1, 3)])
def test_sampling_grid_is_that_of_torch(size: tuple[int, int]) -> None:
    angle, zoom, x, y = torch.tensor([[math.pi / 7, -0.1], [1.1, 0.9], [0.1, 0.0], [-0.2, 0.3]])
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    theta = torch.stack([torch.stack([cos, -sin, x], dim=1), torch.stack([sin, cos, y], dim=1)], dim=1)
    expected = F.affine_grid(theta, [2, 1, *size], align_corners=False)
    torch.testing.assert_close(sampling_grid(cos, sin, x, y, *size), expected)
