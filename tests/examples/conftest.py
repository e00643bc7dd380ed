"""A small folder in the layout of the NIH release."""

import numpy as np
import pytest

from causalcxr.data import NIH_LABELS
from nih_release import film_names, write_release


@pytest.fixture(scope="session")
def made_release(tmp_path_factory):
    """Folder in the layout of the NIH release: 48 noise images of 24 patients, in half of them a box with a Mass."""
    rng = np.random.default_rng(0)
    names, findings, boxes = film_names(0, 24), [], []
    pictures = rng.integers(0, 100, (48, 64, 64), dtype=np.uint8)
    for i, name in enumerate(names):
        findings.append([label for label in NIH_LABELS if label != "Mass" and rng.random() < 0.3])
        if i % 4 < 2:
            x, y = rng.integers(0, 40, 2)
            pictures[i, y : y + 16, x : x + 16] = 255
            findings[i].append("Mass")
            boxes.append((name, "Mass", x * 16, y * 16, 256, 256))
    views = rng.choice(["AP", "PA"], 48)
    folder = tmp_path_factory.mktemp("release")
    return write_release(folder, names, 28, findings=findings, views=views, boxes=boxes, pictures=pictures)
