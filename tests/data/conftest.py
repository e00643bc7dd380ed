"""A small release in the layout of NIH ChestX-ray14."""

import pytest

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
V2020 = [
    "00000001_000.png,Cardiomegaly|Emphysema,0,1,57,M,PA,2682,2749,0.143,0.143",
    "00000002_000.png,No Finding,0,2,80,F,AP,2500,2048,0.171,0.168",
    "00000003_000.png,Hernia,0,3,1,F,PA,2500,2048,0.168,0.168",
    "00000003_001.png,Hernia|Infiltration,7,3,0,F,PA,2582,2991,0.143,0.143",
]
AGES_2017 = ["057Y", "080Y", "018M", "073D"]


def _write_release(folder, *, version="v2020", rows=V2020, train_val=(0, 2, 3), test=(1,), suffix=""):
    """Write the tables of a small release; the 2017 file ends each line with a comma and gives ages with a unit."""
    folder.mkdir(exist_ok=True)
    if version == "v2020":
        text, name = "\n".join([HEADER, *rows]) + "\n", "Data_Entry_2017_v2020.csv"
    else:
        cells = [row.split(",") for row in rows]
        lines = [",".join([*c[:4], AGES_2017[i], *c[5:]]) + "," for i, c in enumerate(cells)]
        text, name = "\r\n".join([HEADER + ",", *lines]) + "\r\n", "Data_Entry_2017.csv"
    (folder / name).write_bytes(text.encode())
    names = [row.split(",")[0] for row in rows]
    (folder / f"train_val_list{suffix}.txt").write_text("\n".join(names[i] for i in train_val))
    (folder / f"test_list{suffix}.txt").write_text("".join(names[i] + "\r\n" for i in test))
    return folder


@pytest.fixture
def write_release():
    """Function that writes the tables of four images of three patients, or of given rows, into a folder."""
    return _write_release
