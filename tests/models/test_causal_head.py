"""The causal head against the combined reference implementations, and the properties that define the method."""

import pytest
import torch
from timm.layers import build_sincos2d_pos_embed

from causalcxr import CausalHead
from reference.causal_head import causal_head
from reference.comparison import EXACT, normal, randomised


def _head(num_classes=3, **kwargs):
    return randomised(CausalHead(5, num_classes, dim=8, num_heads=2, **kwargs))


@pytest.mark.parametrize(
    ("options", "num_given"),
    [({}, None), ({"complement": "paper", "depth": 1}, None), ({"combine": "cat"}, None), ({"combine": "cat"}, 4)],
)
def test_output_equals_the_reference(options, num_given):
    head, features = _head(**options).eval(), normal(3, 5, 2, 3)
    confounders = None if num_given is None else normal(num_given, 3, 8, seed=2)
    output = head(features, confounders, need_attention=True)
    assert head(features, confounders).attention is None
    expected = causal_head(
        features,
        head.state_dict(),
        build_sincos2d_pos_embed([2, 3], 8, dtype=torch.float32).double(),
        confounders,
        num_heads=2,
        depth=options.get("depth", 2),
        complement=options.get("complement", "normalized"),
        combine=options.get("combine", "add"),
    )
    for name, given, wanted in zip(output._fields, output, expected, strict=True):
        torch.testing.assert_close(given, wanted, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


def test_each_loss_trains_its_own_branch():
    """L_sl must not reach the confounding network, nor L_conf the causal one; the intervention reaches both."""
    head = _head()
    output = head(normal(3, 5, 2, 3))

    def reached(logits):
        gradients = torch.autograd.grad(logits.sum(), list(head.parameters()), retain_graph=True, allow_unused=True)
        names = [name.split(".")[0] for name, _ in head.named_parameters()]
        return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}

    shared = {"feature_learning", "decoder"}
    assert reached(output.logits) == shared | {"causal_mlp", "causal_classifier"}
    assert reached(output.confounder_logits) == shared | {"confounder_mlp", "confounder_classifier"}
    assert reached(output.intervened) == shared | {"causal_mlp", "confounder_mlp", "intervention"}


def test_dropout_acts_in_training_alone():
    head, features = _head(drop_rate=0.5), normal(2, 5, 2, 3)
    torch.testing.assert_close(head.eval()(features)[:5], _head()(features)[:5], **EXACT)
    torch.manual_seed(0)
    assert not torch.allclose(head.train()(features).logits, head(features).logits, atol=1e-3)
    assert (head(features).confounder != 0).all()  # features for a bank have no dropout


def test_parameters_are_built_in_the_asked_for_type():
    head = CausalHead(5, 3, dim=8, num_heads=2, dtype=torch.bfloat16, device="meta")
    assert {(parameter.dtype, parameter.device.type) for parameter in head.parameters()} == {(torch.bfloat16, "meta")}


HEAD = CausalHead(5, 3, dim=8, num_heads=2)
X = torch.zeros(2, 5, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CausalHead(5, 0, dim=8, num_heads=2)(X), "call reset_classifier"),
        (lambda: HEAD(X.flatten(2).mT), r"got tokens \(2, 6, 5\); .*num_prefix_tokens.*forward_intermediates"),
        (lambda: HEAD(X.permute(0, 2, 3, 1)), r"channels last, .*; use features.permute\(0, 3, 1, 2\)"),
        (lambda: HEAD(X[:, :4]), "features must have shape"),
        (lambda: HEAD(X, torch.zeros(4, 2, 8)), "confounders must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
