"""The causal head against the references put together, and the properties that define the method."""

import copy

import pytest
import torch
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor

from causalcxr import CausalHead
from reference.causal_head import causal_head
from reference.comparison import EXACT, TOLERANCE, normal, randomised, relative_error


def _head(num_classes: int = 3, **kwargs: object) -> CausalHead:
    return randomised(CausalHead(5, num_classes, dim=8, num_heads=2, **kwargs))


@pytest.mark.parametrize(
    ("options", "num_given"),
    [({}, None), ({"complement": "paper", "depth": 1}, None), ({"combine": "cat"}, None), ({"combine": "cat"}, 4)],
)
def test_output_equals_the_reference(options: dict, num_given: int | None) -> None:
    head, features = _head(**options).eval(), normal(3, 5, 2, 3)
    confounders = None if num_given is None else normal(num_given, 3, 8, seed=2)
    output = head(features, confounders, need_attention=True)
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


def test_maps_come_on_demand_and_change_nothing() -> None:
    head, features = _head(), normal(2, 5, 2, 3)
    plain, with_maps = head(features), head(features, need_attention=True)
    assert plain.attention is None
    torch.testing.assert_close(with_maps.attention.sum(dim=(-2, -1)), torch.ones(2, 3).double(), **EXACT)
    torch.testing.assert_close(plain[:5], with_maps[:5], **EXACT)


def test_replacing_the_confounders_changes_the_intervened_logits_alone() -> None:
    head, features = _head(), normal(3, 5, 2, 3)
    outputs = [head(features, normal(4, 3, 8, seed=seed)) for seed in (2, 3)]
    for name in ("logits", "confounder_logits", "causal", "confounder"):
        assert torch.equal(*(getattr(output, name) for output in outputs))
    assert not torch.allclose(*(output.intervened for output in outputs), atol=1e-3)


def test_permuting_the_confounders_permutes_the_intervened_logits_alone() -> None:
    head, features, confounders = _head(), normal(3, 5, 2, 3), normal(4, 3, 8, seed=2)
    order = torch.tensor([2, 0, 3, 1])
    given, permuted = head(features, confounders), head(features, confounders[order])
    assert torch.equal(given.logits, permuted.logits)
    torch.testing.assert_close(given.intervened[:, order], permuted.intervened, **EXACT)


def test_an_image_is_predicted_alone_as_in_any_batch() -> None:
    head, features = _head(), normal(3, 5, 2, 3)
    together = head(features)
    alone = [head(image) for image in features.split(1)]
    assert [output.intervened.shape for output in alone] == [(1, 0, 3)] * 3
    torch.testing.assert_close(together.logits, torch.cat([output.logits for output in alone]), **EXACT)
    torch.testing.assert_close(
        together.confounder_logits, torch.cat([output.confounder_logits for output in alone]), **EXACT
    )


def test_each_loss_trains_its_own_branch() -> None:
    """L_sl must not reach the confounding network, nor L_conf the causal one; the intervention reaches both."""
    head = _head()
    output = head(normal(3, 5, 2, 3))

    def reached(logits: Tensor) -> set[str]:
        gradients = torch.autograd.grad(logits.sum(), list(head.parameters()), retain_graph=True, allow_unused=True)
        names = [name.split(".")[0] for name, _ in head.named_parameters()]
        return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}

    shared = {"feature_learning", "decoder"}
    assert reached(output.logits) == shared | {"causal_mlp", "causal_classifier"}
    assert reached(output.confounder_logits) == shared | {"confounder_mlp", "confounder_classifier"}
    assert reached(output.intervened) == shared | {"causal_mlp", "confounder_mlp", "intervention"}


def test_gradients_are_those_of_the_function() -> None:
    head = _head(num_classes=2)
    assert torch.autograd.gradcheck(
        lambda features, confounders: head(features, confounders)[:5],
        [normal(2, 5, 1, 2).requires_grad_(), normal(2, 2, 8, seed=2).requires_grad_()],
        fast_mode=True,
    )


def test_no_image_borrows_from_itself_and_each_borrows_from_all_others() -> None:
    head, features = _head(), normal(5, 5, 2, 3)
    output = head(features)
    every = head.intervention(output.causal, output.confounder)
    assert output.intervened.shape == (5, 4, 3)
    for i in range(5):
        others = every[i, [j % 5 for j in range(i + 1, i + 5)]]
        torch.testing.assert_close(output.intervened[i], others, **EXACT)


def test_parts_of_the_forward_agree_with_the_whole() -> None:
    head, features = _head(), normal(2, 5, 2, 3)
    encoded, output = head.feature_learning(features), head(features)
    torch.testing.assert_close(head.decode(encoded)[:5], output[:5], **EXACT)


def test_dropout_acts_in_training_alone() -> None:
    head, features = _head(drop_rate=0.5), normal(2, 5, 2, 3)
    torch.testing.assert_close(head.eval()(features)[:5], _head()(features)[:5], **EXACT)
    torch.manual_seed(0)
    assert not torch.allclose(head.train()(features).logits, head(features).logits, atol=1e-3)


def test_other_labels_get_new_classifiers_of_the_same_kind() -> None:
    head, features = _head(), normal(2, 5, 2, 3)
    encoder = copy.deepcopy(head.feature_learning.state_dict())
    head.reset_classifier(7)
    assert head.num_classes == 7
    output = head(features)
    assert output.logits.shape == output.confounder_logits.shape == (2, 7)
    assert output.intervened.shape == (2, 1, 7)
    assert {parameter.dtype for parameter in head.parameters()} == {torch.float64}
    assert all(torch.equal(value, encoder[name]) for name, value in head.feature_learning.state_dict().items())


def test_head_without_labels_says_how_to_get_some() -> None:
    with pytest.raises(ValueError, match=r"no labels \(num_classes=0\).*reset_classifier"):
        _head(num_classes=0)(normal(2, 5, 2, 3))


def test_grad_mode_stays_as_it_is() -> None:
    head, features = _head(), normal(2, 5, 2, 3)
    assert all(tensor.requires_grad for tensor in head(features)[:5])
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert not any(tensor.requires_grad for tensor in head(features, need_attention=True))
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_low_precision_is_float64_up_to_rounding(dtype: torch.dtype) -> None:
    """Four layers deep, roundings add up: four times what one layer is allowed."""
    low = randomised(CausalHead(5, 3, dim=8, num_heads=2), scale=0.3).to(dtype)
    features = normal(2, 5, 3, 4).to(dtype)
    with torch.no_grad():
        given, expected = low(features), copy.deepcopy(low).double()(features.double())
    for name in ("logits", "confounder_logits", "intervened", "causal", "confounder"):
        assert getattr(given, name).dtype == dtype
        assert relative_error(getattr(given, name), getattr(expected, name)) < 4 * TOLERANCE[dtype]


def test_parameters_are_built_in_the_asked_for_type() -> None:
    head = CausalHead(5, 3, dim=8, num_heads=2, dtype=torch.bfloat16, device="meta")
    assert {(parameter.dtype, parameter.device.type) for parameter in head.parameters()} == {(torch.bfloat16, "meta")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": -1}, "num_classes must be 0 or more, but got -1"),
        ({"dim": 10, "num_heads": 4}, "must be a positive multiple of num_heads, but got 10 and 4"),
        ({"complement": "printed"}, "complement must be one of"),
        ({"combine": "mul"}, "combine must be one of"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalHead(5, **{"num_classes": 3, "dim": 8, "num_heads": 2, **options})


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((2, 7, 5), r"got tokens \(2, 7, 5\); .*num_prefix_tokens.*forward_intermediates"),
        ((2, 2, 3, 5), r"channels last, \(2, 2, 3, 5\); use features.permute\(0, 3, 1, 2\)"),
    ],
)
def test_tokens_and_channels_last_are_refused_with_the_remedy(shape: tuple[int, ...], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        _head()(normal(*shape))


def test_features_with_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features must have shape \(B, C, H, W\), C=5, but got \(2, 4, 2, 3\)"):
        _head()(normal(2, 4, 2, 3))


def test_integer_features_are_refused() -> None:
    with pytest.raises(TypeError, match="features must be a floating-point tensor"):
        _head()(torch.zeros(2, 5, 2, 3, dtype=torch.long))


def test_confounders_of_other_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"confounders must have shape \(S, K, D\), K=3, D=8, but got \(4, 2, 8\)"):
        _head()(normal(2, 5, 2, 3), normal(4, 2, 8))
