import io
import struct
import tarfile
import tempfile
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from causalcxr.data.image import inspect_image_file, read_image


@pytest.fixture(scope="module")
def grey() -> np.ndarray:
    """A smooth 8-bit picture, 24 high and 40 wide, that takes all 256 values."""
    values = np.linspace(0, 255, 24 * 40).round().astype(np.uint8)
    return np.random.default_rng(0).permutation(values).reshape(24, 40)


def _with_palette(grey: np.ndarray) -> Image.Image:
    """The same picture as indices into a shuffled grey palette."""
    order = np.random.default_rng(1).permutation(256)
    indexed = Image.fromarray(np.argsort(order)[grey].astype(np.uint8))
    indexed.putpalette([int(value) for value in order for _ in range(3)])
    return indexed


def _variants(grey: np.ndarray) -> dict[str, Image.Image]:
    image = Image.fromarray(grey)
    alpha = Image.fromarray(np.random.default_rng(2).integers(0, 256, grey.shape).astype(np.uint8))
    wide = grey.astype(np.uint16) * 257  # 255 * 257 = 65535: the same fractions in 16 bits
    return {
        "L": image,
        "LA": Image.merge("LA", [image, alpha]),
        "RGB": Image.merge("RGB", [image] * 3),
        "RGBA": Image.merge("RGBA", [image, image, image, alpha]),
        "P": _with_palette(grey),
        "I;16": Image.fromarray(wide),
    }


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "I;16"])
@pytest.mark.parametrize("size", [None, 16, (12, 50)])
def test_every_storage_of_one_radiograph_reads_the_same(tmp_path, grey, mode, size):
    image = _variants(grey)[mode]
    assert image.mode == mode
    image.save(tmp_path / "image.png", **({"transparency": bytes(range(256))} if mode == "P" else {}))
    read = read_image(tmp_path / "image.png", size=size)
    assert read.dtype == torch.float32
    assert read.is_contiguous()
    if size is None:
        assert torch.equal(read, torch.from_numpy(grey.astype(np.float32) / np.float32(255))[None])
    else:
        Image.fromarray(grey).save(tmp_path / "grey.png")
        torch.testing.assert_close(read, read_image(tmp_path / "grey.png", size=size), rtol=0, atol=1e-6)


def test_sixteen_bits_are_kept(tmp_path):
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "image.png")
    Image.fromarray(values.astype(">u2")).save(tmp_path / "big_endian.tif")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "image.tif")
    expected = torch.from_numpy(values.astype(np.float32) / np.float32(65535))[None]
    for name in ("image.png", "big_endian.tif", "image.tif"):
        assert torch.equal(read_image(tmp_path / name), expected)


def test_one_bit_images_are_black_and_white(tmp_path):
    bits = np.random.default_rng(0).random((9, 13)) > 0.5
    Image.fromarray(bits).save(tmp_path / "image.png")
    assert torch.equal(read_image(tmp_path / "image.png"), torch.from_numpy(bits).float()[None])


def test_jpeg_is_read_within_its_loss(tmp_path):
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (32, 1))
    Image.fromarray(ramp).save(tmp_path / "image.jpg", quality=95)
    assert (read_image(tmp_path / "image.jpg") - torch.from_numpy(ramp) / 255).abs().max() < 0.02


@pytest.mark.parametrize("wide", [False, True])
def test_reduction_is_antialiased(tmp_path, wide):
    checks = (np.indices((256, 256)).sum(0) % 2).astype(np.uint16 if wide else np.uint8) * (65535 if wide else 255)
    Image.fromarray(checks).save(tmp_path / "image.png")
    small = read_image(tmp_path / "image.png", size=32)
    # Plain bilinear interpolation would pick single pixels; averaged, a checkerboard is even grey.
    torch.testing.assert_close(small, torch.full((1, 32, 32), 0.5), rtol=0, atol=0.01)


def test_resize_equals_torch_antialiased_interpolation(tmp_path, grey):
    Image.fromarray(grey).save(tmp_path / "image.png")
    full = read_image(tmp_path / "image.png")
    for size in [(7, 11), (48, 30), (100, 100)]:
        expected = torch.nn.functional.interpolate(full[None], size=size, mode="bilinear", antialias=True)[0]
        torch.testing.assert_close(read_image(tmp_path / "image.png", size=size), expected, rtol=0, atol=1e-5)


def test_resize_stays_in_range(tmp_path):
    Image.fromarray(np.full((97, 89), 255, dtype=np.uint8)).save(tmp_path / "white.png")
    white = read_image(tmp_path / "white.png", size=(31, 200))
    assert white.max() <= 1
    assert white.min() > 1 - 1e-6


def test_result_is_writable_and_separate(tmp_path, grey):
    Image.fromarray(grey).save(tmp_path / "image.png")
    first = read_image(tmp_path / "image.png").zero_()
    assert first.sum() == 0
    assert read_image(tmp_path / "image.png").sum() > 0


@pytest.mark.parametrize("size", ["12", 3.5, (3,), (3, 4, 5), (3, None)])
def test_size_of_a_wrong_type_is_refused(size):
    with pytest.raises(TypeError, match=r"size must be an integer or \(height, width\), got"):
        read_image("unused.png", size=size)


@pytest.mark.parametrize("size", [0, (5, -1)])
def test_size_that_is_not_positive_is_refused(size):
    with pytest.raises(ValueError, match="size must be at least 1 pixel"):
        read_image("unused.png", size=size)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image file .*00000001_000\.png"):
        read_image(tmp_path / "00000001_000.png")


def test_open_files_read_as_their_path(tmp_path, grey):
    path = tmp_path / "image.png"
    Image.fromarray(grey).save(path)
    expected = read_image(path, size=16)
    with path.open("rb") as file:
        file.seek(5)  # read from the start, wherever it is
        assert torch.equal(read_image(file, size=16), expected)
        assert torch.equal(read_image(file, size=16), expected)
        assert not file.closed
    assert torch.equal(read_image(io.BytesIO(path.read_bytes()), size=16), expected)
    only_read = SimpleNamespace(read=path.read_bytes)
    assert torch.equal(read_image(only_read, size=16), expected)


@pytest.mark.parametrize("mode", ["r:gz", "r|gz"])
def test_members_of_archives_are_read(tmp_path, grey, mode):
    Image.fromarray(grey).save(tmp_path / "image.png")
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as archive:
        for name in ("first.png", "second.png"):
            archive.add(tmp_path / "image.png", name)
    with tarfile.open(tmp_path / "images.tar.gz", mode) as archive:
        for member in archive:
            assert torch.equal(read_image(archive.extractfile(member)), read_image(tmp_path / "image.png"))


def test_damage_of_an_open_file_is_an_error_that_names_it(tmp_path, grey):
    path = tmp_path / "image.png"
    Image.fromarray(grey).save(path)
    path.write_bytes(path.read_bytes()[:-30])
    with path.open("rb") as file, pytest.raises(ValueError, match=r"cannot read image '.*image\.png': truncated PNG"):
        read_image(file)
    unnamed = io.BytesIO(path.read_bytes())
    with pytest.raises(ValueError, match="cannot read image from the open file: truncated PNG"):
        read_image(unnamed)
    unnamed.name = "member.png"
    with pytest.raises(ValueError, match=r"cannot read image 'member\.png': truncated PNG"):
        read_image(unnamed)
    with tempfile.TemporaryFile() as file, pytest.raises(ValueError, match="from the open file: empty file"):
        read_image(file)


def test_text_files_and_other_objects_are_refused(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    with (
        (tmp_path / "image.png").open() as file,
        pytest.raises(TypeError, match=r"binary mode \(open\(\.\.\., 'rb'\)\)"),
    ):
        read_image(file)
    for wrong in (io.StringIO("text"), 5, None, b"image.png"):
        with pytest.raises(TypeError, match="expected a path or a file open in binary mode"):
            read_image(wrong)


def test_every_truncation_of_a_png_is_refused(tmp_path, grey):
    path = tmp_path / "image.png"
    Image.fromarray(grey).save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert inspect_image_file(path) is not None
        with pytest.raises(ValueError, match=r"cannot read image .*image\.png'"):
            read_image(path)


def test_every_damaged_byte_of_a_png_is_refused_even_where_pillow_is_told_to_be_lenient(tmp_path, grey, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = tmp_path / "image.png"
    Image.fromarray(grey).save(path)
    whole = path.read_bytes()
    for position in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cannot read image .*image\.png'"):
            read_image(path)


def test_png_with_missing_pixel_data_is_refused(tmp_path, grey):
    path = tmp_path / "image.png"
    Image.fromarray(grey).save(path)
    whole = path.read_bytes()
    start = whole.index(b"IDAT")
    (length,) = struct.unpack(">I", whole[start - 4 : start])
    half = whole[start : start + 4 + length // 2]
    rebuilt = struct.pack(">I", len(half) - 4) + half + struct.pack(">I", zlib.crc32(half))
    path.write_bytes(whole[: start - 4] + rebuilt + whole[start + 8 + length :])
    assert inspect_image_file(path) is None  # only decoding can tell
    with pytest.raises(ValueError, match=r"cannot read image .*truncated"):
        read_image(path)


def test_truncated_jpeg_is_refused(tmp_path, grey):
    path = tmp_path / "image.jpg"
    Image.fromarray(grey).save(path)
    assert inspect_image_file(path) is None
    path.write_bytes(path.read_bytes()[:-200])
    assert "no end marker" in inspect_image_file(path)
    with pytest.raises(ValueError, match=r"image\.jpg.*truncated JPEG"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>not found</html>", "not a PNG, JPEG or TIFF file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no closing IEND chunk"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "no end marker"),
    ],
)
def test_content_that_is_no_image_is_refused(tmp_path, content, reason):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    assert reason in inspect_image_file(path)
    with pytest.raises(ValueError, match=reason):
        read_image(path)


def test_headers_without_content_are_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\x00" + bytes(20))
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xd9" + bytes(20))
    for name in ("a.tif", "a.jpg"):
        with pytest.raises(ValueError, match=rf"cannot read image .*{name}"):
            read_image(tmp_path / name)


def test_pixels_without_a_known_white_level_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif.*mode 'F'; save it as 8-bit or 16-bit"):
        read_image(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(ValueError, match=r"values from 70000 to 70000 do not fit in 16 bits"):
        read_image(tmp_path / "wide.tif")


def test_padding_behind_the_end_is_tolerated(tmp_path, grey):
    path = tmp_path / "image.png"
    Image.fromarray(grey).save(path)
    before = read_image(path)
    path.write_bytes(path.read_bytes() + bytes(512))
    assert inspect_image_file(path) is None
    assert torch.equal(read_image(path), before)


def test_inspection_reports_what_cannot_be_opened(tmp_path):
    assert "cannot be opened: No such file" in inspect_image_file(tmp_path / "absent.png")


def test_real_rgba_files_give_their_grey_channel(shared_data):
    modes = []
    for path in sorted((shared_data / "nih-1024" / "images").iterdir()):
        with Image.open(path) as stored:
            modes.append(stored.mode)
            pixels = np.asarray(stored)
        grey = pixels[..., 0] if modes[-1] == "RGBA" else pixels
        assert torch.equal(read_image(path)[0], torch.from_numpy(grey.astype(np.float32) / np.float32(255)))
        assert inspect_image_file(path) is None
    assert modes.count("RGBA") == 6
