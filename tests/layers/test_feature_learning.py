"""The encoder against the literal reference."""

import pytest
import torch

from causalcxr.layers import FeatureLearning
from reference.comparison import EXACT, normal, randomised
from reference.feature_learning import feature_learning


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 3)])
@pytest.mark.parametrize("batch", [1, 2])
def test_output_equals_the_reference(size: tuple[int, int], batch: int) -> None:
    layer, x = randomised(FeatureLearning(5, 4, num_heads=2)), normal(batch, 5, *size)
    torch.testing.assert_close(layer(x), feature_learning(x, layer.state_dict(), num_heads=2), **EXACT)


@pytest.mark.parametrize(("batch", "size"), [(1, (4, 3)), (3, (2, 3)), (4, (1, 1))])
def test_output_in_training_equals_the_reference(batch: int, size: tuple[int, int]) -> None:
    layer, x = randomised(FeatureLearning(5, 4, num_heads=2)).train(), normal(batch, 5, *size)
    expected = feature_learning(x, layer.state_dict(), num_heads=2, training=True)
    torch.testing.assert_close(layer(x), expected, **EXACT)


def test_nothing_depends_on_the_other_images_of_the_batch_in_evaluation() -> None:
    layer, x = randomised(FeatureLearning(5, 4, num_heads=2)).eval(), normal(3, 5, 4, 3)
    torch.testing.assert_close(layer(x), torch.cat([layer(image) for image in x.split(1)]), **EXACT)


def test_input_with_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(B, C, H, W\), C=5, but got \(1, 4, 3, 3\)"):
        FeatureLearning(5, 4, num_heads=2)(torch.zeros(1, 4, 3, 3))


def test_integer_input_is_refused() -> None:
    with pytest.raises(TypeError, match=r"x must be a floating-point tensor .* dtype torch.int64"):
        FeatureLearning(5, 4, num_heads=2)(torch.zeros(1, 5, 3, 3, dtype=torch.long))


def test_width_must_split_into_heads() -> None:
    with pytest.raises(ValueError, match="must be a positive multiple of num_heads, but got 6 and 4"):
        FeatureLearning(5, 6, num_heads=4)
