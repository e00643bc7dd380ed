"""A whole model on each device: losses, gradients, bank, adjustment, half precision, no waiting, captured graphs."""

import copy
import math
import warnings

import pytest
import torch
from timm.utils import ModelEmaV3

import causalcxr
from causalcxr import AgreementObjective, CausalObjective
from causalcxr.layers import ACmix, ConfounderBank
from causalcxr.losses import AsymmetricLoss, CausalLoss
from reference.comparison import DEVICES, normal, relative_error

pytestmark = pytest.mark.usefixtures("full_precision")
ON_CUDA = DEVICES[1:]
TARGETS = (torch.arange(56).view(4, 14) % 3 == 0).double().masked_fill(torch.arange(56).view(4, 14) == 0, math.nan)


def _model():
    torch.manual_seed(0)
    return causalcxr.create_model("causal_test_resnet")


def _objective(criterion=None):
    model = _model()
    return CausalObjective(model, criterion, bank=ConfounderBank(6, 14, model.head_hidden_size))


def _images():
    return normal(4, 3, 64, 64)


def _inputs(device, dtype=torch.float32):
    return _images().to(device, dtype), TARGETS.to(device, dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "device"),
    [
        (torch.float32, 2e-2, "cpu"),
        pytest.param(torch.float32, 2e-2, "cuda", marks=ON_CUDA[0].marks),
        pytest.param(torch.float64, 1e-7, "cuda", marks=ON_CUDA[0].marks),
    ],
)
def test_losses_gradients_and_bank_over_steps(dtype, tolerance, device):
    """In batches of four batch normalisation divides by small numbers, so that float32 is near only."""
    runs = []
    for place, kind in ((device, dtype), ("cpu", torch.float64)):
        objective = _objective().to(place, kind)
        images, targets = _inputs(place, kind)
        for number in range(3):
            objective.zero_grad()
            losses = objective(images + 0.1 * number, targets)
            losses["loss"].backward()
        runs.append((objective, losses))
    (given, losses), (expected, expected_losses) = runs
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected_losses[name].item(), rel=tolerance, abs=tolerance)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in expected.parameters()))
    for (name, mine), theirs in zip(given.named_parameters(), expected.parameters(), strict=True):
        assert float((mine.grad.double().cpu() - theirs.grad).norm()) < tolerance * norm, name
    assert given.bank.stored.device.type == device
    assert relative_error(given.bank.stored, expected.bank.stored) < tolerance


@pytest.mark.parametrize("device", DEVICES)
def test_adjusted_prediction(device):
    model = _model().eval()
    bank = ConfounderBank(8, 14, model.head_hidden_size)
    bank.update(normal(5, 14, model.head_hidden_size).float())
    expected = copy.deepcopy(model).double().predict_do(_images(), copy.deepcopy(bank).double())
    given = model.to(device).predict_do(_images().float().to(device), bank.to(device))
    torch.testing.assert_close(given.cpu().double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_step_in_half_precision(dtype, device):
    """Losses near those of float32, finite gradients, and weights that move."""
    objective, exact = _objective().to(device), _objective().to(device)
    optimizer = torch.optim.AdamW(objective.parameters(), 1e-3)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16, init_scale=256.0)
    before = [parameter.detach().clone() for parameter in objective.parameters()]
    with torch.autocast(device, dtype=dtype):
        losses = objective(*_inputs(device))
    scaler.scale(losses["loss"]).backward()
    for name, loss in exact(*_inputs(device)).items():
        assert losses[name].item() == pytest.approx(loss.item(), rel=0.1, abs=0.05)
    scaler.step(optimizer)
    scaler.update()
    assert all(bool(p.grad.isfinite().all()) for p in objective.parameters())
    moved = [bool((mine != old).any()) for mine, old in zip(objective.parameters(), before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)


def _causal():
    objective = _objective(CausalLoss(partners="random", classification=AsymmetricLoss()))
    return objective, lambda images, targets: objective(images, targets, weight=targets + 1)


def _agreement():
    objective = AgreementObjective(_model())
    return objective, objective


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("device", ON_CUDA)
@pytest.mark.parametrize("build", [_causal, _agreement])
def test_a_training_step_never_waits_for_the_device(build, device):
    """Forward, losses, backward, fused AdamW, moving average and bank."""
    objective, losses = build()
    optimizer = torch.optim.AdamW(objective.to(device).parameters(), 1e-3, fused=True)
    average, inputs = ModelEmaV3(objective.model, decay=0.99), _inputs(device)

    def step():
        with torch.autocast(device, dtype=torch.bfloat16, enabled=build is _causal):
            loss = losses(*inputs)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(objective.model)

    step()  # chooses kernels and makes the state of the optimizer
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
            torch.ones(1, device=device).item()  # waits, as a control
    finally:
        torch.cuda.set_sync_debug_mode("default")
    *waits, _ = [f"{w.filename}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message)]
    assert not waits


@pytest.mark.parametrize("device", ON_CUDA)
def test_films_are_scored_as_on_the_cpu(device):
    films, model = list(normal(7, 1, 96, 80).float().sigmoid()), _model().eval()
    expected = torch.stack([logits for _, logits, _ in causalcxr.predict(model, films)])
    predictions = causalcxr.predict(model.to(device), films, batch_size=3, workers=4)
    assert relative_error(torch.stack([logits for _, logits, _ in predictions]), expected.double()) < 1e-3


@pytest.mark.parametrize("device", ON_CUDA)
def test_exported_program(device):
    model, images = _model().eval().to(device), torch.cat([_images(), _images()]).float().to(device)
    program = torch.export.export(model, (images[:4],), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},))
    for size in (4, 7):
        assert relative_error(program.module()(images[:size]), model(images[:size]).double()) < 1e-3


@pytest.mark.parametrize("device", ON_CUDA)
def test_compiled_attention_in_half_precision(device):
    """The mask lay column by column once, which cuDNN does not read."""
    torch.compiler.reset()
    torch.manual_seed(0)
    layer, x = ACmix(64, 64, num_heads=2).eval().to(device), normal(2, 64, 16, 16).float().to(device)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        assert relative_error(torch.compile(layer)(x), layer(x).double()) < 0.05


@pytest.mark.parametrize("device", ON_CUDA)
def test_compiled_training_steps_are_one_graph(device):
    torch.compiler.reset()
    plain = _objective().to(device)
    captured = copy.deepcopy(plain)
    step = torch.compile(captured, fullgraph=True)
    for _ in range(2):
        results = []
        for run, objective in ((step, captured), (plain, plain)):
            objective.zero_grad()
            losses = run(*_inputs(device))
            losses["loss"].backward()
            results.append({name: loss.item() for name, loss in losses.items()})
        assert results[0] == pytest.approx(results[1], rel=1e-2, abs=1e-3)
    norm = sum(float(p.grad.square().sum()) for p in plain.parameters()) ** 0.5
    for mine, theirs in zip(captured.parameters(), plain.parameters(), strict=True):
        assert float((mine.grad - theirs.grad).norm()) < 0.05 * norm
    assert relative_error(captured.bank.stored, plain.bank.stored.double()) < 0.05
