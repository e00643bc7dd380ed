"""A whole model on each device: logits, losses, gradients, bank, adjustment, half precision, and no waiting."""

import copy
import math
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import Tensor

import causalcxr
from causalcxr import CausalCXR, CausalObjective
from causalcxr.layers import ConfounderBank
from causalcxr.losses import CausalLoss
from reference.comparison import DEVICES, normal, relative_error

ON_CUDA = DEVICES[1:]
NAME = "causal_test_resnet"


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True


def _model(seed: int = 0) -> CausalCXR:
    torch.manual_seed(seed)
    return causalcxr.create_model(NAME)


def _objective(seed: int = 0, size: int = 6) -> CausalObjective:
    model = _model(seed)
    bank = ConfounderBank(size, 14, model.head_hidden_size, num_strata=2)
    return CausalObjective(model, CausalLoss(), bank=bank)


def _images(batch: int = 4, size: int = 64) -> Tensor:
    return normal(batch, 3, size, size)


def _targets() -> Tensor:
    targets = (torch.arange(56).view(4, 14) % 3 == 0).double()
    targets[0, 0] = float("nan")
    return targets


STRATA = torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 5e-5)], ids=str)
def test_logits(dtype: torch.dtype, tolerance: float, device: str) -> None:
    model = _model().eval()
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(_images())
        given = model.to(device, dtype)(_images().to(device, dtype))
    assert relative_error(given.cpu(), expected) < tolerance


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 2e-2)], ids=str)
def test_losses_gradients_and_bank_over_steps(dtype: torch.dtype, tolerance: float, device: str) -> None:
    """In batches of four batch normalisation divides by small numbers, so that float32 is near only."""
    runs = []
    for place, kind in ((device, dtype), ("cpu", torch.float64)):
        objective = _objective().to(place, kind)
        for number in range(3):
            objective.zero_grad()
            images = (_images() + 0.1 * number).to(place, kind)
            losses = objective(images, _targets().to(place, kind), STRATA.to(place))
            losses["loss"].backward()
        runs.append((objective, losses))
    (given, losses), (expected, expected_losses) = runs
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected_losses[name].item(), rel=tolerance, abs=tolerance)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in expected.parameters() if p.grad is not None))
    for (name, mine), theirs in zip(given.named_parameters(), expected.parameters(), strict=True):
        error = (mine.grad.double().cpu() - theirs.grad).norm() if mine.grad is not None else torch.tensor(0.0)
        assert float(error) < tolerance * norm, name
    assert len(given.bank) == len(expected.bank) == 6
    assert given.bank.stored.device.type == device
    assert relative_error(given.bank.stored.double().cpu(), expected.bank.stored) < tolerance
    assert given.bank.strata.tolist() == expected.bank.strata.tolist() == [1, 0, 0, 1, 1, 0]


@pytest.mark.parametrize("device", DEVICES)
def test_adjusted_prediction(device: str) -> None:
    model = _model().eval()
    bank = ConfounderBank(8, 14, model.head_hidden_size)
    bank.update(normal(5, 14, model.head_hidden_size).float())
    expected = copy.deepcopy(model).double().predict_do(_images(), copy.deepcopy(bank).double())
    given = model.to(device).predict_do(_images().float().to(device), bank.to(device))
    torch.testing.assert_close(given.cpu().double(), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model.cpu().predict_do(_images().float(), bank.cpu()), given.cpu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_step_in_half_precision(dtype: torch.dtype, device: str) -> None:
    """Losses near those of float32, finite gradients, and weights that move."""
    objective, exact = _objective().to(device), _objective().to(device)
    optimizer = torch.optim.AdamW(objective.parameters(), 1e-3)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16, init_scale=256.0)
    inputs = _images().float().to(device), _targets().float().to(device), STRATA.to(device)
    before = [parameter.detach().clone() for parameter in objective.parameters()]
    with torch.autocast(device, dtype=dtype):
        losses = objective(*inputs)
    scaler.scale(losses["loss"]).backward()
    for name, loss in exact(*inputs).items():
        assert losses[name].item() == pytest.approx(loss.item(), rel=0.1, abs=0.05)
    scaler.step(optimizer)
    scaler.update()
    assert all(bool(p.grad.isfinite().all()) for p in objective.parameters() if p.grad is not None)
    moved = [bool((mine != old).any()) for mine, old in zip(objective.parameters(), before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("device", DEVICES)
def test_checkpointing_changes_memory_alone(device: str) -> None:
    plain, frugal = _objective().double().to(device), _objective().double().to(device)
    frugal.model.set_grad_checkpointing()
    inputs = _images().to(device), _targets().to(device), STRATA.to(device)
    for objective in (plain, frugal):
        objective(*inputs)["loss"].backward()
    for mine, theirs in zip(frugal.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-6, atol=1e-9)


def _step(objective: CausalObjective, device: str) -> Callable[[], None]:
    """Return a whole training step on tensors that are on the device already."""
    fused = device == "cuda"
    optimizer = torch.optim.AdamW(objective.parameters(), 1e-3, fused=fused, foreach=not fused)
    average = ModelEmaV3(objective.model, decay=0.99)
    inputs = _images().float().to(device), _targets().float().to(device), STRATA.to(device)

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16):
            losses = objective(*inputs)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(objective.model)

    return step


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("device", DEVICES)
def test_a_training_step_never_waits_for_the_device(device: str) -> None:
    """Forward, losses, backward, fused AdamW, moving average and bank."""
    step = _step(_objective().to(device), device)
    step()  # makes the state of the optimizer
    if device == "cpu":
        step()
        return
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = {f"{w.filename}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message)}
    assert not waits, f"the step waits at {', '.join(sorted(waits))}"
    try:
        torch.cuda.set_sync_debug_mode("error")
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("device", ON_CUDA)
def test_prediction_never_waits_for_the_device(device: str) -> None:
    model = _model().eval().to(device)
    images = _images().float().to(device)
    with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16):
        model(images)
        try:
            torch.cuda.set_sync_debug_mode("error")
            model(images)
        finally:
            torch.cuda.set_sync_debug_mode("default")
