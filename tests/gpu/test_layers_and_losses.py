"""Layers, losses and head on each device against the CPU in float64; on the CPU itself that leaves the types."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from causalcxr import CausalHead, layers
from causalcxr.losses import asymmetric_loss, backdoor_loss, backdoor_weights, classification_loss, uniform_kl_loss
from reference.comparison import DEVICES, normal, randomised, relative_error

# Largest error in units of the largest value. Convolutions in float32 may be computed by transforms, which round more.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}

Case = tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]


def _queries() -> tuple[Tensor, ...]:
    return normal(2, 5, 16), normal(2, 54, 16, seed=2)


CASES: dict[str, Case] = {
    "ACmix": (lambda: layers.ACmix(8, 16, num_heads=4), lambda: (normal(2, 8, 9, 6),)),
    "ACmix on a larger map": (lambda: layers.ACmix(8, 16, num_heads=4), lambda: (normal(2, 8, 20, 24),)),
    "ACmix by blocks": (lambda: layers.ACmix(8, 16, num_heads=4), lambda: (normal(2, 8, 33, 32),)),
    "ACmix smaller than its window": (lambda: layers.ACmix(8, 16, num_heads=4), lambda: (normal(2, 8, 2, 3),)),
    "FeatureLearning": (lambda: layers.FeatureLearning(8, 16, num_heads=4), lambda: (normal(2, 8, 9, 6),)),
    "cross-attention": (lambda: layers.DisentangledCrossAttention(16, num_heads=4), _queries),
    "cross-attention, as printed": (
        lambda: layers.DisentangledCrossAttention(16, num_heads=4, complement="paper"),
        _queries,
    ),
    "CausalDecoder": (lambda: layers.CausalDecoder(5, 16, num_heads=4), lambda: (normal(2, 16, 9, 6),)),
    "GroupLinear": (lambda: layers.GroupLinear(5, 16), lambda: (normal(4, 5, 16),)),
    "BackdoorIntervention": (
        lambda: layers.BackdoorIntervention(5, 16),
        lambda: (normal(4, 5, 16), normal(4, 5, 16, seed=2)),
    ),
    "CausalHead": (lambda: CausalHead(8, 5, dim=16, num_heads=4), lambda: (normal(3, 8, 9, 6), normal(7, 5, 16))),
}


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """Matrix products and convolutions in float32 where float32 is asked for."""
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True


def _tensors(output: object) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [tensor for tensor in output if tensor is not None]


def _results(module: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """Return outputs, and the gradients of a scalar by inputs and parameters."""
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    outputs = _tensors(module(*inputs))
    by = [*inputs, *module.parameters()]
    scalar = sum((tensor.double() * _direction(tensor)).mean() for tensor in outputs)
    return [*outputs, *torch.autograd.grad(scalar, by, allow_unused=True, materialize_grads=True)]


def _direction(like: Tensor) -> Tensor:
    return normal(*like.shape, seed=3).to(like.device)


def _worst(given: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest relative error; tensors that should vanish are compared with 1."""
    errors = []
    for mine, theirs in zip(given, expected, strict=True):
        mine, theirs = mine.detach().double().cpu(), theirs.detach().double()
        assert bool(mine.isfinite().all())
        tiny = float(theirs.abs().max()) < 1e-12 if theirs.numel() else True
        errors.append(float((mine - theirs).abs().max()) if tiny else relative_error(mine, theirs))
    return max(errors)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients(case: str, dtype: torch.dtype, device: str) -> None:
    build, inputs = CASES[case]
    module = randomised(build(), scale=0.3).to(dtype)
    rounded = [tensor.to(dtype) for tensor in inputs()]
    expected = _results(copy.deepcopy(module).double(), [tensor.double() for tensor in rounded])
    given = _results(module.to(device), [tensor.to(device) for tensor in rounded])
    assert all(tensor.dtype == dtype and tensor.device.type == device for tensor in given)
    in_float32 = ("CausalDecoder", "CausalHead")  # positions, whatever the type
    assert _worst(given, expected) < max(TOLERANCE[dtype], 1e-6 if case in in_float32 else 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_autocast_is_near(case: str, dtype: torch.dtype, device: str) -> None:
    build, inputs = CASES[case]
    module = randomised(build(), scale=0.3)
    with torch.no_grad():
        expected = _tensors(module(*inputs()))
        module = module.float().to(device)
        with torch.autocast(device, dtype=dtype):
            given = _tensors(module(*(tensor.float().to(device) for tensor in inputs())))
    assert _worst(given, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_gradients_under_autocast_are_finite(case: str, dtype: torch.dtype, device: str) -> None:
    build, inputs = CASES[case]
    module = build().to(device)
    with torch.autocast(device, dtype=dtype):
        outputs = _tensors(module(*(tensor.float().to(device) for tensor in inputs())))
    sum(tensor.float().square().mean() for tensor in outputs).backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


NAN = float("nan")
TARGETS = torch.tensor([[0.0, 1.0, 0.0, 0.25], [1.0, NAN, 0.0, NAN], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)


def _backdoor(logits: Tensor, targets: Tensor) -> Tensor:
    prior = torch.tensor([0.3, 0.7], dtype=torch.float64).to(logits.device)
    return backdoor_loss(torch.stack([logits, 2 * logits], dim=1), targets, prior=prior)


def _weighted(logits: Tensor, targets: Tensor) -> Tensor:
    weight = (torch.arange(12, dtype=torch.float64).view(3, 4) / 6).to(logits.device)
    return classification_loss(logits, targets, weight=weight)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": classification_loss,
    "weighted": _weighted,
    "asymmetric": asymmetric_loss,
    "backdoor": _backdoor,
    "uniform, categorical": lambda logits, _: uniform_kl_loss(logits),
    "uniform, bernoulli": lambda logits, _: uniform_kl_loss(logits, uniform="bernoulli"),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_their_gradients(loss: str, dtype: torch.dtype, device: str) -> None:
    logits = (3 * normal(3, 4)).to(dtype)
    results = []
    for place, kind in ((device, dtype), ("cpu", torch.float64)):
        moved = logits.to(place, kind).requires_grad_()
        value = LOSSES[loss](moved, TARGETS.to(place, kind))
        results.append([value, *torch.autograd.grad(value, moved)])
    assert _worst(results[0][:1], results[1][:1]) < min(TOLERANCE[dtype], 1e-5)  # in float32 at least
    assert _worst(results[0][1:], results[1][1:]) < TOLERANCE[dtype]


@pytest.mark.parametrize("device", DEVICES)
def test_weights_of_labels(device: str) -> None:
    targets, strata = (normal(64, 3) > 0).double(), torch.arange(64) % 3
    given = backdoor_weights(targets.to(device), strata.to(device))
    assert given.device.type == device
    torch.testing.assert_close(given.cpu(), backdoor_weights(targets, strata))
