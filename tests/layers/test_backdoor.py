"""The intervention against the pair-by-pair reference."""

import pytest
import torch

from causalcxr.layers import BackdoorIntervention
from reference.backdoor import intervene_all
from reference.comparison import EXACT, normal, randomised


def _layer(combine="add"):
    return randomised(BackdoorIntervention(3, 4, combine=combine))


@pytest.mark.parametrize("sizes", [(1, 1), (2, 5), (5, 2)])
@pytest.mark.parametrize("combine", ["add", "cat"])
def test_output_is_every_pair(combine, sizes):
    layer, causal, borrowed = _layer(combine), normal(sizes[0], 3, 4), normal(sizes[1], 3, 4, seed=3)
    expected = intervene_all(causal, borrowed, layer.classifier.weight, layer.classifier.bias, combine=combine)
    torch.testing.assert_close(layer(causal, borrowed), expected, **EXACT)


@pytest.mark.parametrize("combine", ["add", "cat"])
def test_a_confounder_shifts_all_images_alike(combine):
    """Phi is linear, so the adjustment cannot change the ranking of the images."""
    intervened = _layer(combine)(normal(6, 3, 4), normal(4, 3, 4, seed=3))
    shift = intervened - intervened[:1]
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), **EXACT)


@pytest.mark.parametrize("sizes", [(1, 0), (0, 0), (0, 3)])
def test_nothing_to_borrow_gives_no_column_and_zero_gradients(sizes):
    layer, causal = _layer(), normal(sizes[0], 3, 4).requires_grad_()
    output = layer(causal, normal(sizes[1], 3, 4, seed=3))
    assert output.shape == (*sizes, 3)
    for gradient in torch.autograd.grad(output.sum(), [causal, *layer.parameters()]):
        assert not gradient.any()
