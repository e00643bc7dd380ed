"""Pack films of NIH ChestX-ray14 into a few files that are small enough to carry to another machine.

    python -m nih.pack OUTPUT --films nih-10k=path/to/nih-10k:90 --films nih-320=path/to/nih-320:85 \
        --backbone path/to/tf_efficientnet_lite0.safetensors

Every `--films NAME=FOLDER:QUALITY` becomes OUTPUT/NAME.zip: the tables of the folder as they are, and the films on
sheets of grey JPEG, many films a sheet in the order of the label file. The side of a film is a multiple of 8, so that
no block of a JPEG holds parts of two films. The weights of the backbone are rounded to half precision. `packed.json`
says what was done, how large each file is and how far the films changed.
"""

import argparse
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors.torch import load_file, save_file

from causalcxr.data.nih_tables import read_nih_tables

SHEET = 1280  # pixels, at most, of the side of a sheet
TABLES = (
    "Data_Entry_2017_v2020.csv",
    "Data_Entry_2017.csv",
    "BBox_List_2017.csv",
    "train_val_list.txt",
    "test_list.txt",
)


def read_films(folder: Path, names: list[str]) -> npt.NDArray[np.uint8]:
    """Return the films (N, S, S) of a folder; all are grey and of one side, a multiple of 8."""
    films = np.stack([np.asarray(Image.open(folder / "images" / name).convert("L")) for name in names])
    if films.shape[1] != films.shape[2] or films.shape[1] % 8:
        raise ValueError(f"films must be square with a side that is a multiple of 8, but are {films.shape[1:]}")
    return films


def sheets(films: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield pictures that hold the films row by row; the last one has black places."""
    side = films.shape[1]
    across = max(SHEET // side, 1)
    for first in range(0, len(films), across**2):
        part = films[first : first + across**2]
        places = np.zeros((across**2, side, side), np.uint8)
        places[: len(part)] = part
        yield places.reshape(across, across, side, side).swapaxes(1, 2).reshape(across * side, across * side)


def cut(sheet: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Return the films (M, S, S) of a sheet, places without a film included."""
    across = len(sheet) // side
    return sheet.reshape(across, side, across, side).swapaxes(1, 2).reshape(-1, side, side)


def pack(folder: Path, target: Path, quality: int) -> dict[str, Any]:
    """Write the films of a folder; return what `packed.json` says of them."""
    names = read_nih_tables(folder).names
    films = read_films(folder, names)
    side, change, count = films.shape[1], 0.0, 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in TABLES:
            if (folder / name).exists():
                archive.writestr(name, (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)
        for count, sheet in enumerate(sheets(films), start=1):
            stored = io.BytesIO()
            Image.fromarray(sheet).save(stored, "JPEG", quality=quality, optimize=True, progressive=True)
            archive.writestr(f"sheet-{count:04}.jpg", stored.getvalue())
            change += float(np.abs(np.asarray(Image.open(stored)).astype(int) - sheet).sum())
        archive.writestr("index.json", json.dumps({"films": len(films), "side": side, "sheets": count}))
    return {
        "films": len(films),
        "side": side,
        "quality": quality,
        "mean_change_of_a_grey_level": round(change / films.size, 3),
        **_file(target),
    }


def pack_backbone(source: Path, target: Path) -> dict[str, Any]:
    """Write weights in half precision."""
    save_file(
        {name: value.half() if value.is_floating_point() else value for name, value in load_file(source).items()},
        target,
    )
    return _file(target)


def _file(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--films", action="append", default=[], metavar="NAME=FOLDER:QUALITY")
    parser.add_argument("--backbone", type=Path, help="safetensors file of the backbone's weights")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    done: dict[str, Any] = {}
    for given in args.films:
        name, _, rest = given.partition("=")
        folder, _, quality = rest.rpartition(":")
        done[f"{name}.zip"] = pack(Path(folder), args.output / f"{name}.zip", int(quality))
    if args.backbone:
        name = f"{args.backbone.stem}.half.safetensors"
        done[name] = pack_backbone(args.backbone, args.output / name)
    done["bytes"] = sum(file["bytes"] for file in done.values())
    (args.output / "packed.json").write_text(json.dumps(done, indent=1) + "\n")
    print(json.dumps(done, indent=1))


if __name__ == "__main__":
    main()
