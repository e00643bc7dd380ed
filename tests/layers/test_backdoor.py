"""The intervention against the pair-by-pair reference, and the sampled form against the full one."""

import pytest
import torch
from torch import Tensor

from causalcxr.layers import BackdoorIntervention
from reference.backdoor import intervene_all, intervene_others
from reference.comparison import EXACT, normal, randomised

COMBINES = ["add", "cat"]


def _layer(combine: str = "add", strategy: str = "full") -> BackdoorIntervention:
    return randomised(BackdoorIntervention(3, 4, combine=combine, strategy=strategy))


def _features(batch: int, num_given: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    return normal(batch, 3, 4), normal(batch, 3, 4, seed=2), normal(num_given, 3, 4, seed=3)


def _identity_layer(strategy: str) -> BackdoorIntervention:
    """Phi returns the confounder's first entry: the label of the image that it was borrowed from."""
    layer = BackdoorIntervention(2, 3, strategy=strategy).double()
    with torch.no_grad():
        layer.classifier.weight.zero_()
        layer.classifier.weight[:, 0] = 1
        layer.classifier.bias.zero_()
    return layer


def _borrowed_from(layer: BackdoorIntervention, batch: int, generator: torch.Generator | None = None) -> Tensor:
    """Return the (B, S) indices of the images whose confounders were borrowed."""
    confounder = torch.zeros(batch, 2, 3, dtype=torch.float64)
    confounder[:, :, 0] = torch.arange(batch)[:, None]
    output = layer(torch.zeros_like(confounder), confounder, generator=generator)
    assert torch.equal(output[..., 0], output[..., 1])  # one partner for all labels of an image
    return output[..., 0].long()


@pytest.mark.parametrize("strategy", ["full", "random"])
@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("combine", COMBINES)
def test_full_output_is_every_pair_with_another_image(combine: str, batch: int, strategy: str) -> None:
    layer = _layer(combine, strategy).train(strategy == "full")  # nothing is drawn in eval()
    causal, confounder, _ = _features(batch)
    output = layer(causal, confounder)
    assert output.shape == (batch, batch - 1, 3)
    if batch > 1:
        expected = intervene_others(causal, confounder, layer.classifier.weight, layer.classifier.bias, combine=combine)
        torch.testing.assert_close(output, expected, **EXACT)


@pytest.mark.parametrize("combine", COMBINES)
def test_full_output_is_every_pair_with_given_confounders(combine: str) -> None:
    layer, (causal, confounder, given) = _layer(combine), _features(2)
    expected = intervene_all(causal, given, layer.classifier.weight, layer.classifier.bias, combine=combine)
    torch.testing.assert_close(layer(causal, confounder, given), expected, **EXACT)
    torch.testing.assert_close(layer.all_pairs(causal, given), expected, **EXACT)


def test_no_image_borrows_from_itself_and_each_borrows_from_all_others() -> None:
    borrowed = _borrowed_from(_identity_layer("full"), 5)
    for i, row in enumerate(borrowed.tolist()):
        assert sorted(row) == [j for j in range(5) if j != i]


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("given", [False, True])
def test_random_output_is_one_column_of_the_full_one(combine: str, given: bool) -> None:
    full, random = _layer(combine), _layer(combine, "random").train()
    causal, confounder, confounders = _features(4)
    borrowed = confounders if given else None
    drawn = random(causal, confounder, borrowed)
    assert drawn.shape == (4, 1, 3)
    assert (drawn == full(causal, confounder, borrowed)).all(dim=-1).sum(dim=1).tolist() == [1, 1, 1, 1]


def test_random_partner_is_any_other_image_equally_often() -> None:
    """Then the average over draws is the full sum: sum_j P(partner = j) z_ij with P = 1 / (B - 1) for each j != i."""
    layer, generator, batch, draws = _identity_layer("random").train(), torch.Generator().manual_seed(0), 4, 1500
    counts = torch.zeros(batch, batch)
    for _ in range(draws):
        borrowed = _borrowed_from(layer, batch, generator)
        counts[torch.arange(batch), borrowed[:, 0]] += 1
    assert not counts.diag().any()
    off_diagonal = counts[~torch.eye(batch, dtype=torch.bool)] / draws
    p = 1 / (batch - 1)
    assert float((off_diagonal - p).abs().max()) < 4 * (p * (1 - p) / draws) ** 0.5  # four standard errors


def test_random_draw_from_given_confounders_is_unbiased_for_the_full_average() -> None:
    layer, full, images = _layer(strategy="random").train(), _layer(), 20000
    causal, confounder, given = _features(1)
    drawn = layer(
        causal.expand(images, 3, 4), confounder.expand(images, 3, 4), given, generator=torch.Generator().manual_seed(0)
    )
    each = full(causal, confounder, given)[0]
    standard_error = each.std(dim=0, correction=0) / images**0.5
    assert bool(((drawn.mean(dim=(0, 1)) - each.mean(dim=0)).abs() < 4 * standard_error).all())


def test_same_seed_same_partners() -> None:
    layer = _identity_layer("random").train()
    first, again, other = (_borrowed_from(layer, 30, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_a_generator_the_global_seed_decides() -> None:
    layer = _identity_layer("random").train()
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(_borrowed_from(layer, 30))
    assert torch.equal(*draws)


def test_a_generator_leaves_the_global_one_alone() -> None:
    layer = _identity_layer("random").train()
    before = torch.get_rng_state()
    _borrowed_from(layer, 30, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("strategy", ["full", "random"])
@pytest.mark.parametrize(("batch", "num_given"), [(1, None), (0, None), (2, 0)])
def test_nothing_to_borrow_gives_no_column_and_zero_gradients(batch: int, num_given: int | None, strategy: str) -> None:
    layer = _layer(strategy=strategy).train()
    causal, confounder, given = _features(batch, num_given or 0)
    causal.requires_grad_()
    output = layer(causal, confounder, None if num_given is None else given)
    assert output.shape == (batch, 0, 3)
    for gradient in torch.autograd.grad(output.sum(), [causal, *layer.parameters()]):
        assert not gradient.any()


def test_new_labels_get_a_new_classifier_of_the_right_width() -> None:
    layer = _layer("cat")
    layer.reset_classes(7)
    assert layer.classifier.weight.shape == (7, 8)


def test_repr_names_the_options() -> None:
    assert "combine='cat', strategy='random'" in repr(_layer("cat", "random"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"combine": "mul"}, "combine must be one of 'add', 'cat', but got 'mul'"),
        ({"strategy": "all"}, "strategy must be one of 'full', 'random', but got 'all'"),
    ],
)
def test_unknown_options_are_refused(option: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BackdoorIntervention(3, 4, **option)


@pytest.mark.parametrize("call", ["forward", "all_pairs"])
def test_intervention_without_labels_says_how_to_get_some(call: str) -> None:
    with pytest.raises(ValueError, match=r"no labels \(num_classes=0\); give it some with reset_classes"):
        getattr(BackdoorIntervention(0, 4), call)(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3, 5), (2, 3, 4)), r"causal must have shape \(B, K, D\), K=3, D=4, but got \(2, 3, 5\)"),
        (((2, 3, 4), (3, 3, 4)), r"confounder must have shape \(B, K, D\), B=2, K=3, D=4, but got \(3, 3, 4\)"),
        (((2, 3, 4), (2, 3, 4), (5, 2, 4)), r"confounders must have shape \(S, K, D\), K=3, D=4, but got \(5, 2, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BackdoorIntervention(3, 4)(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 2, 4), (5, 3, 4)), r"causal must have shape \(B, K, D\), K=3, D=4, but got \(2, 2, 4\)"),
        (((2, 3, 4), (5, 3, 6)), r"confounders must have shape \(S, K, D\), K=3, D=4, but got \(5, 3, 6\)"),
    ],
)
def test_shapes_of_all_pairs_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BackdoorIntervention(3, 4).all_pairs(*(torch.zeros(shape) for shape in shapes))


def test_integer_features_are_refused() -> None:
    with pytest.raises(TypeError, match="causal must be a floating-point tensor"):
        BackdoorIntervention(3, 4)(torch.zeros(2, 3, 4, dtype=torch.long), torch.zeros(2, 3, 4))
