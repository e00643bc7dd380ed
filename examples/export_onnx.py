"""Export a causal model to ONNX, with a JSON file that describes its inputs and outputs.

    python examples/export_onnx.py causal_efficientnet_lite0 --output exported
    python examples/export_onnx.py my-model --output exported --any-size

The model is a name with published weights, a folder written by `save_pretrained`, or `hf-hub:owner/repo`. The graph
accepts batches of any size. The image size is that of the weights, or any with `--any-size`. The files are written only
if ONNX Runtime agrees with PyTorch. Needs `pip install ".[onnx]"` and about a minute, several with `--any-size`.
"""

import argparse
import json
from pathlib import Path

import onnxruntime
import torch

import causalcxr

TOLERANCE = 1e-4  # absolute, on logits


def check_any_size(model):
    """Exit if the model's padding depends on the image size, as in EfficientNet and Swin: see docs/export.md."""
    for module in model.modules():
        if (name := type(module).__name__).endswith("Conv2dSame") or name.startswith("WindowAttention"):
            raise SystemExit(
                f"--any-size does not work with {model.pretrained_cfg['architecture']}: the padding of {name} depends "
                "on the image size, and torch cannot export it for all sizes. Export without --any-size"
            )


def random_images(model, batch, larger=(0, 0)):
    height, width = model.pretrained_cfg["input_size"][1:]
    return torch.randn(batch, model.in_chans, height + larger[0], width + larger[1])


def convert(model, any_size):
    """Return the serialised graph of `model(images)`, weights included."""
    axes = {0: "batch", 2: "height", 3: "width"} if any_size else {0: "batch"}
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": (axes,)}
    program = torch.onnx.export(model, (random_images(model, 2),), dynamo=True, verbose=False, **names)
    return program.model_proto.SerializeToString()


@torch.no_grad()
def largest_difference(model, graph, any_size):
    """Return the largest difference between the logits of ONNX Runtime and PyTorch on random images."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    batches = [random_images(model, 1), random_images(model, 3)]
    if any_size:
        batches += [random_images(model, 1, larger=(32, 96)), random_images(model, 2, larger=(128, 64))]
    logits = [torch.from_numpy(session.run(None, {"images": images.numpy()})[0]) for images in batches]
    return max(float((ours - model(images)).abs().max()) for ours, images in zip(logits, batches, strict=True))


def description(model, any_size):
    """Return the content of model.json: all that is needed to run the graph."""
    cfg, calibration = model.pretrained_cfg, model.calibration
    images = {
        "shape": ["batch", model.in_chans, *(["height", "width"] if any_size else cfg["input_size"][1:])],
        "prepare": "grey image in [0, 1], resized (bilinear, antialiased), copied to all channels, (x - mean) / std",
        "trained_at": cfg["input_size"][1:],
        **{key: cfg[key] for key in ("mean", "std")},
    }
    logits = {
        "probability": "sigmoid(logit / temperature)",
        "label_names": model.label_names,
        "temperature": calibration.temperature if calibration else 1.0,
        "thresholds": calibration.thresholds if calibration else None,
    }
    return {"model": cfg["architecture"], "images": images, "logits": logits}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model name with weights, folder or hf-hub:owner/repo")
    parser.add_argument("--output", type=Path, required=True, help="folder for model.onnx and model.json")
    parser.add_argument("--any-size", action="store_true", help="allow any image height and width")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    name = Path(args.model) if Path(args.model).is_dir() else args.model
    model = causalcxr.create_model(name, pretrained=True).eval()
    if args.any_size:
        check_any_size(model)
    graph = convert(model, args.any_size)
    difference = largest_difference(model, graph, args.any_size)
    if not difference <= TOLERANCE:
        raise SystemExit(f"ONNX Runtime and PyTorch differ by {difference:.1e}, so nothing was written")
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "model.onnx").write_bytes(graph)
    (args.output / "model.json").write_text(json.dumps(description(model, args.any_size), indent=1) + "\n")
    print(f"{args.output / 'model.onnx'}: largest difference from PyTorch {difference:.1e}")


if __name__ == "__main__":
    main()
