"""Files, Pillow images and arrays of one radiograph give the same tensor, and errors name damaged files."""

import io
import struct
import tarfile
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from causalcxr.data.image import read_image


@pytest.fixture(scope="module")
def grey():
    """An 8-bit image (24, 40) that contains all 256 values."""
    values = np.linspace(0, 255, 24 * 40).round().astype(np.uint8)
    return np.random.default_rng(0).permutation(values).reshape(24, 40)


def as_read(grey):
    return torch.from_numpy(grey.astype(np.float32) / np.float32(np.iinfo(grey.dtype).max))[None]


def encoded(grey, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, kind, quality=95)
    return stream.getvalue()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA", "P"])
def test_every_storage_of_one_radiograph_reads_the_same(tmp_path, grey, mode):
    image, options, rng = Image.fromarray(grey), {}, np.random.default_rng(1)
    if mode == "P":
        image, options = image.remap_palette(rng.permutation(256).tolist()), {"transparency": bytes(range(256))}
    else:
        image = image.convert(mode.removesuffix("A"))
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(rng.integers(0, 256, grey.shape).astype(np.uint8)))
    image.save(tmp_path / "image.png", **options)
    read = read_image(tmp_path / "image.png")
    assert read.dtype == torch.float32
    assert torch.equal(read, as_read(grey))
    assert torch.equal(read_image(image), read)  # before it was saved
    with Image.open(tmp_path / "image.png") as opened:
        info = dict(opened.info)
        assert torch.equal(read_image(opened), read)
        assert opened.info == info


def test_arrays_and_tensors_read_as_files_do(grey):
    expected, wide = as_read(grey), grey.astype(np.uint16) * 257  # 255 * 257 = 65535: the same fractions in 16 bits
    colour = np.repeat(grey[..., None], 3, axis=2)
    fraction = expected[0].numpy()
    arrays = [grey, grey[None], grey[..., None], colour, wide, wide.astype(">u2"), fraction, fraction.astype(float)]
    for array in arrays:
        assert torch.equal(read_image(array), expected)
    for tensor in (torch.from_numpy(grey), torch.from_numpy(grey)[None], expected.double(), expected.requires_grad_()):
        assert torch.equal(read_image(tensor), expected)
    assert torch.equal(read_image(grey[:, ::-1]), expected.flip(2))
    assert torch.equal(read_image(grey > 127), (expected > 127 / 255).float())
    torch.testing.assert_close(read_image(expected.bfloat16()), expected, rtol=0, atol=0.01)
    read_image(fraction).zero_()
    assert fraction.max() == 1  # the caller's array is unchanged


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((1, 0)), ValueError, r"\(1, 0\)"),
        (torch.zeros(3, 8, 8), ValueError, r"\(3, 8, 8\)"),
        (torch.rand(1, 8, 8) * 255 + 2, ValueError, "before normalisation"),
        (torch.full((1, 8, 8), torch.nan), ValueError, "nan"),
        (torch.rand(8, 8) - 1, ValueError, "before normalisation, got -"),
        (np.zeros((8, 8, 3)), ValueError, r"\(8, 8, 3\)"),  # only bytes may be in colour
        (np.zeros((8, 8), dtype=np.int16), TypeError, "int16"),
        (np.zeros((8, 8), dtype=np.uint32), TypeError, "uint32"),
        (Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)), ValueError, "16 bits"),
        ([[0.0, 1.0]], TypeError, "list"),
        (io.StringIO("text"), TypeError, "'rb'"),
    ],
)
def test_other_objects_are_refused_without_printing_them(image, error, message):
    with pytest.raises(error, match=message) as caught:
        read_image(image)
    assert len(str(caught.value)) < 150


def test_a_photograph_warns_and_coloured_marks_do_not(tmp_path, grey):
    film = np.repeat(np.tile(grey, (10, 10))[..., None], 3, axis=2)
    marked = film.copy()
    marked[:60, :200] = 255, 0, 0  # an eighth of the pixels
    Image.fromarray(marked).convert("P").save(tmp_path / "marked.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(tmp_path / "marked.png")
    Image.fromarray(film // 2 + np.uint8([100, 50, 0])).convert("P").save(tmp_path / "photo.png")
    with pytest.warns(UserWarning, match=r"photo\.png' is in colour") as said:
        read_image(tmp_path / "photo.png")
    assert len(said) == 1


def test_a_preview_within_a_jpeg_is_no_second_page(tmp_path, grey):
    image = Image.fromarray(grey)
    image.save(tmp_path / "one.jpg")
    image.save(tmp_path / "two.jpg", format="MPO", save_all=True, append_images=[image.resize((8, 8))])
    assert torch.equal(read_image(tmp_path / "two.jpg"), read_image(tmp_path / "one.jpg"))


def test_one_and_sixteen_bits_are_kept(tmp_path):
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    for name, kind in (("image.png", "<u2"), ("big_endian.tif", ">u2")):
        Image.fromarray(values.astype(kind)).save(tmp_path / name)
        assert torch.equal(read_image(tmp_path / name), as_read(values))
    Image.fromarray(values % 96 == 0).save(tmp_path / "bits.png")
    assert torch.equal(read_image(tmp_path / "bits.png")[0], torch.from_numpy(values % 96 == 0).float())


def tiff(pixels, height, width, bits, *, photometric=1, sample_format=1):
    """Write a TIFF by hand (TIFF 6.0): little-endian, one strip, one sample per pixel."""
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    entries |= {279: len(pixels), 339: sample_format}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    offset = 8 + len(pixels)
    end = struct.pack("<H", len(entries)) + directory + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, offset) + pixels + end


@pytest.mark.parametrize(("bits", "white_is_zero"), [(8, True), (12, False), (16, False), (16, True)])
def test_bits_and_polarity_of_a_tiff(bits, white_is_zero):
    values = np.random.default_rng(0).integers(0, 2**bits, (6, 10))
    if bits == 12:  # two pixels in three bytes
        pairs = values.reshape(-1, 2)
        packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
        pixels = packed.astype(np.uint8).tobytes()
    else:
        pixels = values.astype(f"<u{bits // 8}").tobytes()
    file = io.BytesIO(tiff(pixels, 6, 10, bits, photometric=0 if white_is_zero else 1))
    expected = values / (2**bits - 1)
    np.testing.assert_allclose(read_image(file)[0], 1 - expected if white_is_zero else expected, atol=1e-7)


def test_pixels_without_a_known_white_level_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.ones((4, 4), dtype=np.int32)).save(tmp_path / "wide.tif")
    (tmp_path / "signed.tif").write_bytes(tiff(bytes(32), 4, 4, 16, sample_format=2))
    for name in ("float.tif", "wide.tif", "signed.tif"):
        with pytest.raises(ValueError, match=rf"{name}': pixels of mode"):
            read_image(tmp_path / name)


def test_several_pages_are_refused(tmp_path, grey):
    Image.fromarray(grey).save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(grey[::-1])])
    with pytest.raises(ValueError, match=r"a\.tif': 2 pages, expected one"):
        read_image(tmp_path / "a.tif")


def test_exif_orientation_is_applied(tmp_path, grey):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise: EXIF 2.3, 4.6.4
    Image.fromarray(grey).save(tmp_path / "image.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "image.png"), as_read(np.rot90(grey, -1)))


def test_resize_equals_torch_antialiased_interpolation_and_stays_in_range(grey):
    full = as_read(grey)
    for size in [(7, 11), (24, 40), (48, 30), (100, 100)]:
        expected = torch.nn.functional.interpolate(full[None], size=size, mode="bilinear", antialias=True)[0]
        torch.testing.assert_close(read_image(grey, size=size), expected, rtol=0, atol=1e-5)
    white = read_image(np.full((97, 89), 255, dtype=np.uint8), size=(31, 200))
    assert 1 - 1e-6 < white.min() <= white.max() <= 1


@pytest.mark.parametrize("size", ["12", 3.5, (3,), (3, None), 0])
def test_sizes_of_another_kind_are_refused(grey, size):
    with pytest.raises(ValueError, match="size"):
        read_image(grey, size=size)


def test_open_files_read_as_their_path(tmp_path, grey):
    path = tmp_path / "image.png"
    path.write_bytes(encoded(grey))
    with path.open("rb") as file:
        file.seek(5)  # still read from the start
        assert torch.equal(read_image(file), as_read(grey))
        assert not file.closed
    assert torch.equal(read_image(SimpleNamespace(read=path.read_bytes)), as_read(grey))
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(path, "member.png")
    with tarfile.open(tmp_path / "images.tar", "r|") as archive:  # cannot seek
        assert torch.equal(read_image(archive.extractfile(archive.next())), as_read(grey))


def test_damage_of_an_open_file_is_an_error_that_names_it(grey):
    file = io.BytesIO(encoded(grey)[:-30])
    for name, said in ((None, "from the open file"), ("member.png", r"'member\.png'")):
        file.name = name
        with pytest.raises(ValueError, match=f"cannot read image {said}: "):
            read_image(file)


def test_no_truncated_or_damaged_png_gives_another_picture(monkeypatch, grey):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as several packages do
    whole = encoded(grey)
    damaged = [whole[:length] for length in range(0, len(whole), 7)]
    for position in range(0, len(whole), 3):
        damaged.append(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
    read = 0
    for data in damaged:
        try:
            image = read_image(io.BytesIO(data))
        except ValueError as error:
            assert "cannot read image" in str(error)  # noqa: PT017
        else:
            read += 1
            assert torch.equal(image, as_read(grey))  # damage in the IEND chunk or the checksum of a metadata chunk
    assert read < 5


def test_no_truncated_jpeg_is_read(monkeypatch, grey):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = encoded(grey, "JPEG")
    assert (read_image(io.BytesIO(whole)) - as_read(grey)).abs().max() < 0.05
    for length in range(0, len(whole), 7):
        with pytest.raises(ValueError, match="cannot read image"):
            read_image(io.BytesIO(whole[:length]))


def test_content_that_is_no_image_is_refused(tmp_path, grey):
    for content, reason in ((b"", "empty file"), (encoded(grey, "GIF"), "not a PNG, JPEG, TIFF or DICOM file")):
        (tmp_path / "image.png").write_bytes(content)
        with pytest.raises(ValueError, match=rf"cannot read image .*image\.png': {reason}"):
            read_image(tmp_path / "image.png")
