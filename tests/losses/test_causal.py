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

    def each(logits, targets):
        shapes.append(logits.shape[1:])
        return (logits - targets).square()

    CausalLoss(classification=each)(_output(), TARGETS)
    assert shapes == [(3,), (3,)]


def test_a_batch_of_no_images_costs_nothing():
    head = CausalHead(5, 3, dim=8, num_heads=2)
    losses = CausalLoss()(head(torch.zeros(0, 5, 2, 2)), torch.zeros(0, 3))
    assert {name: value.item() for name, value in losses.items()} == dict.fromkeys(("loss", "sl", "conf", "bd"), 0.0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_torch_are_taken_element_by_element(reduction):
    pos_weight = torch.tensor([2.0, 3.0, 0.5], dtype=torch.float64)
    bce, output = nn.BCEWithLogitsLoss(pos_weight=pos_weight, reduction=reduction), _output()
    losses = CausalLoss(classification=bce)(output, TARGETS, prior=PRIOR)
    assert bce.reduction == reduction

    def each(logits, targets):
        return -(pos_weight * targets * F.logsigmoid(logits) + (1 - targets) * F.logsigmoid(-logits))

    known, targets = ~TARGETS.isnan(), TARGETS.nan_to_num()
    sl = each(output.logits, targets)[known].mean()
    bd = sum(p * each(output.intervened[:, s], targets)[known].mean() for s, p in enumerate(PRIOR))
    torch.testing.assert_close(losses["sl"], sl)
    torch.testing.assert_close(losses["bd"], bd)


@pytest.mark.parametrize("prior", [None, torch.tensor([0.0, 0.5, 0.2, 0.3])], ids=["even", "prior"])
def test_random_partner_is_one_column_drawn_by_the_prior(prior):
    """Each image draws its own partner, so the mean over many images approaches the mean over all partners."""
    torch.manual_seed(0)
    batch = 40000
    intervened = normal(1, 4, 1).expand(batch, 4, 1)
    output = CausalOutput(intervened[:, 0], intervened[:, 0], intervened, intervened, intervened, None)
    targets = torch.ones(batch, 1, dtype=torch.float64)
    each = classification_loss(intervened[0], targets[:4], reduction="none")[:, 0]
    p = torch.full((4,), 0.25) if prior is None else prior
    mean = (p * each).sum()
    standard_error = ((p * each.square()).sum() - mean.square()).sqrt() / batch**0.5
    loss = CausalLoss(partners="random", uniform="bernoulli")
    drawn = loss(output, targets, prior=prior)["bd"]
    assert 0 < abs(drawn - mean) < 4 * standard_error
    all_of_them = CausalLoss(uniform="bernoulli")(output, targets, prior=prior)["bd"]
    torch.testing.assert_close(loss.eval()(output, targets, prior=prior)["bd"], all_of_them)


@pytest.mark.parametrize("forbidden", [0, 3])
def test_partner_without_probability_is_never_drawn(forbidden):
    prior = torch.full((500, 4), 1 / 3).index_fill(1, torch.tensor(forbidden), 0.0)
    intervened = torch.zeros(500, 4, 1).index_fill(1, torch.tensor(forbidden), 1e4)
    output = CausalOutput(intervened[:, 0], intervened[:, 0], intervened, intervened, intervened, None)
    losses = CausalLoss(partners="random", uniform="bernoulli")(output, torch.zeros(500, 1), prior=prior)
    torch.testing.assert_close(losses["bd"], torch.tensor(2.0).log())


def test_random_partner_of_nobody_costs_nothing():
    loss = CausalLoss(partners="random")
    assert loss(_output(0), TARGETS)["bd"].item() == 0
    assert loss(_output(), TARGETS, prior=torch.zeros(4))["bd"].item() == 0
