"""Traced, exported, compiled and ONNX graphs agree with the models."""

from functools import partial

import pytest
import torch
from timm.layers import DropPath
from torch._dynamo.testing import CompileCounterWithBackend

from causalcxr import CausalObjective
from causalcxr.layers import ConfounderBank
from causalcxr.losses import CausalLoss

# The smallest model of each family.
FAMILIES = (
    "causal_convnext_tiny",
    "causal_densenet121",
    "causal_efficientnet_lite0",
    "causal_resnet18",
    "causal_swin_tiny",
    "causal_test_resnet",
    "causal_vit_small_patch16",
)
DYNAMIC = torch.export.Dim.DYNAMIC  # raises if the graph would only work for one size
ANY_BATCH = ({0: DYNAMIC},), [(1, 96, 128), (5, 96, 128)]
# A map smaller than the attention window, sides not divisible by the stride, and several blocks of queries.
SIZES = [(1, 32, 32), (3, 212, 172), (1, 320, 352)]
ANY_SIZE = ({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},), SIZES
# The padding of these depends on the size: export runs for over 19 minutes, or fixes the number of windows.
FIXED_SIZE = {"causal_efficientnet_lite0": ANY_BATCH, "causal_swin_tiny": ANY_BATCH}


def _families(at_once, slow):
    """Parametrize by family, of which all but one are marked slow."""
    return pytest.mark.parametrize("name", [at_once, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)])


def _images(batch=2, height=96, width=128):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def _assert_agree(run, model, shapes):
    for shape in shapes:
        with torch.no_grad():
            torch.testing.assert_close(run(_images(*shape)), model(_images(*shape)), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit.trace")
@pytest.mark.parametrize("traced_at", [(2, 96, 128), (2, 320, 352)])
def test_traced_model_takes_any_size(small, traced_at):
    """Trace with a small map, attended to at once, and a large one, attended to in blocks."""
    model = small("causal_test_resnet").eval()
    _assert_agree(torch.jit.trace(model, _images(*traced_at)), model, SIZES)


@_families("causal_test_resnet", [name for name in FAMILIES if name != "causal_test_resnet"])
def test_exported_program_takes_any_batch_and_size(small, name, tmp_path):
    model, (dynamic, shapes) = small(name).eval(), FIXED_SIZE.get(name, ANY_SIZE)
    program = torch.export.export(model, (_images(),), dynamic_shapes=dynamic)
    if name in ("causal_densenet121", "causal_resnet18"):  # torch cannot save the padding of the others
        torch.export.save(program, tmp_path / "model.pt2")
        program = torch.export.load(tmp_path / "model.pt2")
    _assert_agree(program.module(), model, shapes)


@pytest.mark.integration
@_families("causal_resnet18", ["causal_convnext_tiny", "causal_vit_small_patch16", "causal_swin_tiny"])
def test_onnx_takes_any_batch_and_size(small, name, tmp_path):
    pytest.importorskip("onnxscript", reason="comes with causalcxr[onnx]")
    onnxruntime = pytest.importorskip("onnxruntime", reason="comes with causalcxr[onnx]")
    model, (dynamic, shapes) = small(name).eval(), FIXED_SIZE.get(name, ANY_SIZE)
    torch.onnx.export(model, (_images(),), dynamo=True, dynamic_shapes=dynamic, verbose=False).save(tmp_path / "model")
    session = onnxruntime.InferenceSession(tmp_path / "model", providers=["CPUExecutionProvider"])
    name_of_images = session.get_inputs()[0].name
    run = lambda images: torch.from_numpy(session.run(None, {name_of_images: images.numpy()})[0])  # noqa: E731
    _assert_agree(run, model, shapes)


def test_compiled_causal_forward_is_one_graph(small):
    torch.compiler.reset()
    model = small("causal_vit_small_patch16").eval()
    compiled = torch.compile(model.forward_causal, backend="eager", fullgraph=True)
    with torch.no_grad():
        output = compiled(_images(3), need_attention=True)
        torch.testing.assert_close(output, model.forward_causal(_images(3), need_attention=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("partners", ["all", pytest.param("random", marks=pytest.mark.slow)])
def test_compiled_training_step_is_one_graph_for_all_steps(small, partners):
    """Also while batches of 4 fill and then overwrite the bank of 6."""
    torch.compiler.reset()

    def objective():
        model = small("causal_test_resnet")
        bank = ConfounderBank(6, 14, model.head_hidden_size)
        return CausalObjective(model, CausalLoss(partners=partners), bank=bank)

    eager, captured = objective(), objective()
    count = CompileCounterWithBackend("eager")
    step = torch.compile(captured, backend=count, fullgraph=True)
    targets = (torch.arange(56).view(4, 14) % 3 == 0).float()
    targets[0, 0] = float("nan")
    for number in range(4):
        results = []
        for run, module in ((step, captured), (eager, eager)):
            torch.manual_seed(0)
            losses = run(_images(4, 64, 64) + number, targets)
            results.append((losses, torch.autograd.grad(losses["loss"], list(module.parameters()))))
        torch.testing.assert_close(*results)
    assert count.frame_count == 1
    torch.testing.assert_close(captured.state_dict(), eager.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_compiled_training_step_agrees(small, name):
    torch.compiler.reset()
    results = []
    for run in (lambda module: module, partial(torch.compile, backend="aot_eager", fullgraph=True)):
        objective = CausalObjective(small(name))
        for module in objective.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0  # make both deterministic
        losses = run(objective)(_images(3), torch.eye(3, 14))
        losses["loss"].backward()
        results.append((losses, {name: p.grad for name, p in objective.named_parameters()}, objective.state_dict()))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)
