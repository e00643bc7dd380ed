"""The contract of every registered model, checked numerically on small versions."""

import copy
import pickle

import pytest
import timm
import timm.optim
import torch
from torch import Tensor

import causalcxr
from causalcxr import CausalObjective
from reference.comparison import images as _images

# The others are the same as one of these at reduced depth and width.
ALIKE = ("_resnet34", "_resnet101", "_resnet152", "_convnext_small", "_convnext_base", "_vit_base_patch16")
NAMES = [name for name in causalcxr.list_models() if not name.endswith(ALIKE)]


@pytest.fixture(scope="module", params=NAMES)
def model(request, small):
    """Model in evaluation mode without gradients. Tests share it and must not change it."""
    return small(request.param).eval().requires_grad_(False)


def _trainable(model):
    return copy.deepcopy(model).requires_grad_(True).train()


def test_parts_of_the_forward_agree_with_the_whole(model):
    features, output = model.forward_features(_images()), model.forward_causal(_images())
    assert features.shape[1] == model.num_features
    torch.testing.assert_close(output.logits, model(_images()))
    pre_logits = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pre_logits, output.causal)
    torch.testing.assert_close(model.get_classifier()(pre_logits), output.logits)


def test_a_hook_on_the_head_sees_every_prediction(small):
    model, seen = small("causal_test_resnet").eval(), []
    model.head.register_forward_hook(lambda head, inputs, output: seen.append(output.logits))
    logits, output = model(_images()), model.forward_causal(_images())
    assert [id(each) for each in seen] == [id(logits), id(output.logits)]


def test_attention_maps_cover_the_image(model):
    output = model.forward_causal(_images(96, 160), need_attention=True)
    assert output.attention.shape == (2, 14, *(-(-side // model.reduction) for side in (96, 160)))
    torch.testing.assert_close(output.attention.sum(dim=(-2, -1)), torch.ones(2, 14))
    torch.testing.assert_close(output.logits, model(_images(96, 160)))


def test_labels_can_be_changed(model):
    other = copy.deepcopy(model)
    other.reset_classifier(5)
    output = other.forward_causal(_images())
    assert other.num_classes == 5
    assert (output.logits.shape, output.confounder_logits.shape, output.intervened.shape) == ((2, 5), (2, 5), (2, 1, 5))
    with pytest.raises(ValueError, match="the causal head does not pool, but got 'avg'"):
        other.reset_classifier(0, "avg")
    other.reset_classifier(0, global_pool=None)
    features = model.forward_features(_images())
    torch.testing.assert_close(other(_images()), model.head.feature_learning(features).mean(dim=(2, 3)))
    torch.testing.assert_close(other.forward_head(features, pre_logits=True), other(_images()))


def test_type_reaches_every_parameter(model, small):
    other = small(model.pretrained_cfg["architecture"], dtype=torch.float64).eval()
    logits = other(_images().double())
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits.float(), model(_images()), rtol=1e-3, atol=1e-4)
    other.reset_classifier(5)
    tensors = [*other.parameters(), *(buffer for buffer in other.buffers() if buffer.is_floating_point())]
    assert {tensor.dtype for tensor in tensors} == {torch.float64}


def test_intermediate_maps_are_those_of_feature_info(model):
    final, maps = model.forward_intermediates(_images(96, 160))
    torch.testing.assert_close(final, model.forward_features(_images(96, 160)))
    assert [x.shape[1] for x in maps] == [info["num_chs"] for info in model.feature_info]
    for x, info in zip(maps, model.feature_info, strict=True):
        assert x.shape[2:] == (-(-96 // info["reduction"]), -(-160 // info["reduction"]))
        model.get_submodule(info["module"])
    last = model.forward_intermediates(_images(96, 160), indices=1, intermediates_only=True)
    torch.testing.assert_close(last, maps[-1:])
    torch.testing.assert_close(model.forward_intermediates(_images(96, 160), indices=[0]), (final, maps[:1]))


def test_layers_after_the_deepest_index_can_be_dropped(model):
    other = copy.deepcopy(model)
    maps = model.forward_intermediates(_images(), intermediates_only=True)
    kept = other.prune_intermediate_layers([0])
    assert kept == [0]
    assert other.num_classes == 0
    assert sum(p.numel() for p in other.backbone.parameters()) < sum(p.numel() for p in model.backbone.parameters())
    torch.testing.assert_close(other.forward_intermediates(_images(), kept, intermediates_only=True), maps[:1])
    other = copy.deepcopy(model)
    other.prune_intermediate_layers(1, prune_head=False)  # the deepest index is the last
    torch.testing.assert_close(other(_images()), model(_images()))


def test_layers_are_grouped_as_the_backbone_groups_them(model):
    for coarse in (False, True):
        groups = timm.models.group_parameters(model, model.group_matcher(coarse), reverse=True)
        expected = timm.models.group_parameters(model.backbone, model.backbone.group_matcher(coarse), reverse=True)
        assert {name: groups[f"backbone.{name}"] for name in expected} == expected
        assert {group for name, group in groups.items() if name.startswith("head.")} == {max(groups.values())}
        assert groups.keys() == {name for name, _ in model.named_parameters()}
        assert len(set(expected.values())) > 2


def test_layers_of_a_backbone_that_does_not_group_them():
    model = causalcxr.create_model("causal_timm", backbone="poolformer_s12", device="meta")
    groups = timm.models.group_parameters(model, model.group_matcher(), reverse=True)
    expected = timm.optim.auto_group_layers(model.backbone)
    assert {name: groups[f"backbone.{name}"] for name in expected} == expected
    assert {groups[name] for name in groups if name.startswith("head.")} == {max(expected.values()) + 1}


def test_every_parameter_has_a_gradient_and_checkpointing_recomputes_blocks_for_it(model):
    plain, recomputing = _trainable(model), _trainable(model)
    recomputing.set_grad_checkpointing()
    assert _calls_in_a_step(plain) < _calls_in_a_step(recomputing)
    gradients, again = ({name: p.grad for name, p in each.named_parameters()} for each in (plain, recomputing))
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    torch.testing.assert_close(again, gradients)


def _calls_in_a_step(model):
    """Run one forward and backward pass, and return the number of backbone layers called."""
    called = []
    for module in model.backbone.modules():
        module.register_forward_hook(lambda *_: called.append(""))
    with torch.random.fork_rng():
        torch.manual_seed(0)  # for stochastic depth
        CausalObjective(model)(_images(), torch.eye(2, 14))["loss"].backward()
    return len(called)


def test_copies_predict_the_same(model):
    other = pickle.loads(pickle.dumps(model))  # noqa: S301
    assert torch.equal(other(_images()), model(_images()))
    assert other.pretrained_cfg == model.pretrained_cfg


def test_channels_last_is_kept_through_the_whole_model(model):
    """Check all maps from convolutions and encoder layers. A conversion would cost a copy."""
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    kept = {}

    def note(name, x):
        if isinstance(x, Tensor) and x.ndim == 4:
            kept[name] = x.is_contiguous(memory_format=torch.channels_last)

    for name, module in other.named_modules():
        if isinstance(module, torch.nn.Conv2d | causalcxr.layers.ACmix | causalcxr.layers.FeatureLearning):
            module.register_forward_hook(lambda _, inputs, output, name=name: note(name, output))
    logits = other(_images().to(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, model(_images()), rtol=1e-4, atol=1e-5)
    assert len(kept) > 10
    assert [name for name, channels_last in kept.items() if not channels_last] == []


@pytest.mark.parametrize("out_indices", [None, (0, -1)])
def test_features_only(model, out_indices):
    """Return all maps of the backbone or a selection."""
    arguments = timm.models.get_model_args(model) | {"features_only": True, "out_indices": out_indices}
    backbone = timm.create_model(model.pretrained_cfg["architecture"], **arguments).eval()
    backbone.model.backbone.load_state_dict(model.backbone.state_dict(), strict=False)
    maps = model.forward_intermediates(_images(), intermediates_only=True)
    expected = maps if out_indices is None else [maps[0], maps[-1]]
    torch.testing.assert_close(backbone(_images()), expected)
    assert backbone.feature_info.channels() == [x.shape[1] for x in expected]
    assert backbone.feature_info.reduction()[-1] == model.reduction
    assert {name.split(".")[1] for name, _ in backbone.named_parameters()} == {"backbone"}  # no unused parameters


def test_timm_does_not_decay_embeddings_and_positions(model):
    model = _trainable(model)
    optimizer = timm.optim.create_optimizer_v2(model, "adamw", weight_decay=0.05)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    kept = {name for name, p in model.named_parameters() if p.ndim > 1 and decay[id(p)] == 0}
    positions = ("pos_embed", "cls_token", "relative_position_bias_table", "label_embed.weight")
    assert kept == {name for name, _ in model.named_parameters() if name.endswith(positions)}
