import numpy as np
import pytest
import torch
import torch.nn.functional as F

from causalcxr.bench import MARKERS, paint

SIZES = [(64, 64), (56, 80), (128, 128), (192, 144)]
MANY = 60


def marker_opacity(kind, height, width, rng):
    return paint(torch.zeros(1, height, width), kind, rng)[0][0].numpy()


def draws(kind, height=96, width=96, seed=0):
    rng = np.random.default_rng(seed)
    return [marker_opacity(kind, height, width, rng) for _ in range(MANY)]


@pytest.mark.parametrize("kind", MARKERS)
@pytest.mark.parametrize("size", SIZES)
def test_paints_inside_its_mask_and_nowhere_else(kind, size):
    rng = np.random.default_rng(1)
    for _ in range(20):
        image = torch.rand(1, *size) * 0.9
        before = image.clone()
        painted, mask = paint(image, kind, rng)
        assert torch.equal(image, before)
        assert painted.shape == image.shape
        assert painted.dtype == torch.float32
        assert mask.shape == size
        assert mask.dtype == torch.bool
        assert torch.equal(painted[0][~mask], image[0][~mask])
        assert bool((painted[0][mask] > image[0][mask]).all())
        assert painted.max() <= 1
        assert 0.001 < mask.float().mean() < 0.06


@pytest.mark.parametrize("kind", MARKERS)
def test_a_pixel_is_blended_with_white_by_the_opacity(kind):
    image = torch.rand(1, 64, 80)
    painted, mask = paint(image, kind, np.random.default_rng(5))
    opacity = torch.from_numpy(marker_opacity(kind, 64, 80, np.random.default_rng(5)))
    assert opacity.dtype == torch.float32
    torch.testing.assert_close(painted[0], (1 - opacity) * image[0] + opacity)
    assert torch.equal(mask, opacity > 0)
    white, _ = paint(torch.ones(1, 64, 80), kind, np.random.default_rng(5))
    assert bool((white == 1).all())


@pytest.mark.parametrize("kind", MARKERS)
def test_an_equal_generator_paints_the_same_and_another_one_does_not(kind):
    image = torch.rand(1, 64, 64)
    outputs = [paint(image, kind, np.random.default_rng(seed))[0] for seed in (3, 3, 4)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("kind", MARKERS)
def test_place_size_and_contrast_vary(kind):
    masks = np.array(draws(kind))
    rows, columns = np.arange(96)[:, None], np.arange(96)
    weight = masks.sum(axis=(1, 2))
    centres = np.stack([(masks * rows).sum(axis=(1, 2)), (masks * columns).sum(axis=(1, 2))]) / weight
    assert (centres.std(axis=1) > 5).all()
    areas = (masks > 0).mean(axis=(1, 2))
    assert areas.max() > 1.3 * areas.min()
    peaks = masks.max(axis=(1, 2))
    assert peaks.min() > 0.2
    assert peaks.max() > peaks.min() + 0.2


def test_letters_lie_in_the_corners():
    corners = set()
    for opacity in draws("letter"):
        rows, columns = np.nonzero(opacity)
        assert rows.max() < 0.25 * 96 or rows.min() > 0.75 * 96
        assert columns.max() < 0.25 * 96 or columns.min() > 0.75 * 96
        corners.add((rows.min() > 48, columns.min() > 48))
    assert len(corners) == 4


def test_the_stamp_lies_at_the_upper_or_the_lower_edge_as_a_whole():
    widths = []
    for opacity in draws("portable", 480, 480):
        rows, columns = np.nonzero(opacity)
        assert rows.max() < 0.15 * 480 or rows.min() > 0.85 * 480
        assert 0 < columns.min() < columns.max() < 479
        widths.append((columns.max() + 1 - columns.min()) / 480)
    assert 0.31 < min(widths) < 0.34 < 0.42 < max(widths) < 0.45


def test_tubes_and_electrodes_lie_in_the_middle():
    for opacity in draws("tube"):
        rows, columns = np.nonzero(opacity)
        assert min(rows.min(), columns.min()) > 0.05 * 96
        assert max(rows.max(), columns.max()) < 0.95 * 96
    for opacity in draws("electrode"):
        row, column = np.unravel_index(opacity.argmax(), opacity.shape)  # in the snap
        assert 0.15 * 96 < row < 0.8 * 96
        assert 0.2 * 96 < column < 0.8 * 96


@pytest.mark.parametrize("kind", MARKERS)
def test_the_same_marker_at_two_resolutions(kind):
    # Thin lines have the width of a pixel at least, and so more weight at the lower resolution.
    for seed in range(10):
        fine, coarse = (
            torch.from_numpy(marker_opacity(kind, size, size, np.random.default_rng(seed))) for size in (256, 128)
        )
        reduced = F.avg_pool2d(fine[None], 2)[0]
        assert np.corrcoef(reduced.flatten(), coarse.flatten())[0, 1] > 0.9


def test_keeps_dtype():
    painted, _ = paint(torch.rand(1, 64, 64).bfloat16(), "tube", np.random.default_rng(0))
    assert painted.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("image", "kind", "error", "match"),
    [
        (torch.rand(1, 64, 64), "lettre", ValueError, "'lettre'"),
        (torch.rand(3, 64, 64), "letter", ValueError, r"\(3, 64, 64\)"),
        (torch.zeros(1, 64, 64, dtype=torch.uint8), "letter", TypeError, "floating-point"),
        (255 * torch.ones(1, 64, 64), "letter", ValueError, "255"),
        (torch.full((1, 64, 64), torch.nan), "tube", ValueError, "nan"),
        (torch.rand(1, 31, 64), "tube", ValueError, "32 pixels a side, got 31 x 64"),
    ],
)
def test_bad_images_are_refused(image, kind, error, match):
    with pytest.raises(error, match=match):
        paint(image, kind, np.random.default_rng(0))
