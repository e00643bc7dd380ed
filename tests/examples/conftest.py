"""A small folder in the layout of the NIH release."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from causalcxr.data import NIH_LABELS

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


@pytest.fixture(scope="session")
def made_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in the layout of the NIH release: 48 noise images of 24 patients, in half of them a box with a Mass."""
    folder = tmp_path_factory.mktemp("release")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    rows, boxes, names = [], ["Image Index,Finding Label,Bbox [x,y,w,h],,,"], []
    for i in range(48):
        name = f"{i // 2:08}_{i % 2:03}.png"
        names.append(name)
        pixels = rng.integers(0, 100, (64, 64), dtype=np.uint8)
        findings = [label for label in NIH_LABELS if label != "Mass" and rng.random() < 0.3]
        if i % 4 < 2:
            x, y = rng.integers(0, 40, 2)
            pixels[y : y + 16, x : x + 16] = 255
            findings.append("Mass")
            boxes.append(f"{name},Mass,{x * 16},{y * 16},256,256")
        Image.fromarray(pixels).save(folder / "images" / name)
        view, sex = rng.choice(["AP", "PA"]), "MF"[i // 2 % 2]
        record = [name, "|".join(findings) or "No Finding", i % 2, i // 2, 20 + i, sex, view, 2500, 2048, 0.143, 0.143]
        rows.append(",".join(map(str, record)))
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    (folder / "BBox_List_2017.csv").write_text("\n".join(boxes) + "\n")
    (folder / "train_val_list.txt").write_text("\n".join(names[:28]) + "\n")
    (folder / "test_list.txt").write_text("\n".join(names[28:]) + "\n")
    return folder
