"""The per-label classifier against the literal sum."""

import pytest
import torch

from causalcxr.layers import GroupLinear
from reference.comparison import EXACT, normal, randomised
from reference.group_linear import group_linear


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3)])
def test_output_equals_the_reference(leading: tuple[int, ...]) -> None:
    layer, h = randomised(GroupLinear(3, 5)), normal(*leading, 3, 5)
    rows = [group_linear(row, layer.weight, layer.bias) for row in h.reshape(-1, 3, 5)]
    torch.testing.assert_close(layer(h), torch.stack(rows).view(*leading, 3), **EXACT)


def test_a_label_sees_its_own_feature_only() -> None:
    layer, h = randomised(GroupLinear(3, 5)), normal(2, 3, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(h)[:, 1].sum(), h)
    assert not gradient[:, [0, 2]].any()
    torch.testing.assert_close(gradient[:, 1], layer.weight[1].detach().expand(2, 5), **EXACT)


def test_parameters_start_uniform_within_one_over_root_d() -> None:
    torch.manual_seed(0)
    layer = GroupLinear(50, 64)
    for parameter in (layer.weight, layer.bias):
        assert float(parameter.detach().abs().max()) <= 1 / 8
    # The standard deviation of a uniform variable on [-a, a] is a / sqrt(3); 3,200 draws know it to about 1 %.
    assert float(layer.weight.detach().std()) == pytest.approx(1 / 8 / 3**0.5, rel=0.04)


def test_repr_names_the_sizes() -> None:
    assert repr(GroupLinear(3, 5)) == "GroupLinear(num_groups=3, in_features=5)"


@pytest.mark.parametrize("sizes", [(0, 4), (3, 0), (-1, 4)])
def test_sizes_must_be_positive(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"must be positive, but got {sizes[0]} and {sizes[1]}"):
        GroupLinear(*sizes)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 4), (3, 5, 1)])
def test_input_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., K, D\), K=3, D=5, but got \("):
        GroupLinear(3, 5)(torch.zeros(shape))


@pytest.mark.parametrize("x", [[[1.0]], torch.zeros(3, 5, dtype=torch.long)])
def test_input_of_another_type_is_refused(x: object) -> None:
    with pytest.raises(TypeError, match=r"x must be a floating-point tensor of shape \(\.\.\. K D\), but got"):
        GroupLinear(3, 5)(x)
