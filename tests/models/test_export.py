"""Models leave the library: traced, exported for images of any size, compiled at full size, and as ONNX."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.layers import DropPath
from timm.models import model_entrypoint
from torch import Tensor, nn

import causalcxr
from causalcxr import CausalCXR, CausalObjective

# The smallest of each family.
FULL_SIZE = (
    "causal_convnext_tiny",
    "causal_densenet121",
    "causal_efficientnet_lite0",
    "causal_resnet18",
    "causal_swin_tiny",
    "causal_test_resnet",
    "causal_vit_small_patch16",
)
# The others pad by the size: tracing it had not ended after 19 minutes, or gave a program for one number of windows.
ANY_SIZE_FAMILIES = tuple(name for name in FULL_SIZE if name not in ("causal_efficientnet_lite0", "causal_swin_tiny"))
DYNAMIC = torch.export.Dim.DYNAMIC  # an error where the graph would hold for one size alone
ANY_BATCH = ({0: DYNAMIC},)
ANY_SIZE = ({0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},)
# Of maps smaller than the attention window, of sides that strides do not divide, and of several blocks of queries.
SIZES = [(1, 32, 32), (3, 212, 172), (1, 320, 352)]


def _images(batch: int = 2, height: int = 96, width: int = 128) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def _assert_agree(run: Callable[[Tensor], Tensor], model: nn.Module, shapes: list[tuple[int, int, int]]) -> None:
    for shape in shapes:
        with torch.no_grad():
            torch.testing.assert_close(run(_images(*shape)), model(_images(*shape)), rtol=0, atol=1e-4)


def _run_with_onnxruntime(model: nn.Module, path: Path, dynamic_shapes: tuple[dict[int, object]]) -> Callable:
    """Export a model, and return what runs the file."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="comes with causalcxr[onnx]")
    onnxruntime = pytest.importorskip("onnxruntime", reason="comes with causalcxr[onnx]")
    program = torch.onnx.export(model, (_images(),), dynamo=True, dynamic_shapes=dynamic_shapes, verbose=False)
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda images: torch.from_numpy(session.run(None, {given.name: images.numpy()})[0])


def test_each_family_is_here() -> None:
    def families(names: list[str]) -> set[str]:
        return {model_entrypoint(name).__module__ for name in names}

    assert families(list(FULL_SIZE)) == families(causalcxr.list_models())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit.trace")
@pytest.mark.parametrize("traced_at", [(2, 96, 128), (2, 320, 352)])
def test_traced_model_takes_any_size(small: Callable[..., CausalCXR], traced_at: tuple[int, int, int]) -> None:
    """Traced on a small map, which is attended to as a whole, and on a large one, by blocks."""
    model = small("causal_test_resnet").eval()
    _assert_agree(torch.jit.trace(model, _images(*traced_at)), model, SIZES)


@pytest.mark.slow
def test_exported_file_takes_any_size(small: Callable[..., CausalCXR], tmp_path: Path) -> None:
    model = small("causal_resnet18").eval()
    torch.export.save(torch.export.export(model, (_images(),), dynamic_shapes=ANY_SIZE), tmp_path / "model.pt2")
    _assert_agree(torch.export.load(tmp_path / "model.pt2").module(), model, SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ANY_SIZE_FAMILIES)
def test_exported_program_takes_any_size(small: Callable[..., CausalCXR], name: str) -> None:
    model = small(name).eval()
    program = torch.export.export(model, (_images(),), dynamic_shapes=ANY_SIZE)
    _assert_agree(program.module(), model, SIZES)


@pytest.mark.integration
@pytest.mark.parametrize(
    "name",
    [name if name == "causal_resnet18" else pytest.param(name, marks=pytest.mark.slow) for name in ANY_SIZE_FAMILIES],
)
def test_onnx_takes_any_size(small: Callable[..., CausalCXR], name: str, tmp_path: Path) -> None:
    model = small(name).eval()
    _assert_agree(_run_with_onnxruntime(model, tmp_path / "model.onnx", ANY_SIZE), model, SIZES)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("name", FULL_SIZE)
def test_onnx_at_full_size_takes_any_batch(name: str, tmp_path: Path) -> None:
    model = causalcxr.create_model(name).eval()
    run = _run_with_onnxruntime(model, tmp_path / "model.onnx", ANY_BATCH)
    _assert_agree(run, model, [(1, 96, 128), (5, 96, 128)])


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_exported_file_at_full_size_takes_any_batch(name: str, tmp_path: Path) -> None:
    model = causalcxr.create_model(name).eval()
    torch.export.save(torch.export.export(model, (_images(),), dynamic_shapes=ANY_BATCH), tmp_path / "model.pt2")
    _assert_agree(torch.export.load(tmp_path / "model.pt2").module(), model, [(1, 96, 128), (5, 96, 128)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit.trace")
@pytest.mark.parametrize("name", FULL_SIZE)
def test_traced_model_at_full_size_takes_any_batch(name: str) -> None:
    model = causalcxr.create_model(name).eval()
    _assert_agree(torch.jit.trace(model, _images()), model, [(1, 96, 128), (5, 96, 128)])


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_compiled_model_at_full_size_is_one_graph(name: str) -> None:
    torch.compiler.reset()
    model = causalcxr.create_model(name).eval()
    _assert_agree(torch.compile(model, backend="aot_eager", fullgraph=True), model, [(2, 96, 128)])


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_compiled_training_step_at_full_size_is_one_graph(name: str) -> None:
    torch.compiler.reset()
    _assert_same_training_step(causalcxr.create_model(name), "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="the default backend needs a C++ compiler on a CPU")
def test_default_backend_compiles_prediction_and_training_step(small: Callable[..., CausalCXR]) -> None:
    torch.compiler.reset()
    model = small("causal_test_resnet").eval()
    _assert_agree(torch.compile(model, fullgraph=True), model, [(2, 96, 128)])
    _assert_same_training_step(model.train(), "inductor")


def _assert_same_training_step(model: nn.Module, backend: str) -> None:
    for module in model.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0  # nothing random, so that both do the same
    results = []
    for objective in (CausalObjective(copy.deepcopy(model)), CausalObjective(model)):
        run = objective if not results else torch.compile(objective, backend=backend, fullgraph=True)
        losses = run(_images(3), torch.eye(3, 14))
        losses["loss"].backward()
        results.append((losses, {name: p.grad for name, p in objective.named_parameters()}, objective.state_dict()))
    plain, compiled = results
    torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-4)
