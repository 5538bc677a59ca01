"""DICOM: each photometric type has fixed values; rescale, then window, then invert."""

from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from odis.config.pixels import RGB, PixelFormat
from odis.data.pixels.decode import decode
from odis.errors import DataError
from odis.objects.clean import usable_size
from odis.objects.images import header_sizes, load_image
from odis.objects.index import ObjectIndex
from odis.objects.listing import IMAGE_SUFFIXES
from odis.objects.pixel_statistics import measure_pixels
from odis.objects.pixels import load_picture, load_pixels
from odis.types import Skipped

STORED = np.array([[0, 1024, 2048], [3071, 4095, 1000]], np.uint16)
GREY = PixelFormat(1)


def write(path: Path, pixels: np.ndarray = STORED, photometric: str = "MONOCHROME2", **more: object) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    bits = 8 * pixels.dtype.itemsize
    data.Rows, data.Columns = pixels.shape[:2] if photometric != "frames" else pixels.shape[1:]
    data.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 and photometric != "frames" else 1
    data.PhotometricInterpretation = "MONOCHROME2" if photometric == "frames" else photometric
    if data.SamplesPerPixel > 1:
        data.PlanarConfiguration = 0
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, 12 if bits == 16 else 8, 11 if bits == 16 else 7
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in more.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    data.save_as(path)
    return path


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(int)


def test_stored_bits_are_the_range_without_a_window(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm")
    assert ".dcm" in IMAGE_SUFFIXES
    assert header_sizes(path) == [(3, 2)]
    assert np.array_equal(load_pixels(path, (3, 2), GREY)[..., 0], expected(STORED, 0, 4095))
    assert np.array_equal(np.array(load_image(path))[..., 1], expected(STORED, 0, 4095))
    assert np.array_equal(decode(path, (3, 2)).pixels[1], expected(STORED, 0, 4095))
    assert np.array_equal(load_pixels(path, None, GREY, path.read_bytes())[..., 0], expected(STORED, 0, 4095))


@pytest.mark.parametrize(
    ("more", "low", "high"),
    [
        ({}, -1024.0, 3071.0),
        # PS3.3, C.11.2.1.2.1: at most c - .5 - (w - 1) / 2 is black, above c - .5 + (w - 1) / 2 white.
        ({"WindowCenter": 40, "WindowWidth": 400}, 40 - 0.5 - 199.5, 40 - 0.5 + 199.5),
        ({"WindowCenter": ["40", "600"], "WindowWidth": ["400", "2800"]}, -160.0, 239.0),
        (
            {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"},
            -160.0,
            240.0,
        ),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_rescale_then_window_then_invert(
    tmp_path: Path, photometric: str, more: dict, low: float, high: float
) -> None:
    path = write(tmp_path / "a.dcm", photometric=photometric, RescaleSlope=1, RescaleIntercept=-1024, **more)
    shown = expected(STORED.astype(int) - 1024, low, high)
    found = load_pixels(path, None, GREY)[..., 0]
    assert np.array_equal(found, shown if photometric == "MONOCHROME2" else 255 - shown)


def test_ranges_of_ones_own_are_in_rescaled_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", RescaleIntercept=-1024, RescaleSlope=1, WindowCenter=40, WindowWidth=9)
    found = load_pixels(path, None, PixelFormat(1, ((-1000.0, 1000.0),)))[..., 0]
    assert np.array_equal(found, expected(STORED.astype(int) - 1024, -1000, 1000))


def test_signed_numbers_and_a_sigmoid(tmp_path: Path) -> None:
    signed = np.array([[-2048, -1, 0, 2047]], np.int16)
    found = load_pixels(write(tmp_path / "a.dcm", signed), None, GREY)[..., 0]
    assert np.array_equal(found, expected(signed, -2048, 2047))
    sigmoid = {"VOILUTFunction": "SIGMOID", "WindowCenter": 2048, "WindowWidth": 1000}
    found = load_pixels(write(tmp_path / "b.dcm", **sigmoid), None, GREY)[..., 0]
    exact = 255 / (1 + np.exp(-4 * (STORED.astype(float) - 2048) / 1000))
    assert np.abs(found - exact).max() <= 0.6  # the package rounds to the file's 12 bits first


def test_colours_are_rgb_whatever_they_are_stored_as(tmp_path: Path) -> None:
    rgb = np.array([[[200, 30, 40], [10, 250, 90], [128, 128, 128]]], np.uint8)
    assert np.array_equal(np.array(load_image(write(tmp_path / "a.dcm", rgb, "RGB"))), rgb)
    r, g, b = (rgb[..., c].astype(float) for c in range(3))
    ybr = np.stack(
        [
            0.299 * r + 0.587 * g + 0.114 * b,
            128 - 0.168736 * r - 0.331264 * g + 0.5 * b,
            128 + 0.5 * r - 0.418688 * g - 0.081312 * b,
        ],
        axis=-1,
    )
    stored = np.rint(ybr).astype(np.uint8)
    found = np.array(load_image(write(tmp_path / "b.dcm", stored, "YBR_FULL"))).astype(int)
    assert np.abs(found - rgb).max() <= 2  # of rounding to 8 bits in between


def test_a_palette_gives_its_colours(tmp_path: Path) -> None:
    entries = np.array([0, 65535, 32768], "<u2")
    palettes = {
        f"{name}PaletteColorLookupTable{what}": value
        for name, turn in (("Red", 0), ("Green", 1), ("Blue", 2))
        for what, value in (("Descriptor", [3, 0, 16]), ("Data", np.roll(entries, turn).tobytes()))
    }
    numbers = np.array([[0, 1, 2]], np.uint8)
    found = np.array(load_image(write(tmp_path / "a.dcm", numbers, "PALETTE COLOR", **palettes)))
    table = np.stack([np.roll(entries, turn) for turn in range(3)], 1)
    assert np.array_equal(found[0], np.rint(table * (255 / 65535)).astype(int))


def test_frames_after_the_first_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", np.stack([STORED, STORED // 2, STORED // 3]), "frames", NumberOfFrames=3)
    assert np.array_equal(load_pixels(path, None, GREY)[..., 0], expected(STORED, 0, 4095))
    passed: list[Skipped] = []
    assert usable_size(path, passed.append) == (3, 2)
    assert [(one.why, getattr(one, "count", 0)) for one in passed] == [("further frames of DICOM files", 2)]


def test_a_file_is_opened_once_an_image(tmp_path: Path, opens: Counter[str]) -> None:
    path = write(tmp_path / "a.dcm")
    for form in (GREY, RGB, PixelFormat(1, ((0.0, 99.0),))):
        opens.clear()
        decode(path, (3, 2), form=form)
        assert opens == {"a.dcm": 1}
    opens.clear()
    load_picture(path)
    assert opens == {"a.dcm": 1}
    with pytest.raises(DataError, match="is 3 x 2 pixels, but its objects are for 2 x 3"):
        decode(path, (2, 3), form=GREY)


def test_a_file_without_an_image_is_named(tmp_path: Path) -> None:
    data = pydicom.dcmread(write(tmp_path / "a.dcm", Modality="SR"))
    for name in ("Rows", "Columns", "PixelData"):
        delattr(data, name)
    data.save_as(tmp_path / "a.dcm")
    with pytest.raises(DataError, match=r"a.dcm: is a DICOM file without an image \(modality SR\)"):
        header_sizes(tmp_path / "a.dcm")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["sigmoid", "table", "window"])
def test_dicom_is_measured_as_training_by_the_recipe_reads_it(tmp_path: Path, kind: str, bits: int) -> None:
    """With a range of its own, training does not look at the window, sigmoid or table of the file."""
    most, rng = 255 if bits == 8 else 4095, np.random.default_rng(0)
    numbers = rng.integers(0, most // 2, (3, 40, 50)).astype(f"u{bits // 8}")
    more: dict[str, object] = {"WindowCenter": most // 8, "WindowWidth": most // 8}
    if kind == "sigmoid":
        more["VOILUTFunction"] = "SIGMOID"
    elif kind == "table":
        (table := Dataset()).LUTDescriptor = [most + 1, 0, 16]
        table.LUTData = (np.sqrt(np.arange(most + 1) / most) * 65535).astype("<u2").tobytes()
        more = {"VOILUTSequence": [table]}
    for k, one in enumerate(numbers):
        write(tmp_path / f"{k}.dcm", one, **more)
    found = measure_pixels(ObjectIndex.open(tmp_path))
    form = PixelFormat(1, found.value_ranges)
    read = np.stack([load_pixels(path, None, form) for path in sorted(tmp_path.iterdir())]) / 255
    # A pixel is rounded to one of 256 levels, and the recipe's numbers to four digits.
    assert abs(read.mean() - found.mean[0]) <= 0.5 / 255 + 1e-4
    assert abs(read.std() - found.std[0]) <= 0.5 / 255 + 1e-4
    assert read.std() > 0.05
