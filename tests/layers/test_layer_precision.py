"""Every layer in float32, float16 and bfloat16 against itself in float64, on the same rounded numbers."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from causalcxr import layers
from reference.comparison import DEVICES, TOLERANCE, normal, randomised, relative_error

LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "ACmix": (lambda: layers.ACmix(8, 16, num_heads=4), lambda: (normal(2, 8, 9, 6),)),
    "ACmix on a large map": (lambda: layers.ACmix(8, 16, num_heads=4), lambda: (normal(1, 8, 33, 32),)),
    "ACmix smaller than its window": (lambda: layers.ACmix(8, 16, num_heads=4), lambda: (normal(2, 8, 2, 3),)),
    "FeatureLearning": (lambda: layers.FeatureLearning(8, 16, num_heads=4), lambda: (normal(2, 8, 9, 6),)),
    "cross-attention, normalized": (
        lambda: layers.DisentangledCrossAttention(16, num_heads=4),
        lambda: (normal(2, 5, 16), normal(2, 54, 16, seed=2)),
    ),
    "cross-attention, paper": (
        lambda: layers.DisentangledCrossAttention(16, num_heads=4, complement="paper"),
        lambda: (normal(2, 5, 16), normal(2, 54, 16, seed=2)),
    ),
    "CausalDecoder": (lambda: layers.CausalDecoder(5, 16, num_heads=4), lambda: (normal(2, 16, 9, 6),)),
    "GroupLinear": (lambda: layers.GroupLinear(5, 16), lambda: (normal(2, 5, 16),)),
    "BackdoorIntervention": (
        lambda: layers.BackdoorIntervention(5, 16),
        lambda: (normal(4, 5, 16), normal(4, 5, 16, seed=2)),
    ),
}


def _tensors(output: object) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [tensor for tensor in output if tensor is not None]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_output_is_that_of_float64_up_to_rounding(layer: str, dtype: torch.dtype, device: str) -> None:
    build, inputs = LAYERS[layer]
    low = randomised(build(), scale=0.3).to(dtype)
    exact = copy.deepcopy(low).double()
    rounded = [tensor.to(dtype) for tensor in inputs()]
    with torch.no_grad():
        expected = _tensors(exact(*(tensor.double() for tensor in rounded)))
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            given = _tensors(low.to(device)(*(tensor.to(device) for tensor in rounded)))
    assert [tensor.dtype for tensor in given] == [dtype] * len(expected)
    errors = [relative_error(*pair) for pair in zip(given, expected, strict=True)]
    assert max(errors) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_in_half_precision_are_finite(layer: str, dtype: torch.dtype) -> None:
    build, inputs = LAYERS[layer]
    module = randomised(build(), scale=0.3).to(dtype)
    outputs = _tensors(module(*(tensor.to(dtype) for tensor in inputs())))
    sum(tensor.float().square().mean() for tensor in outputs).backward()
    for parameter in module.parameters():
        assert bool(parameter.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_output_under_autocast_is_that_of_float64_up_to_rounding(layer: str, dtype: torch.dtype) -> None:
    """The parameters stay in float32 and are rounded on the way, once more than in the test above."""
    build, inputs = LAYERS[layer]
    module = randomised(build(), scale=0.3)
    with torch.no_grad():
        expected = _tensors(module(*inputs()))
        with torch.autocast("cpu", dtype=dtype):
            given = _tensors(module.float()(*(tensor.float() for tensor in inputs())))
    assert max(relative_error(*pair) for pair in zip(given, expected, strict=True)) < 2 * TOLERANCE[dtype]


def test_long_queries_and_keys_do_not_overflow_float16() -> None:
    layer = layers.DisentangledCrossAttention(16, num_heads=1).half()
    with torch.no_grad():
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj):
            projection.weight.copy_(torch.eye(16))
            if projection.bias is not None:
                projection.bias.zero_()
        query = torch.full((1, 1, 16), 100.0, dtype=torch.float16)  # its product with itself is 160,000
        output = layer(query, query.repeat(1, 3, 1), need_attention=True)
    torch.testing.assert_close(output.attention, torch.full((1, 1, 1, 3), 1 / 3, dtype=torch.float16))
    assert bool(output.causal.isfinite().all())
