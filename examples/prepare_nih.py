"""Write a smaller 8-bit grey copy of NIH ChestX-ray14, which is faster to train on.

    python examples/prepare_nih.py path/to/nih path/to/nih-512 --size 512
    python examples/train.py --data path/to/nih-512 --image-size 512 --output runs/causal

`path/to/nih` holds the tables of the release and its images: in `images/`, in `images_001/images` etc., or in the
archives `images_001.tar.gz` etc., which need not be unpacked. The copy has the layout of the release. Bounding boxes
stay in pixels of the original 1024 x 1024 images.

You can interrupt and rerun it: images that are already in the copy are skipped. Tables are written last, so an
incomplete copy cannot be used for training. Damaged and missing images are listed at the end, with exit code 1.
"""

import argparse
import io
import os
import shutil
import sys
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from causalcxr.data import read_image
from causalcxr.data.nih_tables import read_nih_tables


class Conversion(IterableDataset):
    """Convert and write the images of each worker's share; yields each image's name and its problem, or None."""

    def __init__(self, paths, archives, in_archives, folder, size):
        self.paths, self.archives, self.in_archives = paths, archives, in_archives
        self.folder, self.size = folder, size

    def __iter__(self):
        worker = get_worker_info()
        share = slice(worker.id, None, worker.num_workers) if worker else slice(None)
        for path in self.paths[share]:
            yield path.name, self.convert(path.name, path)
        for path in self.archives[share]:
            for name, content, problem in self.read_archive(path):
                yield name, problem or self.convert(name, content)

    def read_archive(self, path):
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    name = PurePosixPath(member.name).name  # ignore folders in the archive
                    if member.isfile() and name in self.in_archives:
                        yield name, io.BytesIO(archive.extractfile(member).read()), None
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            yield path.name, None, f"archive is truncated or damaged: {error}"

    def convert(self, name, source):
        try:
            image = read_image(source, size=self.size)
        except (OSError, ValueError) as error:
            return str(error)
        return write_grey(image, self.folder / name)  # outside the try block: a full disk must stop the run


def write_grey(image, path):
    """Write an image (1, H, W) in [0, 1] as 8-bit PNG, run-length encoded, which is faster to read than the default."""
    partial = path.with_name(f"{path.name}.partial")
    grey = Image.fromarray(np.rint(image[0].numpy() * 255).astype(np.uint8))
    grey.save(partial, "PNG", compress_type=zlib.Z_RLE)
    partial.replace(path)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, help="folder of the NIH release")
    parser.add_argument("output", type=Path, help="folder for the copy")
    parser.add_argument("--size", type=int, default=512, help="image height and width in pixels; default: 512")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes; default: one per core")
    args = parser.parse_args(argv)
    names = read_nih_tables(args.release).names
    folders = [args.release / "images", *sorted(args.release.glob("images_*/images"))]
    paths = {path.name: path for folder in reversed(folders) for path in folder.glob("*")}
    archives = sorted((*args.release.glob("images_*.tar.gz"), *args.release.glob("images_*.tar")))
    if not paths and not archives:
        raise SystemExit(f"no images in {args.release}: expected images/, images_001/images/ or images_001.tar.gz")
    if args.output.resolve().is_relative_to(args.release.resolve()):
        raise SystemExit(f"{args.output} is inside the release itself: choose another folder for the copy")
    folder = args.output / "images"
    folder.mkdir(parents=True, exist_ok=True)
    kept = set(os.listdir(folder)).intersection(names)
    for name in sorted(kept)[:1]:
        if (side := read_image(folder / name).shape[-1]) != args.size:
            raise SystemExit(f"{folder} has images of {side} px: choose another folder, or use --size {side}")
    wanted = [name for name in names if name not in kept]
    in_archives = {name for name in wanted if name not in paths}
    in_folders = [paths[name] for name in wanted if name in paths]
    conversion = Conversion(in_folders, archives if in_archives else [], in_archives, folder, args.size)
    results = DataLoader(conversion, batch_size=None, num_workers=args.workers, in_order=False)
    problems = dict.fromkeys(wanted, "missing")
    for name, problem in tqdm(results, total=len(wanted), unit="image", smoothing=0):
        problems[name] = problem
    for table in (*args.release.glob("*.csv"), *args.release.glob("*.txt")):
        shutil.copyfile(table, args.output / f"{table.name}.partial")
        (args.output / f"{table.name}.partial").replace(args.output / table.name)
    bad = {name: problem for name, problem in problems.items() if problem}
    for name, problem in bad.items():
        print(f"{name}: {problem}")
    print(f"{len(names)} images in the tables, {len(kept)} already there, {len(bad)} missing or damaged")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
