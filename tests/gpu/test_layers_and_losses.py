"""Every layer and loss on each device against the CPU in float64; on the CPU itself that leaves the types."""

import copy

import pytest
import torch

from causalcxr.losses import backdoor_weights
from reference.cases import LAYERS, LOSSES, TARGETS, tensors
from reference.comparison import DEVICES, normal, randomised, relative_error

pytestmark = pytest.mark.usefixtures("full_precision")

# Largest error in units of the largest value. Convolutions in float32 may be computed by transforms, which round more.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}


def _results(module, inputs):
    """Return outputs, and the gradients of a scalar by inputs and parameters."""
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    outputs = tensors(module(*inputs))
    scalar = sum((x.double() * normal(*x.shape, seed=3).to(x.device)).mean() for x in outputs)
    by = [*inputs, *module.parameters()]
    return [*outputs, *torch.autograd.grad(scalar, by, allow_unused=True, materialize_grads=True)]


def _worst(given, expected):
    """Return the largest relative error; tensors that should vanish are compared with 1."""
    errors = []
    for mine, theirs in zip(given, expected, strict=True):
        assert bool(mine.isfinite().all())
        tiny = float(theirs.detach().abs().max()) < 1e-12
        errors.append(float(mine.detach().abs().max()) if tiny else relative_error(mine, theirs))
    return max(errors)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", LAYERS)
def test_outputs_and_gradients(case, dtype, device):
    layer, inputs = LAYERS[case]()
    layer, rounded = randomised(layer, scale=0.3).to(dtype), [tensor.to(dtype) for tensor in inputs]
    expected = _results(copy.deepcopy(layer).double(), [tensor.double() for tensor in rounded])
    given = _results(layer.to(device), [tensor.to(device) for tensor in rounded])
    assert all(tensor.dtype == dtype and tensor.device.type == device for tensor in given)
    in_float32 = ("CausalDecoder", "CausalHead")  # positions, whatever the type
    assert _worst(given, expected) < max(TOLERANCE[dtype], 1e-6 if case in in_float32 else 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", LAYERS)
def test_autocast_is_near_and_has_finite_gradients(case, dtype, device):
    layer, inputs = LAYERS[case]()
    layer = randomised(layer, scale=0.3)
    expected = tensors(layer(*inputs))
    layer = layer.float().to(device)
    with torch.autocast(device, dtype=dtype):
        given = tensors(layer(*(tensor.float().to(device) for tensor in inputs)))
    assert _worst(given, expected) < TOLERANCE[dtype]
    sum(tensor.float().square().mean() for tensor in given).backward()
    assert all(bool(p.grad.isfinite().all()) for p in layer.parameters() if p.grad is not None)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_their_gradients(loss, dtype, device):
    logits, targets = (3 * normal(3, 4)).to(dtype), TARGETS.to(dtype)
    results = []
    for place, kind in ((device, dtype), ("cpu", torch.float64)):
        moved = logits.to(place, kind).requires_grad_()
        value = LOSSES[loss](moved, targets.to(place, kind))
        results.append([value, *torch.autograd.grad(value, moved)])
    assert _worst(results[0][:1], results[1][:1]) < min(TOLERANCE[dtype], 1e-5)  # in float32 at least
    assert _worst(results[0][1:], results[1][1:]) < TOLERANCE[dtype]


@pytest.mark.parametrize("device", DEVICES)
def test_weights_of_labels(device):
    targets, strata = (normal(64, 3) > 0).double(), torch.arange(64) % 3
    given = backdoor_weights(targets.to(device), strata.to(device))
    assert given.device.type == device
    torch.testing.assert_close(given.cpu(), backdoor_weights(targets, strata))
