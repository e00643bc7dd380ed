"""What a result depends on besides its options: code, libraries and lists of images."""

import functools
import hashlib
import subprocess
from pathlib import Path
from typing import Any

import timm
import torch

import causalcxr


@functools.cache
def commit() -> str:
    """Return the commit of the code that this process runs, as it is at the first call.

    With "-dirty" if the library or the examples differ from it, and "unknown" outside a checkout, or where the library
    is not that of the checkout.
    """
    root = Path(__file__).resolve().parents[1]
    if root not in Path(causalcxr.__file__).resolve().parents:
        return "unknown"
    git = ["git", "-C", str(root)]
    try:
        head, changes = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "causalcxr", "examples"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changes else head


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide numbers."""
    return {"causalcxr": causalcxr.__version__, "torch": str(torch.__version__), "timm": timm.__version__}


def fingerprint(dataset: Any) -> dict[str, Any]:
    """Return what identifies the images and labels of a data set: their number and SHA-256 sums.

    The names are hashed in sorted order, one a line, so that the sum of a whole official list is that of its sorted
    file; the labels as bytes, in the order of the data set.
    """
    names = sorted(getattr(dataset, "names", map(str, range(len(dataset)))))
    return {
        "images": len(dataset),
        "names_sha256": hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest(),
        "labels_sha256": hashlib.sha256(dataset.targets.numpy().astype("uint8").tobytes()).hexdigest(),
        "label_file": getattr(dataset, "label_file", "generated"),
    }
