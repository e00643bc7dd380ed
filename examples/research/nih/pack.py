"""Pack NIH ChestX-ray14 films, or weights, into a file small enough to transfer to another machine.

    python -m nih.pack path/to/nih-10k packed/nih-10k.zip --quality 90
    python -m nih.pack path/to/tf_efficientnet_lite0.safetensors packed/lite0.half.safetensors

The tables of a folder are stored unchanged. Films are stored on greyscale JPEG sheets, many per sheet, in the order of
the label file. The side of a film is a multiple of 8, so that no JPEG block covers parts of two films. Weights are
rounded to half precision.
"""

import argparse
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors.torch import load_file, save_file

from causalcxr.data import NIHChestXray14

SHEET = 1280  # maximum side of a sheet in pixels


def read_films(folder: Path) -> npt.NDArray[np.uint8]:
    """Return the films (N, S, S) of a folder in greyscale. All have one side, a multiple of 8."""
    films = np.stack([np.asarray(Image.open(path).convert("L")) for path in NIHChestXray14(folder, "all").paths])
    if films.shape[1] != films.shape[2] or films.shape[1] % 8:
        raise ValueError(f"films must be square with a side that is a multiple of 8, but are {films.shape[1:]}")
    return films


def sheets(films: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield sheets with the films row by row. Empty places on the last one are black."""
    side = films.shape[1]
    across = max(SHEET // side, 1)
    for first in range(0, len(films), across**2):
        part = films[first : first + across**2]
        places = np.zeros((across**2, side, side), np.uint8)
        places[: len(part)] = part
        yield places.reshape(across, across, side, side).swapaxes(1, 2).reshape(across * side, across * side)


def cut(sheet: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Return the films (M, S, S) of a sheet, including empty places."""
    across = len(sheet) // side
    return sheet.reshape(across, side, across, side).swapaxes(1, 2).reshape(-1, side, side)


def pack_films(folder: Path, target: Path, quality: int) -> None:
    films = read_films(folder)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for table in sorted([*folder.glob("*.csv"), *folder.glob("*.txt")]):
            archive.write(table, table.name, zipfile.ZIP_DEFLATED)
        count = 0
        for count, sheet in enumerate(sheets(films), start=1):
            stored = io.BytesIO()
            Image.fromarray(sheet).save(stored, "JPEG", quality=quality, optimize=True, progressive=True)
            archive.writestr(f"sheet-{count:04}.jpg", stored.getvalue())
        archive.writestr("index.json", json.dumps({"films": len(films), "side": films.shape[1], "sheets": count}))


def pack_weights(source: Path, target: Path) -> None:
    weights = {name: value.half() if value.is_floating_point() else value for name, value in load_file(source).items()}
    save_file(weights, target)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder in the layout of the release, or a safetensors file")
    parser.add_argument("target", type=Path)
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality; default: 90")
    args = parser.parse_args(argv)
    args.target.parent.mkdir(parents=True, exist_ok=True)
    if args.source.is_dir():
        pack_films(args.source, args.target, args.quality)
    else:
        pack_weights(args.source, args.target)


if __name__ == "__main__":
    main()
