"""The whole objective, Eq. 8, against its parts."""

import functools

import pytest
import torch
from torch import Tensor

from causalcxr import CausalOutput
from causalcxr.losses import AsymmetricLoss, CausalLoss
from reference.comparison import normal
from reference.losses import asymmetric, backdoor, cross_entropy, known_mean, uniform_kl

NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0, NAN], [1.0, NAN, 0.3]], dtype=torch.float64)
PRIOR = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def _output(num_confounders: int = 4) -> CausalOutput:
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
def test_losses_equal_the_reference(uniform: str, prior: Tensor | None, weighted: bool, asl: bool) -> None:
    settings = {"gamma_pos": 1.0, "gamma_neg": 2.0, "margin": 0.1}
    output, weight = _output(), normal(2, 3, seed=6).abs() if weighted else None
    options = {"classification": AsymmetricLoss(**settings)} if asl else {}
    losses = CausalLoss(0.7, 0.2, uniform=uniform, **options)(output, TARGETS, prior=prior, weight=weight)
    element = functools.partial(asymmetric, **settings) if asl else cross_entropy
    rows = None if weight is None else weight.tolist()
    sl = known_mean(output.logits.tolist(), TARGETS.tolist(), element, rows)
    conf = sum(uniform_kl(row, uniform=uniform) for row in output.confounder_logits.tolist()) / 2
    p_c = None if prior is None else prior.tolist()
    bd = backdoor(output.intervened.tolist(), TARGETS.tolist(), element, p_c, rows)
    expected = {"loss": sl + 0.7 * conf + 0.2 * bd, "sl": sl, "conf": conf, "bd": bd}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-12)


def test_defaults_are_one_and_one_half() -> None:
    losses = CausalLoss()(_output(), TARGETS)
    torch.testing.assert_close(losses["loss"], losses["sl"] + losses["conf"] + 0.5 * losses["bd"])


def test_no_confounder_leaves_the_other_losses() -> None:
    with_some, without = (CausalLoss()(_output(count), TARGETS) for count in (4, 0))
    assert without["bd"].item() == 0
    torch.testing.assert_close(without["loss"], with_some["sl"] + with_some["conf"])


def test_weight_of_zero_takes_the_gradient_away() -> None:
    output = _output()
    for tensor in output[:3]:
        tensor.requires_grad_()
    gradients = torch.autograd.grad(CausalLoss(0, 0)(output, TARGETS)["loss"], output[:3])
    assert [bool(gradient.any()) for gradient in gradients] == [True, False, False]


def test_repr_names_the_weights() -> None:
    assert "alpha_conf=1.0, alpha_bd=0.5, uniform='categorical'" in repr(CausalLoss())


@pytest.mark.parametrize("weights", [(-1.0, 0.5), (1.0, -0.5), (NAN, 0.5)])
def test_negative_weights_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(
        ValueError, match=f"alpha_conf and alpha_bd must be 0 or more, but got {weights[0]} and {weights[1]}"
    ):
        CausalLoss(*weights)


def test_unknown_form_of_uniform_is_refused() -> None:
    with pytest.raises(ValueError, match="uniform must be one of 'categorical', 'bernoulli', but got 'flat'"):
        CausalLoss(uniform="flat")


def test_logits_alone_are_refused() -> None:
    with pytest.raises(TypeError, match=r"what model.forward_causal\(images\) returns, but got Tensor"):
        CausalLoss()(torch.zeros(2, 3), TARGETS)
