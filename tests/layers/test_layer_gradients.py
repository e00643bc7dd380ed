"""Gradients of every layer by finite differences, with respect to its inputs and all its parameters."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from causalcxr import layers
from reference.comparison import normal, randomised

Case = tuple[nn.Module, tuple[Tensor, ...], dict[str, object]]


def _acmix(height: int, width: int) -> Case:
    return layers.ACmix(2, 4, num_heads=2, attn_kernel_size=3), (normal(1, 2, height, width),), {}


def _acmix_smaller_than_its_window() -> Case:
    return layers.ACmix(2, 2, num_heads=1), (normal(1, 2, 2, 3),), {}


def _feature_learning() -> Case:
    return layers.FeatureLearning(2, 4, num_heads=2), (normal(1, 2, 2, 3),), {}


def _cross_attention(complement: str, need_attention: bool) -> Case:
    layer = layers.DisentangledCrossAttention(4, num_heads=2, complement=complement)
    inputs = (normal(2, 2, 4), normal(2, 3, 4, seed=2), normal(2, 3, 4, seed=3))
    return layer, inputs, {"need_attention": need_attention}


def _decoder() -> Case:
    return layers.CausalDecoder(2, 4, depth=2, num_heads=2), (normal(2, 4, 1, 3),), {}


def _group_linear() -> Case:
    return layers.GroupLinear(3, 2), (normal(2, 3, 2),), {}


def _backdoor(combine: str) -> Case:
    return layers.BackdoorIntervention(2, 3, combine=combine), (normal(3, 2, 3), normal(4, 2, 3, seed=2)), {}


CASES: dict[str, Callable[[], Case]] = {
    "ACmix": lambda: _acmix(3, 4),
    "ACmix on 2x3": _acmix_smaller_than_its_window,
    "FeatureLearning": _feature_learning,
    "DisentangledCrossAttention fused": lambda: _cross_attention("normalized", False),
    "DisentangledCrossAttention explicit": lambda: _cross_attention("paper", True),
    "CausalDecoder": _decoder,
    "GroupLinear": _group_linear,
    "BackdoorIntervention add": lambda: _backdoor("add"),
    "BackdoorIntervention cat": lambda: _backdoor("cat"),
}


def _tensors(output: object) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else tuple(t for t in output if t is not None)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_function(case: str) -> None:
    layer, inputs, options = CASES[case]()
    names, parameters = zip(*randomised(layer).named_parameters(), strict=True)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        weights = dict(zip(names, tensors[len(inputs) :], strict=True))
        return _tensors(functional_call(layer, weights, tensors[: len(inputs)], options))

    arguments = [tensor.detach().requires_grad_() for tensor in (*inputs, *parameters)]
    assert torch.autograd.gradcheck(function, arguments, fast_mode=True)


@pytest.mark.parametrize("case", CASES)
def test_grad_mode_stays_as_it_is(case: str) -> None:
    layer, inputs, options = CASES[case]()
    layer.double()
    assert all(tensor.requires_grad for tensor in _tensors(layer(*inputs, **options)))
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert not any(tensor.requires_grad for tensor in _tensors(layer(*inputs, **options)))
        assert not torch.is_grad_enabled()
