"""The intervention against the pair-by-pair reference."""

import pytest
import torch
from torch import Tensor

from causalcxr.layers import BackdoorIntervention
from reference.backdoor import intervene_all
from reference.comparison import EXACT, normal, randomised

COMBINES = ["add", "cat"]


def _layer(combine: str = "add") -> BackdoorIntervention:
    return randomised(BackdoorIntervention(3, 4, combine=combine))


def _features(batch: int, num_borrowed: int) -> tuple[Tensor, Tensor]:
    return normal(batch, 3, 4), normal(num_borrowed, 3, 4, seed=3)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 5), (5, 2)])
@pytest.mark.parametrize("combine", COMBINES)
def test_output_is_every_pair(combine: str, sizes: tuple[int, int]) -> None:
    layer, (causal, borrowed) = _layer(combine), _features(*sizes)
    expected = intervene_all(causal, borrowed, layer.classifier.weight, layer.classifier.bias, combine=combine)
    torch.testing.assert_close(layer(causal, borrowed), expected, **EXACT)


@pytest.mark.parametrize("combine", COMBINES)
def test_a_confounder_shifts_all_images_alike(combine: str) -> None:
    """Phi is linear, so adjustment cannot change the order of the images."""
    intervened = _layer(combine)(*_features(6, 4))
    shift = intervened - intervened[:1]
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), **EXACT)


@pytest.mark.parametrize("sizes", [(1, 0), (0, 0), (0, 3)])
def test_nothing_to_borrow_gives_no_column_and_zero_gradients(sizes: tuple[int, int]) -> None:
    layer, (causal, borrowed) = _layer(), _features(*sizes)
    causal.requires_grad_()
    output = layer(causal, borrowed)
    assert output.shape == (*sizes, 3)
    for gradient in torch.autograd.grad(output.sum(), [causal, *layer.parameters()]):
        assert not gradient.any()


def test_new_labels_get_a_new_classifier_of_the_right_width() -> None:
    layer = _layer("cat")
    layer.reset_classes(7)
    assert layer.classifier.weight.shape == (7, 8)


def test_repr_names_the_options() -> None:
    assert "combine='cat'" in repr(_layer("cat"))


def test_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="combine must be one of 'add', 'cat', but got 'mul'"):
        BackdoorIntervention(3, 4, combine="mul")


def test_intervention_without_labels_says_how_to_get_some() -> None:
    with pytest.raises(ValueError, match=r"no labels \(num_classes=0\); give it some with reset_classes"):
        BackdoorIntervention(0, 4)(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3, 5), (2, 3, 4)), r"causal must have shape \(B, K, D\), K=3, D=4, but got \(2, 3, 5\)"),
        (((2, 3, 4), (5, 2, 4)), r"confounders must have shape \(S, K, D\), K=3, D=4, but got \(5, 2, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BackdoorIntervention(3, 4)(*(torch.zeros(shape) for shape in shapes))


def test_integer_features_are_refused() -> None:
    with pytest.raises(TypeError, match="causal must be a floating-point tensor"):
        BackdoorIntervention(3, 4)(torch.zeros(2, 3, 4, dtype=torch.long), torch.zeros(2, 3, 4))
