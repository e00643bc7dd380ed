"""Write a causal model as ONNX, and beside it a JSON that says what goes in and what comes out.

    python examples/export_onnx.py causal_efficientnet_lite0 --output exported
    python examples/export_onnx.py my-model --output exported --any-size

The model is a name with published weights, a folder that `save_pretrained` wrote, or a repository on the Hugging Face
Hub. The graph takes any number of images, of the size that the weights are for, or of any size. ONNX Runtime must agree
with PyTorch before a file is there. Takes a minute, several with `--any-size`, which EfficientNet and Swin do not have:
see docs/export.md. Needs `pip install ".[onnx]"`.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import torch

import causalcxr
from atomic import replacing, write_json
from provenance import versions

TOLERANCE = 1e-4  # of logits


def onnx_runtime() -> Any:
    """Return the module of ONNX Runtime, once all that an export needs is there."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"an export needs {error.name}: pip install 'causalcxr[onnx]'") from error
    return onnxruntime


def check_any_size(model: causalcxr.CausalCXR) -> None:
    """Refuse a model that pads by the size of the images, as EfficientNet and Swin do: see docs/export.md."""
    names = {type(module).__name__ for module in model.modules()}
    if padding := sorted(name for name in names if name.endswith("Conv2dSame") or name.startswith("WindowAttention")):
        raise ValueError(
            f"--any-size is not for {model.pretrained_cfg['architecture']}: its {padding[0]} pads by the size of the "
            "images, and torch makes no graph of it that holds for all sizes. Export without --any-size; the graph is "
            "then for images of the size that the weights are for"
        )


def convert(model: causalcxr.CausalCXR, path: Path, any_size: bool) -> None:
    """Write the graph of `model(images)`, weights included."""
    axes = {0: "batch", 2: "height", 3: "width"} if any_size else {0: "batch"}
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": (axes,)}
    program = torch.onnx.export(model, (_images(model, batch=2),), dynamo=True, verbose=False, **names)
    program.save(path, external_data=False)


def largest_difference(model: causalcxr.CausalCXR, path: Path, any_size: bool) -> float:
    """Return by how much logits of ONNX Runtime and of PyTorch differ, on random images in batches of several sizes."""
    session = onnx_runtime().InferenceSession(path, providers=["CPUExecutionProvider"])
    batches = [_images(model, batch=1), _images(model, batch=3)]
    if any_size:
        batches += [_images(model, batch=1, larger=(32, 96)), _images(model, batch=2, larger=(128, 64))]
    with torch.no_grad():
        differences = [
            (torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0]) - model(images)).abs().max()
            for images in batches
        ]
    return float(torch.stack(differences).max())


def _images(model: causalcxr.CausalCXR, batch: int, larger: tuple[int, int] = (0, 0)) -> torch.Tensor:
    height, width = model.pretrained_cfg["input_size"][1:]
    return torch.randn(batch, model.in_chans, height + larger[0], width + larger[1])


def description(model: causalcxr.CausalCXR, any_size: bool) -> dict[str, Any]:
    """Return what a program that runs the graph has to know."""
    cfg, calibration = model.pretrained_cfg, model.calibration
    height, width = cfg["input_size"][1:]
    sides = ["height", "width"] if any_size else [height, width]
    return {
        "model": cfg["architecture"],
        "images": {
            "shape": ["batch", model.in_chans, *sides],
            "prepare": "grey image in [0, 1], resized as a whole (bilinear, antialiased), repeated to all channels, "
            "minus mean, divided by std",
            "trained_at": [height, width],
            "mean": list(cfg["mean"]),
            "std": list(cfg["std"]),
        },
        "logits": {
            "shape": ["batch", model.num_classes],
            "probability": "sigmoid(logit / temperature)",
            "label_names": model.label_names,
            "temperature": calibration.temperature if calibration else 1.0,
            "thresholds": calibration.thresholds if calibration else None,
        },
        "versions": versions(),
    }


def export(name: str, folder: Path, any_size: bool) -> float:
    """Write model.onnx and model.json; return the largest difference between ONNX Runtime and PyTorch."""
    onnx_runtime()  # before anything long
    model = causalcxr.create_model(Path(name) if Path(name).is_dir() else name, pretrained=True).eval()
    if any_size:
        check_any_size(model)
    with replacing(folder / "model.onnx") as partial:
        convert(model, partial, any_size)
        difference = largest_difference(model, partial, any_size)
        if not difference <= TOLERANCE:
            raise ValueError(
                f"ONNX Runtime and PyTorch differ by {difference:.1e}, more than {TOLERANCE:.0e}: nothing was written"
            )
        checksum = hashlib.sha256(partial.read_bytes()).hexdigest()
    found = {"largest_difference": difference, "sha256": checksum}
    write_json(folder / "model.json", description(model, any_size) | found)
    return difference


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name with weights, folder, or hf-hub:owner/repo")
    parser.add_argument("--output", type=Path, required=True, help="folder for model.onnx and model.json")
    parser.add_argument("--any-size", action="store_true", help="leave height and width open")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    difference = export(args.model, args.output, args.any_size)
    print(f"{args.output / 'model.onnx'}: largest difference from PyTorch {difference:.1e}")


if __name__ == "__main__":
    main()
