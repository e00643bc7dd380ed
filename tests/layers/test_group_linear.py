"""The per-label classifier against the literal sum."""

import pytest
import torch

from causalcxr.layers import GroupLinear
from reference.comparison import EXACT, normal, randomised
from reference.group_linear import group_linear


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_output_equals_the_reference(leading):
    layer, h = randomised(GroupLinear(3, 5)), normal(*leading, 3, 5)
    rows = [group_linear(row, layer.weight, layer.bias) for row in h.reshape(-1, 3, 5)]
    torch.testing.assert_close(layer(h), torch.stack(rows).view(*leading, 3), **EXACT)


def test_parameters_start_uniform_within_one_over_root_d():
    torch.manual_seed(0)
    layer = GroupLinear(50, 64)
    for parameter in (layer.weight, layer.bias):
        assert float(parameter.detach().abs().max()) <= 1 / 8
    # The standard deviation of a uniform variable on [-a, a] is a / sqrt(3). 3,200 draws estimate it to about 1 %.
    assert float(layer.weight.detach().std()) == pytest.approx(1 / 8 / 3**0.5, rel=0.04)
