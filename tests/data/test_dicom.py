"""Each step of the DICOM grey-scale pipeline, compared with a closed form on generated files."""

import sys
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from causalcxr.data.image import read_image

pydicom = pytest.importorskip("pydicom")

from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def make(pixels, *, bits=12, **changes):
    """Return a DICOM radiograph with the given stored values."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, uid.generate_uid()
    ds.Modality = "DX"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    ds.PhotometricInterpretation = "MONOCHROME2" if ds.SamplesPerPixel == 1 else "RGB"
    ds.PlanarConfiguration = 0
    ds.BitsAllocated = 8 * pixels.itemsize
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OB" if bits <= 8 else "OW"
    for name, value in changes.items():
        setattr(ds, name, value)
    return ds


def save(ds, path):
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a radiograph and reads it back as (H, W) float64."""

    def write_and_read(pixels, **changes):
        path = save(make(pixels, **changes), tmp_path / "IM0001")  # recognised by content, not by suffix
        image = read_image(path)
        assert (image.dtype, image.shape[0]) == (torch.float32, 1)
        assert 0 <= image.min() <= image.max() <= 1
        return image[0].double().numpy()

    return write_and_read


def table(entries, first, bits, vr="US"):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", vr, entries if vr == "US" else np.array(entries, "<u2").tobytes())
    return item


@pytest.mark.parametrize(("bits", "dtype"), [(8, "u1"), (12, "u2"), (24, "u4")])
def test_without_a_window_the_declared_bits_are_the_range(read, bits, dtype):
    values = np.linspace(0, 0.6 * (2**bits - 1), 24 * 40).astype(dtype).reshape(24, 40)
    expected = values / (2**bits - 1)
    np.testing.assert_allclose(read(values, bits=bits), expected, atol=1e-7)
    inverted = read(values, bits=bits, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(inverted, 1 - expected, atol=1e-7)


def test_pixels_that_span_less_than_half_of_the_declared_bits_are_stretched_unless_there_is_a_window(read):
    values = (np.linspace(0, 2**11 - 1, 24 * 40) + 100).astype(np.uint16).reshape(24, 40)
    expected = (values - 100.0) / (2**11 - 1)
    np.testing.assert_allclose(read(values), expected, atol=1e-7)
    np.testing.assert_allclose(read(values, RescaleSlope=-2, RescaleIntercept=5), 1 - expected, atol=1e-7)
    windowed = read(values, WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(windowed, values / 4095, atol=1e-7)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("dtype", "vr", "padding", "filled"),
    [
        ("uint16", "SS", [-1], 65535),  # signedness differs from the pixels', as from some writers
        ("int16", "US", [63536], -2000),
        ("int16", "SS", [-30000, -10], -2000),
        ("uint16", "US", [65535, 60000], 62000),  # the limit may be the lower end, as for MONOCHROME1
    ],
)
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 22000, "WindowWidth": 4000, "VOILUTFunction": "LINEAR_EXACT"}])
def test_padding_is_black_and_no_part_of_the_range(tmp_path, kind, dtype, vr, padding, filled, window):
    film = np.linspace(20000, 24000, 24 * 40).astype(dtype).reshape(24, 40)
    ds = make(np.pad(film, 8, constant_values=filled), bits=16, PhotometricInterpretation=kind, **window)
    for name, value in zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), padding, strict=False):
        ds.add_new(name, vr, value)
    shown = read_image(save(ds, tmp_path / "padded.dcm"))[0]
    expected = (film - 20000.0) / 4000
    expected = np.pad(1 - expected if kind == "MONOCHROME1" else expected, 8)
    np.testing.assert_allclose(shown, expected, atol=1e-6)


def test_a_single_value_is_not_stretched_and_is_black_if_it_is_padding(read):
    constant = np.full((8, 8), 819, dtype=np.uint16)
    np.testing.assert_allclose(read(constant), 0.2, atol=1e-6)
    assert not read(constant, PixelPaddingValue=819).any()


def test_the_declared_range_is_that_of_signed_and_rescaled_values(read):
    signed = RAMP.astype(np.int16) - 2048
    np.testing.assert_allclose(read(signed, RescaleSlope=0.5, RescaleIntercept=7), RAMP / 4095, atol=1e-7)


def test_an_empty_element_counts_as_absent(read):
    shown = read(RAMP, RescaleSlope=2, RescaleIntercept=None, WindowCenter=4096, WindowWidth=8192, VOILUTFunction="")
    np.testing.assert_allclose(shown, RAMP / 4095.5, atol=1e-6)
    for window in ({"WindowCenter": None, "WindowWidth": None}, {"WindowCenter": 9}, {"WindowWidth": 9}):
        np.testing.assert_allclose(read(RAMP, **window), RAMP / 4095, atol=1e-7)


@pytest.mark.parametrize(
    ("function", "formula"),
    [
        (None, lambda x: np.clip((x - 500) / 699 + 0.5, 0, 1)),
        ("LINEAR_EXACT", lambda x: np.clip((x - 500.5) / 700 + 0.5, 0, 1)),
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 500.5) / 700))),
    ],
)
@pytest.mark.parametrize(("slope", "intercept"), [(0.5, -300), (-1, 2000)])
def test_windows_are_those_of_the_standard(read, function, formula, slope, intercept):
    """PS3.3, C.11.2.1.2 and C.11.2.1.3, where the first of several windows is used."""
    signed = RAMP.astype(np.int16) - 2048
    window = {"WindowCenter": [500.5, 3000], "WindowWidth": [700, 100]}
    window |= {} if function is None else {"VOILUTFunction": function}
    shown = read(signed, RescaleSlope=slope, RescaleIntercept=intercept, **window)
    np.testing.assert_allclose(shown, formula(slope * signed.astype(float) + intercept), atol=1e-6)


@pytest.mark.parametrize(("bits", "vr"), [(8, "OW"), (12, "US"), (16, "OW")])
def test_a_table_maps_values_and_holds_its_ends(read, bits, vr):
    entries = (np.sqrt(np.linspace(0, 1, 1000)) * (2**bits - 1)).astype(int)
    shown = read(RAMP, VOILUTSequence=[table(entries.tolist(), 500, bits, vr)], WindowCenter=1, WindowWidth=2)
    np.testing.assert_allclose(shown, entries[np.clip(RAMP.astype(int) - 500, 0, 999)] / (2**bits - 1), atol=1e-7)


def test_a_full_table_ends_at_the_last_value_of_its_type(read):
    """Its number of entries, 65,536, is declared as 0. Rescaled values exceed 16 bits."""
    shown = read(RAMP, RescaleSlope=20, VOILUTSequence=[table([*range(65535, -1, -1)], 0, 16, "OW")])
    np.testing.assert_allclose(shown, 1 - np.minimum(RAMP * 20.0, 65535) / 65535, atol=1e-7)


def test_a_modality_table_comes_before_the_window(read):
    item = table((np.arange(4096) // 16).tolist(), 0, 8)
    item.ModalityLUTType = "OD"
    np.testing.assert_allclose(read(RAMP, ModalityLUTSequence=[item]), (RAMP // 16) / 255, atol=1e-7)
    for rescale in ({}, {"RescaleSlope": -3, "RescaleIntercept": 9}):  # not used beside a table
        windowed = read(RAMP, ModalityLUTSequence=[item], WindowCenter=128.5, WindowWidth=129, **rescale)
        np.testing.assert_allclose(windowed, np.clip((RAMP.astype(int) // 16 - 128) / 128 + 0.5, 0, 1), atol=1e-7)


@pytest.mark.filterwarnings("ignore:image .* is in colour")
@pytest.mark.parametrize("kind", ["RGB", "YBR_FULL"])
def test_colour_is_reduced_to_luminance_as_in_other_formats(read, tmp_path, kind):
    colours = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    image = Image.fromarray(colours)
    image.save(tmp_path / "image.png")
    pixels = np.asarray(image.convert("YCbCr")) if kind == "YBR_FULL" else colours
    shown = read(pixels, bits=8, PhotometricInterpretation=kind)
    np.testing.assert_allclose(shown, read_image(tmp_path / "image.png")[0], atol=0.01 if kind == "YBR_FULL" else 0)


def test_memory_is_that_of_the_pixels(tmp_path):
    window = {"PixelPaddingValue": 4000, "RescaleSlope": 2, "RescaleIntercept": 1, "WindowCenter": 9, "WindowWidth": 9}
    path = save(make(np.tile(RAMP, (16, 16)), **window), tmp_path / "large.dcm")
    read_image(path)  # loads pydicom
    tracemalloc.start()
    read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 4096 * 256  # bytes per pixel


@pytest.mark.parametrize(
    ("field", "good", "bad"), [("BodyPartExamined", "CHEST", "HAND"), ("ViewPosition", "PA", "LL")]
)
def test_a_film_of_another_part_or_view_gives_a_warning(read, field, good, bad):
    expected = read(RAMP, **{field: good})
    with pytest.warns(UserWarning, match=f"IM0001' has {field} {bad}, expected "):
        np.testing.assert_array_equal(read(RAMP, **{field: bad}), expected)


def test_raw_pixels_warn(tmp_path):
    path = save(make(RAMP, PresentationIntentType="FOR PROCESSING"), tmp_path / "raw.dcm")
    with pytest.warns(UserWarning, match=r"raw\.dcm' is FOR PROCESSING") as said:
        read_image(path)
    assert [warning.filename for warning in said] == [__file__]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"NumberOfFrames": 3, "PixelData": RAMP.tobytes() * 3}, "3 frames"),
        ({"Modality": "CT"}, "modality CT"),
        ({"Modality": "MG"}, "modality MG"),
        ({"HighBit": 15}, "high bit 15 of 12 bits, expected 11"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"RescaleSlope": float("nan"), "RescaleIntercept": 1}, "gives nan"),
        ({"WindowCenter": 1, "WindowWidth": 5, "VOILUTFunction": "CUBIC"}, "CUBIC"),
        ({"VOILUTSequence": [table([0, 300], 0, 8)]}, "grey values from 0 to 1"),
        ({"PixelData": None}, ""),
    ],
)
def test_files_that_cannot_be_shown_are_refused_with_the_reason(tmp_path, changes, message):
    path = save(make(RAMP, **changes), tmp_path / "bad.dcm")
    with pytest.raises(ValueError, match=rf"cannot read image '.*bad\.dcm': .*{message}"):
        read_image(path)


def test_every_truncation_is_refused(tmp_path):
    path = save(make(RAMP[:8, :8].copy()), tmp_path / "whole.dcm")
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 5):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cannot read image '.*whole\.dcm'"):
            read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom warns about some of the damage
@pytest.mark.parametrize(
    "shown", [{"VOILUTSequence": [table([*range(100)], 0, 8)]}, {"WindowCenter": 3, "WindowWidth": 40}]
)
def test_damaged_bytes_give_an_error_or_a_picture_in_range(tmp_path, shown):
    path = save(make(RAMP[:8, :8].copy(), RescaleSlope=2, **shown), tmp_path / "damaged.dcm")
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.integers(132, len(whole))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            image = read_image(path)
        except ValueError:
            refused += 1
        else:
            assert 0 <= image.min() <= image.max() <= 1
    assert 10 < refused < 140


def test_without_pydicom_the_package_is_named(tmp_path, monkeypatch):
    path = save(make(RAMP), tmp_path / "image.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match="DICOM files need pydicom: pip install pydicom"):
        read_image(path)
