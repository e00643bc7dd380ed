"""Build a small folder in the layout of the NIH release."""

import numpy as np
from PIL import Image

from causalcxr.data import NIH_LABELS

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def film_names(first, patients):
    """Return file names for two images per patient."""
    return [f"{patient:08}_{visit:03}.png" for patient in range(first, first + patients) for visit in (0, 1)]


def write_release(folder, names, train, *, findings=(), views=(), boxes=(), pictures=()):
    """Write the tables, with the first `train` images on the training list, and any pictures passed."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, name in enumerate(names):
        found = "|".join(findings[i]) if findings and findings[i] else "No Finding"
        view = views[i] if len(views) else "PA"
        rows.append(f"{name},{found},{i % 2},{i // 2},{20 + i % 60},{'MF'[i // 2 % 2]},{view},2500,2048,0.143,0.143")
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    table = ["Image Index,Finding Label,Bbox [x,y,w,h],,,", *(",".join(map(str, box)) for box in boxes)]
    (folder / "BBox_List_2017.csv").write_text("\n".join(table) + "\n")
    (folder / "train_val_list.txt").write_text("".join(f"{name}\n" for name in names[:train]))
    (folder / "test_list.txt").write_text("".join(f"{name}\n" for name in names[train:]))
    if len(pictures):
        (folder / "images").mkdir()
        for name, pixels in zip(names, pictures, strict=True):
            Image.fromarray(pixels).save(folder / "images" / name)
    return folder


def make_release(folder, first, patients, test, side):
    """Write two smooth images per patient; those of the last `test` patients are on the test list."""
    rng = np.random.default_rng(first)
    names, findings, boxes, pictures = film_names(first, patients), [], [], []
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 200, (8, 8), dtype=np.uint8))
        pictures.append(np.array(coarse.resize((side, side), Image.Resampling.BICUBIC)))
        findings.append([label for label in NIH_LABELS if rng.random() < 0.3])
        if "Mass" in findings[-1]:
            pictures[-1][: side // 4, : side // 4] = 255
            boxes.append((name, "Mass", 0, 0, 256, 256))
    views = rng.choice(["AP", "PA"], len(names))
    train = 2 * (patients - test)
    return write_release(folder, names, train, findings=findings, views=views, boxes=boxes, pictures=pictures)
