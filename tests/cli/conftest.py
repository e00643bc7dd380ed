"""A small model, two radiographs, and a helper that runs a command."""

import numpy as np
import pytest
import torch
from PIL import Image

import causalcxr
import causalcxr_cli
from causalcxr.data import NIH_LABELS, SyntheticCXR


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    causalcxr.save_pretrained(causalcxr.create_model("causal_test_resnet", label_names=NIH_LABELS), folder)
    return folder


@pytest.fixture(scope="module")
def calibrated(folder, tmp_path_factory):
    """The same model with a calibration that makes every other finding positive."""
    model = causalcxr.create_model(folder)
    path = tmp_path_factory.mktemp("calibrated")
    causalcxr.save_pretrained(model, path, calibration=causalcxr.Calibration(0.5, [0.0, 1.0] * 7))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with one radiograph as PNG and JPEG, and another in a subfolder."""
    root = tmp_path_factory.mktemp("images")
    (root / "more").mkdir()
    dataset = SyntheticCXR(2, image_size=(120, 100))
    first, second = (Image.fromarray((dataset[i][0][0].numpy() * 255).astype(np.uint8)) for i in range(2))
    first.save(root / "a.png")
    first.save(root / "a.jpg", quality=95)
    second.save(root / "more" / "b.png")
    return root


@pytest.fixture
def run(folder, capsys):
    """Run a command and return its exit code, stdout and stderr."""

    def command(*arguments):
        given = [str(argument) for argument in arguments]
        code = causalcxr_cli.main(
            [*given, f"--model={folder}"] if given[0] == "predict" and "--model" not in " ".join(given) else given
        )
        return (code, *capsys.readouterr())

    return command
