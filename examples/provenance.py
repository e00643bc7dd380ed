"""What a result depends on besides its options: code, libraries and lists of images."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import timm
import torch

import causalcxr


def commit() -> str:
    """Return the commit of the code that runs, with "-dirty" if files differ from it, or "unknown" outside a checkout.

    Results do not count as files that differ: a run may have just written one.
    """
    git = ["git", "-C", str(Path(__file__).resolve().parents[1])]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    clean = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".", ":!docs/results"], check=False).returncode == 0
    return head if clean else f"{head}-dirty"


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
