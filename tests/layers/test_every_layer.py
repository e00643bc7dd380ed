"""The contract of all layers: the reference's outputs, gradients, half precision, every device, and helpful errors."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from causalcxr.layers import (
    ACmix,
    BackdoorIntervention,
    CausalDecoder,
    ConfounderBank,
    DisentangledCrossAttention,
    FeatureLearning,
    GroupLinear,
)
from reference.cases import LAYERS, tensors
from reference.comparison import DEVICES, EXACT, LOOSE, TOLERANCE, normal, randomised, relative_error

pytestmark = pytest.mark.usefixtures("full_precision")
IN_FLOAT32 = ("CausalDecoder", "CausalHead")  # their positions, for any data type
WITH_ATTENTION = ("cross-attention", *IN_FLOAT32)  # as their last output, when asked for
HALF = [torch.float16, torch.bfloat16]
ON_CUDA = [pytest.param("cuda", dtype, marks=DEVICES[1].marks) for dtype in (torch.float64, torch.float32)]
PLACES = [*(("cpu", dtype) for dtype in TOLERANCE), *ON_CUDA]


@pytest.mark.parametrize("case", LAYERS)
def test_outputs_equal_the_reference(case):
    layer, inputs, reference = LAYERS[case]()
    expected = reference(*inputs, randomised(layer).state_dict())
    near = {"rtol": 0, "atol": 2e-5} if case.startswith(IN_FLOAT32) else EXACT
    output = layer(*inputs)
    if case.startswith(WITH_ATTENTION):
        assert output.attention is None
        torch.testing.assert_close(output[:-1], expected[:-1], **near)
        output = layer(*inputs, need_attention=True)
    torch.testing.assert_close(output, expected, **near)


def test_new_classifier_starts_like_a_linear_layer_of_torch():
    torch.manual_seed(0)
    layer = GroupLinear(5, 16)
    torch.manual_seed(0)
    torch.testing.assert_close(layer.state_dict(), nn.Linear(16, 5).state_dict())


@pytest.mark.parametrize("case", LAYERS)
def test_gradients_are_those_of_the_function(case):
    """Use finite differences with respect to inputs and all parameters. With attention, the code is another."""
    layer, inputs, _ = LAYERS[case]()
    names, parameters = zip(*randomised(layer).named_parameters(), strict=True)
    options = [{}, {"need_attention": True}] if case.startswith(WITH_ATTENTION) else [{}]

    def function(*given):
        weights = dict(zip(names, given[len(inputs) :], strict=True))
        outputs = [functional_call(layer, weights, given[: len(inputs)], each) for each in options]
        return tuple(tensor for output in outputs for tensor in tensors(output))

    arguments = [tensor.detach().requires_grad_() for tensor in (*inputs, *parameters)]
    assert torch.autograd.gradcheck(function, arguments, fast_mode=True)


def _results(module, inputs):
    """Return the outputs, and the gradients of a scalar with respect to inputs and parameters."""
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    outputs = tensors(module(*inputs))
    scalar = sum((x.double() * normal(*x.shape, seed=3).to(x.device)).mean() for x in outputs)
    by = [*inputs, *module.parameters()]
    return outputs, torch.autograd.grad(scalar, by, allow_unused=True, materialize_grads=True)


def _worst(given, expected):
    """Return the largest relative error, or absolute error for tensors that should vanish."""
    errors = []
    for mine, theirs in zip(given, expected, strict=True):
        assert bool(mine.isfinite().all())
        tiny = float(theirs.detach().abs().max()) < 1e-12
        errors.append(float(mine.detach().abs().max()) if tiny else relative_error(mine, theirs))
    return max(errors)


@pytest.mark.parametrize(("device", "dtype"), PLACES, ids=str)
@pytest.mark.parametrize("case", LAYERS)
def test_outputs_and_gradients_are_those_in_float64_up_to_rounding(case, dtype, device):
    layer, inputs, _ = LAYERS[case]()
    layer, rounded = randomised(layer, scale=0.3).to(dtype), [tensor.to(dtype) for tensor in inputs]
    expected = _results(copy.deepcopy(layer).double(), [tensor.double() for tensor in rounded])
    given = _results(layer.to(device), [tensor.to(device) for tensor in rounded])
    assert all(tensor.dtype == dtype and tensor.device.type == device for part in given for tensor in part)
    loose = max(LOOSE[dtype], 1e-6 if case.startswith(IN_FLOAT32) else 0)
    outputs, gradients = (_worst(*pair) for pair in zip(given, expected, strict=True))
    assert outputs < (loose if device == "cuda" else (4 if case.startswith("CausalHead") else 1) * TOLERANCE[dtype])
    assert gradients < loose or dtype in HALF  # checked to be finite


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("case", LAYERS)
def test_autocast_is_near_and_has_finite_gradients(case, dtype, device):
    layer, inputs, _ = LAYERS[case]()
    layer = randomised(layer, scale=0.3)
    expected = tensors(layer(*inputs))
    layer = layer.float().to(device)
    with torch.autocast(device, dtype=dtype):
        given = tensors(layer(*(tensor.float().to(device) for tensor in inputs)))
    assert _worst(given, expected) < LOOSE[dtype]
    sum(tensor.float().square().mean() for tensor in given).backward()
    assert all(bool(p.grad.isfinite().all()) for p in layer.parameters() if p.grad is not None)


X = torch.zeros
BAD = [
    (lambda: ACmix(3, 10, num_heads=4), ValueError, "10 and 4"),
    (lambda: ACmix(3, 4, num_heads=2, attn_kernel_size=4), ValueError, "odd"),
    (lambda: ACmix(3, 4, kernel_size=2), ValueError, "7 and 2"),
    (lambda: ACmix(3, 4, kernel_size=-1), ValueError, "7 and -1"),
    (lambda: ACmix(3, 4)(X(2, 4, 5, 5)), ValueError, r"C=3, but got \(2, 4, 5, 5\)"),
    (lambda: ACmix(3, 4)(X(3, 5, 5)), ValueError, "x must"),
    (lambda: ACmix(3, 4)(X(1, 3, 5, 5, dtype=torch.uint8)), TypeError, "x must"),
    (lambda: FeatureLearning(5, 4, num_heads=2)(X(1, 4, 3, 3)), ValueError, "x must"),
    (lambda: DisentangledCrossAttention(6, num_heads=4), ValueError, "6 and 4"),
    (lambda: DisentangledCrossAttention(6, complement="printed", num_heads=3), ValueError, "'paper'"),
    (lambda: DisentangledCrossAttention(6, num_heads=3)(X(2, 4, 5), X(2, 5, 6)), ValueError, "query must"),
    (lambda: DisentangledCrossAttention(6, num_heads=3)(X(2, 4, 6), X(1, 5, 6)), ValueError, "key must"),
    (lambda: DisentangledCrossAttention(6, num_heads=3)(X(2, 4, 6), X(2, 5, 6), X(2, 4, 6)), ValueError, "value must"),
    (lambda: DisentangledCrossAttention(6, num_heads=3)(X(2, 4, 6), X(2, 5, 6), X(1, 5, 6)), ValueError, "value must"),
    (lambda: CausalDecoder(3, 6, num_heads=2), ValueError, "multiple of 4"),
    (lambda: CausalDecoder(3, 8, depth=0), ValueError, "depth"),
    (lambda: CausalDecoder(3, 8)(X(1, 4, 2, 3)), ValueError, "features must"),
    (lambda: GroupLinear(3, 5)(X(2, 3, 4)), ValueError, "x must"),
    (lambda: GroupLinear(3, 4)(X(2, 1, 4)), ValueError, "x must"),  # it would broadcast
    (lambda: GroupLinear(3, 4)([[1.0]]), TypeError, "x must"),
    (lambda: BackdoorIntervention(3, 4, combine="mul"), ValueError, "'cat'"),
    (lambda: BackdoorIntervention(3, 4)(X(2, 3, 5), X(2, 3, 4)), ValueError, "causal must"),
    (lambda: BackdoorIntervention(3, 4)(X(2, 1, 4), X(2, 3, 4)), ValueError, "causal must"),
    (lambda: BackdoorIntervention(3, 4)(X(2, 3, 4), X(5, 2, 4)), ValueError, "confounders must"),
    (lambda: ConfounderBank(0, 2, 3), ValueError, "positive"),
    (lambda: ConfounderBank(5, 2, 3).update(X(4, 1, 3)), ValueError, "features must"),
    (lambda: ConfounderBank(5, 2, 3).update(X(4, 2, 1)), ValueError, "features must"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
