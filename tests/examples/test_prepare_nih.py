"""The resized copy of the NIH release: from folders and archives, interrupted, with faults; and read back."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import prepare_nih
from causalcxr.data import NIHChestXray14, read_image

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
)
NAMES = [f"{patient:08d}_{visit:03d}.png" for patient in (1, 2, 3) for visit in (0, 1)]


def picture(seed: int) -> bytes:
    """PNG of 40 by 40 pixels: grey, or every third with an alpha channel that means nothing."""
    rng = np.random.default_rng(seed)
    grey = Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8))
    if seed % 3 == 0:
        grey = Image.merge("RGBA", [grey] * 3 + [Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8))])
    file = io.BytesIO()
    grey.save(file, "PNG")
    return file.getvalue()


PICTURES = {name: picture(seed) for seed, name in enumerate(NAMES)}


def write_tables(root: Path, names: list[str] = NAMES) -> Path:
    root.mkdir()
    rows = [f"{name},No Finding,0,{1 + i // 2},50,M,PA,2000,2000,0.1,0.1\n" for i, name in enumerate(names)]
    (root / "Data_Entry_2017_v2020.csv").write_text(HEADER + "".join(rows))
    (root / "train_val_list_NIH.txt").write_text("\n".join(names[:4]))
    (root / "test_list_NIH.txt").write_text("\n".join(names[4:]))
    (root / "BBox_List_2017.csv").write_text(f"h,,,,,\n{names[4]},Mass,512,256,100,50\n")
    return root


def write_folder(folder: Path, pictures: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in pictures.items():
        (folder / name).write_bytes(content)


def write_archive(path: Path, pictures: dict[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:
        folder = tarfile.TarInfo("images")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in pictures.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def some(*positions: int, folder: str = "") -> dict[str, bytes]:
    return {folder + NAMES[i]: PICTURES[NAMES[i]] for i in positions}


def prepare(release: Path, output: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Run in this process unless told otherwise; return the exit code and the report."""
    code = prepare_nih.main([str(release), str(output), "--size=16", "--workers=1", *options])
    assert not list(output.rglob("*.partial"))
    return code, json.loads((output / "report.json").read_text())


def images_of(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "images").iterdir()}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    root = write_tables(tmp_path / "nih")
    write_folder(root / "images", PICTURES)
    return root


@pytest.fixture
def whole(release: Path, tmp_path: Path) -> dict[str, bytes]:
    """What each image becomes."""
    assert prepare(release, tmp_path / "whole")[0] == 0
    return images_of(tmp_path / "whole")


def test_copy_reads_as_the_release_does(release: Path, tmp_path: Path) -> None:
    code, report = prepare(release, tmp_path / "copy")
    assert code == 0
    assert (report["listed"], report["written"], report["kept"]) == (6, 6, 0)
    assert (report["bad"], report["missing"], report["unlisted"]) == ({}, [], [])
    copy, original = NIHChestXray14(tmp_path / "copy", "all"), NIHChestXray14(release, "all", image_size=16)
    assert copy.names == original.names == NAMES
    assert copy.boxes == original.boxes != {}  # in pixels of the release
    for (small, _), (image, _) in zip(copy, original, strict=True):
        assert small.shape == (1, 16, 16)
        assert (small - image).abs().max() <= 0.5 / 255 + 1e-6
    with Image.open(copy.image_path(0)) as stored:
        assert stored.mode == "L"


@pytest.mark.parametrize("layout", ["folders", "archives", "plain archive", "both"])
def test_every_layout_gives_the_same_files(tmp_path: Path, whole: dict[str, bytes], layout: str) -> None:
    root = write_tables(tmp_path / "other")
    if layout == "folders":
        write_folder(root / "images_001" / "images", some(0, 1, 2))
        write_folder(root / "images_012" / "images", some(3, 4, 5))
    elif layout == "archives":
        write_archive(root / "images_001.tar.gz", some(0, 2, 4, folder="images/"))
        write_archive(root / "images_002.tar.gz", some(1, 3, 5, folder="images/"))
    elif layout == "plain archive":
        write_archive(root / "images_01.tar", some(0, 1, 2, 3, 4, 5, folder="./images/"), "w")
    else:  # what is unpacked goes before what the archives hold
        write_folder(root / "images", some(0, 1, 2))
        write_archive(root / "images_001.tar.gz", some(3, 4, 5) | {"images/" + NAMES[0]: b"older"})
    assert prepare(root, tmp_path / "copy")[0] == 0
    assert images_of(tmp_path / "copy") == whole


def test_several_processes_write_the_same_files(tmp_path: Path, whole: dict[str, bytes]) -> None:
    root = write_tables(tmp_path / "other")
    write_folder(root / "images", some(0, 1, 2))
    write_archive(root / "images_001.tar.gz", some(3, 4) | {NAMES[5]: b"damaged"})
    code, report = prepare(root, tmp_path / "copy", "--workers=2")
    assert code == 1
    assert report["workers"] == 2
    assert list(report["bad"]) == [NAMES[5]]
    assert images_of(tmp_path / "copy") == {name: whole[name] for name in NAMES[:5]}


def test_interrupted_copy_is_no_data_set_and_goes_on(
    release: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, output = os.replace, tmp_path / "copy"

    def interrupted(source: Path, target: Path) -> None:
        if target.name == NAMES[3]:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(release, output)
    assert images_of(output).keys() < whole.keys()
    with pytest.raises(FileNotFoundError, match="no label file"):
        NIHChestXray14(output)
    code, report = prepare(release, output)
    assert code == 0
    assert (report["written"], report["kept"]) == (3, 3)
    assert images_of(output) == whole


def test_only_what_lacks_is_done_again(release: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    output = tmp_path / "whole"
    images = output / "images"
    (images / NAMES[1]).unlink()
    (images / NAMES[2]).write_bytes(b"")
    (images / (NAMES[1] + ".partial")).write_bytes(b"half")
    (output / "test_list_NIH.txt.partial").write_bytes(b"half")
    before = {name: (images / name).stat().st_mtime_ns for name in NAMES if name not in NAMES[1:3]}
    code, report = prepare(release, output)
    assert code == 0
    assert (report["written"], report["kept"]) == (2, 4)
    assert images_of(output) == whole
    assert before == {name: (images / name).stat().st_mtime_ns for name in before}
    (release / "images" / NAMES[0]).unlink()  # not needed any more
    assert prepare(release, output)[1]["kept"] == 6


def test_faults_are_reported_and_the_rest_is_copied(tmp_path: Path, whole: dict[str, bytes], capsys: Any) -> None:
    root = write_tables(tmp_path / "other")
    write_folder(root / "images", some(0) | {NAMES[1]: PICTURES[NAMES[1]][:-20], ".DS_Store": b"1"})
    write_archive(root / "images_001.tar.gz", some(2) | {"images/stranger.png": picture(9), "images/" + NAMES[3]: b""})
    code, report = prepare(root, tmp_path / "copy")
    assert code == 1
    assert report["written"] == 2
    assert list(report["bad"]) == [NAMES[1], NAMES[3]]
    assert "cannot read image" in report["bad"][NAMES[1]]
    assert "empty file" in report["bad"][NAMES[3]]
    assert report["missing"] == NAMES[4:]
    assert report["unlisted"] == [".DS_Store", "stranger.png"]
    assert images_of(tmp_path / "copy") == {name: whole[name] for name in (NAMES[0], NAMES[2])}
    printed = capsys.readouterr().out
    assert "6 images listed: 2 written, 0 kept" in printed
    assert "2 missing: 00000003_000.png; 00000003_001.png" in printed
    with pytest.warns(UserWarning, match=r"4 of 6 images .*are left out"):
        assert len(NIHChestXray14(tmp_path / "copy", "all", bad_images="skip")) == 2


@pytest.mark.parametrize("length", [0, 50, -2500])
def test_truncated_archive_leaves_the_others(tmp_path: Path, whole: dict[str, bytes], length: int) -> None:
    root = write_tables(tmp_path / "other")
    write_archive(root / "images_001.tar.gz", some(0, 1, 2))
    write_archive(root / "images_002.tar.gz", some(3, 4, 5))
    content = (root / "images_001.tar.gz").read_bytes()
    (root / "images_001.tar.gz").write_bytes(content[:length])
    code, report = prepare(root, tmp_path / "copy")
    assert code == 1
    assert "cannot be read to its end" in report["bad"]["images_001.tar.gz"]
    copied = images_of(tmp_path / "copy")
    assert set(copied) == set(NAMES) - set(report["missing"])
    assert copied.items() <= whole.items()
    assert set(NAMES[3:]) <= set(copied)


def test_odd_names_stay_inside_the_copy(tmp_path: Path) -> None:
    odd = ["../evil.png", "..", "/tmp/evil.png", "..\\evil.png"]  # noqa: S108
    root = write_tables(tmp_path / "nih", [*NAMES, *odd])
    members = {"../" + NAMES[0]: PICTURES[NAMES[0]], "/tmp/" + NAMES[1]: PICTURES[NAMES[1]]}  # noqa: S108
    write_archive(root / "images_001.tar.gz", members | dict.fromkeys(["../evil", *odd, "x/.."], picture(9)))
    code, report = prepare(root, tmp_path / "deep" / "copy")
    assert code == 1
    assert report["bad"] == dict.fromkeys(odd, "not the name of a file")
    assert set(images_of(tmp_path / "deep" / "copy")) == set(NAMES[:2])
    assert "evil" in report["unlisted"]
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_another_size_and_other_folders_are_refused(release: Path, tmp_path: Path) -> None:
    prepare(release, tmp_path / "copy")
    with pytest.raises(ValueError, match=r"copy was begun with --size 16, not 20; give another folder"):
        prepare(release, tmp_path / "copy", "--size=20")
    for output in (release, release / "images", release / ".." / "nih" / "images_001"):
        with pytest.raises(ValueError, match="is part of the release itself"):
            prepare(release, output)
    with pytest.raises(ValueError, match=r"holds files but no copy that was begun here \(no prepare\.json\)"):
        prepare(release, tmp_path)
    for option in ("--size=0", "--workers=0"):
        with pytest.raises(ValueError, match="--size and --workers must be at least 1"):
            prepare(release, tmp_path / "other", option)
    with pytest.raises(FileNotFoundError, match=r"no images in .*looked for 'images'"):
        prepare(write_tables(tmp_path / "tables"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_copy_inside_the_release_is_no_source(release: Path) -> None:
    assert prepare(release, release / "nih-16")[0] == 0
    assert prepare(release, release / "nih-8", "--size=8")[1]["written"] == 6


def test_real_images(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "nih-1024"
    code, report = prepare(root, tmp_path / "copy", "--size=256")
    assert code == 0
    assert report["written"] == 24
    copy = NIHChestXray14(tmp_path / "copy", "all")
    for index, name in enumerate(copy.names):
        expected = read_image(root / "images" / name, size=256)
        assert (copy[index][0] - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert sum(map(len, images_of(tmp_path / "copy").values())) < 24 * 256 * 256
