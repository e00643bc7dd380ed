"""Resized copies of the NIH release: from folders or archives, resumed, with damaged files, and read back."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prepare_nih
from causalcxr.data import NIHChestXray14
from nih_release import film_names, write_release

NAMES = film_names(1, 3)


def picture(seed):
    """Return a PNG of 40 x 40 pixels; the first is RGBA, as some of the release are."""
    grey = np.random.default_rng(seed).integers(0, 256, (40, 40), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).convert("RGBA" if seed == 0 else "L").save(file, "PNG")
    return file.getvalue()


PICTURES = {name: picture(seed) for seed, name in enumerate(NAMES)}


def some(*positions, folder=""):
    return {folder + NAMES[i]: PICTURES[NAMES[i]] for i in positions}


def write(root, **places):
    """Write the tables, and the pictures of each place (a folder or an archive)."""
    write_release(root, NAMES, 4, boxes=[(NAMES[4], "Mass", 512, 256, 100, 50)])
    for place, pictures in places.items():
        if ".tar" not in place:
            (root / place).mkdir(parents=True)
            for name, content in pictures.items():
                (root / place / name).write_bytes(content)
            continue
        with tarfile.open(root / place, "w:gz" if place.endswith(".gz") else "w") as archive:
            for name, content in pictures.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return root


def prepare(release, output, *options):
    code = prepare_nih.main([str(release), str(output), "--size=16", "--workers=0", *options])
    assert not list(output.rglob("*.partial"))
    return code


def images_of(output):
    return {path.name: path.read_bytes() for path in (output / "images").iterdir()}


@pytest.fixture
def release(tmp_path):
    return write(tmp_path / "nih", images=PICTURES)


@pytest.fixture
def whole(release, tmp_path):
    """Expected files of the copy, by name."""
    assert prepare(release, tmp_path / "whole") == 0
    return images_of(tmp_path / "whole")


def test_copy_reads_as_the_release_does(release, tmp_path):
    assert prepare(release, tmp_path / "copy") == 0
    copy, original = NIHChestXray14(tmp_path / "copy", "all"), NIHChestXray14(release, "all", image_size=16)
    assert copy.names == original.names == NAMES
    assert copy.boxes == original.boxes != {}  # in pixels of the release
    for (small, _), (image, _) in zip(copy, original, strict=True):
        assert (small - image).abs().max() <= 0.5 / 255 + 1e-6
    with Image.open(copy.paths[0]) as stored:
        assert stored.mode == "L"


def test_images_are_found_in_every_place(tmp_path, whole):
    """Unpacked images are taken before those in archives, and folders in an archive do not count."""
    places = {
        "images": some(0),
        "images_012/images": some(1, 2),
        "images_001.tar.gz": some(3, 4, folder="images/") | {NAMES[0]: b"older"},
        "images_02.tar": some(5, folder="./images/"),
    }
    assert prepare(write(tmp_path / "other", **places), tmp_path / "copy") == 0
    assert images_of(tmp_path / "copy") == whole


def test_killed_copy_is_no_data_set_and_goes_on(release, tmp_path, whole, monkeypatch):
    replace, output = Path.replace, tmp_path / "copy"

    def interrupted(source, target):
        if target.name == NAMES[3]:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(release, output)
    written = {name: (output / "images" / name).stat().st_mtime_ns for name in NAMES[:3]}
    with pytest.raises(FileNotFoundError):
        NIHChestXray14(output)
    assert prepare(release, output) == 0
    assert images_of(output) == whole
    assert written == {name: (output / "images" / name).stat().st_mtime_ns for name in written}  # kept


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_are_listed_and_the_rest_is_copied(tmp_path, whole, workers, capsys):
    places = {
        "images": some(0) | {NAMES[1]: PICTURES[NAMES[1]][:-20], ".DS_Store": b"1"},
        "images_001.tar.gz": some(2) | {"images/stranger.png": picture(9)},
        "images_002.tar.gz": some(4) | {"images/" + NAMES[3]: b""},
    }
    assert prepare(write(tmp_path / "other", **places), tmp_path / "copy", f"--workers={workers}") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == NAMES[1::2]
    assert lines[-2] == f"{NAMES[5]}: missing"
    assert lines[-1] == "6 images in the tables, 0 already there, 3 missing or damaged"
    assert images_of(tmp_path / "copy") == {name: whole[name] for name in NAMES[::2]}


@pytest.mark.parametrize("length", [0, -2500])
def test_truncated_archive_leaves_the_others(tmp_path, whole, length, capsys):
    archives = {"images_001.tar.gz": some(0, 1, 2), "images_002.tar.gz": some(3, 4, 5)}
    root = write(tmp_path / "other", **archives)
    content = (root / "images_001.tar.gz").read_bytes()
    (root / "images_001.tar.gz").write_bytes(content[:length])
    assert prepare(root, tmp_path / "copy") == 1
    printed, copied = capsys.readouterr().out, images_of(tmp_path / "copy")
    assert "images_001.tar.gz: archive is truncated or damaged" in printed
    assert set(copied) == {name for name in NAMES if f"{name}: missing" not in printed}
    assert copied.items() <= whole.items()
    assert set(NAMES[3:]) <= set(copied)


def test_another_size_and_the_release_itself_are_refused(release, tmp_path):
    prepare(release, tmp_path / "copy")
    with pytest.raises(SystemExit, match="images of 16 px"):
        prepare(release, tmp_path / "copy", "--size=20")
    with pytest.raises(SystemExit, match="the release itself"):
        prepare(release, release / ".." / "nih")
    with pytest.raises(SystemExit, match="no images in"):
        prepare(write(tmp_path / "tables"), tmp_path / "other")
    assert not (tmp_path / "other").exists()
