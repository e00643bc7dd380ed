"""The whole objective, Eq. 8, against its parts."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from causalcxr import CausalHead, CausalOutput
from causalcxr.losses import AsymmetricLoss, CausalLoss, classification_loss
from reference.comparison import normal
from reference.losses import asymmetric, backdoor, cross_entropy, known_mean, uniform_kl

NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0, NAN], [1.0, NAN, 0.3]], dtype=torch.float64)
PRIOR = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
UNEVEN = torch.tensor([0.0, 0.5, 0.2, 0.3])


def _output(num_confounders=4):
    return CausalOutput(
        logits=normal(2, 3),
        confounder_logits=normal(2, 3, seed=2),
        intervened=normal(2, num_confounders, 3, seed=3),
        causal=normal(2, 3, 5, seed=4),
        confounder=normal(2, 3, 5, seed=5),
        attention=None,
    )


@pytest.mark.parametrize("uniform", ["categorical", "bernoulli"])
@pytest.mark.parametrize("prior", [None, PRIOR], ids=["even", "prior"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("asl", [False, True])
@pytest.mark.parametrize("alphas", [(0.7, 0.2), (0.0, 0.0)])
def test_losses_equal_the_reference(uniform, prior, weighted, asl, alphas):
    settings = {"gamma_pos": 1.0, "gamma_neg": 2.0, "margin": 0.1}
    output, weight = _output(), normal(2, 3, seed=6).abs() if weighted else None
    options = {"classification": AsymmetricLoss(**settings)} if asl else {}
    losses = CausalLoss(*alphas, uniform=uniform, **options)(output, TARGETS, prior=prior, weight=weight)
    element = functools.partial(asymmetric, **settings) if asl else cross_entropy
    rows = None if weight is None else weight.tolist()
    sl = known_mean(output.logits.tolist(), TARGETS.tolist(), element, rows)
    conf = sum(uniform_kl(row, uniform=uniform) for row in output.confounder_logits.tolist()) / 2
    p_c = None if prior is None else prior.tolist()
    bd = backdoor(output.intervened.tolist(), TARGETS.tolist(), element, p_c, rows)
    expected = {"loss": sl + alphas[0] * conf + alphas[1] * bd, "sl": sl, "conf": conf, "bd": bd}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-12)


def test_the_classification_loss_has_labels_on_its_second_axis():
    """As in plain training, so that a loss may rely on that axis."""
    shapes = []
    CausalLoss(classification=lambda z, y: shapes.append(z.shape[1:]) or (z - y).square())(_output(), TARGETS)
    assert shapes == [(3,), (3,)]


@pytest.mark.parametrize("size", [(2, 2), (18, 17)])
def test_a_batch_of_no_images_costs_nothing(size):
    """On a large map, windows are attended to by blocks."""
    head = CausalHead(5, 3, dim=8, num_heads=2)
    losses = CausalLoss()(head(torch.zeros(0, 5, *size)), torch.zeros(0, 3))
    assert {name: value.item() for name, value in losses.items()} == dict.fromkeys(("loss", "sl", "conf", "bd"), 0.0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_torch_are_taken_element_by_element(reduction):
    options = {"pos_weight": torch.tensor([2.0, 3.0, 0.5], dtype=torch.float64)}
    bce = nn.BCEWithLogitsLoss(**options, reduction=reduction)
    each = functools.partial(F.binary_cross_entropy_with_logits, **options, reduction="none")
    given, expected = (CausalLoss(classification=loss)(_output(), TARGETS, prior=PRIOR) for loss in (bce, each))
    torch.testing.assert_close(given, expected, rtol=0, atol=0)
    CausalLoss(classification=bce).half()
    assert (bce.reduction, bce.pos_weight.dtype) == (reduction, torch.float64)  # the caller's own is unchanged


@pytest.mark.parametrize("prior", [None, UNEVEN, UNEVEN.expand(40000, 4)], ids=["even", "of all", "of each image"])
def test_random_partner_is_one_column_drawn_by_the_prior(prior):
    """Each image draws its own partner, so the mean over many images approaches the mean over all partners.

    The first partner, whose loss is 1e4, has no probability in the prior and must never be drawn from it.
    """
    torch.manual_seed(0)
    p = torch.full((4,), 0.25) if prior is None else UNEVEN
    logits = normal(4, 1) if prior is None else normal(4, 1).index_fill(0, torch.tensor(0), -1e4)
    intervened, targets = logits.expand(40000, 4, 1), torch.ones(40000, 1, dtype=torch.float64)
    output = CausalOutput(intervened[:, 0], intervened[:, 0], intervened, intervened, intervened, None)
    each = classification_loss(logits, targets[:4], reduction="none")[:, 0]
    mean = (p * each).sum()
    standard_error = ((p * each.square()).sum() - mean.square()).sqrt() / 40000**0.5
    loss = CausalLoss(partners="random", uniform="bernoulli")
    drawn = loss(output, targets, prior=prior)["bd"]
    assert 0 < abs(drawn - mean) < 4 * standard_error
    torch.testing.assert_close(loss.eval()(output, targets, prior=prior)["bd"], mean)


@pytest.mark.parametrize("partners", ["all", "random"])
def test_nobody_to_borrow_from_costs_nothing(partners):
    loss = CausalLoss(partners=partners)
    for number, prior in ((0, None), (0, torch.zeros(0)), (4, torch.zeros(4))):
        assert loss(_output(number), TARGETS, prior=prior)["bd"].item() == 0


def test_random_partners_need_probabilities_too():
    with pytest.raises(ValueError, match=r"sum \[4.0"):
        CausalLoss(partners="random")(_output(), TARGETS, prior=torch.ones(4))
