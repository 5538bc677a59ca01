"""Statistics of pixels, against numpy over all of them."""

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import yaml
from PIL import Image

from odis.cli import run
from odis.config.options import load_recipe
from odis.config.pixels import PixelFormat
from odis.errors import ConfigError, DataError
from odis.objects.index import ObjectIndex
from odis.objects.pixel_statistics import measure_pixels
from odis.objects.pixels import load_pixels

PLACE = rasterio.transform.from_origin(0, 10, 1, 1)


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    """Four images of three bands of 16 bits without colour, each with a corner that holds no data."""
    rng = np.random.default_rng(0)
    (folder := tmp_path / "bands").mkdir()
    for k in range(4):
        values = rng.integers(100 * (k + 1), 4000, (5, 24, 32)).astype(np.uint16)
        values[:, :4, :4] = 0
        profile = {"driver": "GTiff", "width": 32, "height": 24, "count": 5, "dtype": "uint16", "nodata": 0}
        with rasterio.open(folder / f"{k}.tif", "w", transform=PLACE, **profile) as file:
            file.write(values)
    return folder


def stored(folder: Path) -> np.ndarray:
    """All pixels with data, float64 (n, 5)."""
    parts = []
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as file:
            parts.append(file.read().reshape(5, -1).T.astype(np.float64))
    found = np.concatenate(parts)
    return found[found.all(1)]


def test_ranges_means_and_deviations_leave_out_what_is_missing(bands: Path) -> None:
    found, values = measure_pixels(ObjectIndex.open(bands)), stored(bands)
    assert (found.images, found.channels, found.kinds) == (4, 5, {"5 x 16-bit": 4})
    assert found.missing == pytest.approx(16 / (24 * 32))
    assert found.low == tuple(values.min(0))
    assert found.high == tuple(values.max(0))
    low, high = np.floor(np.percentile(values, 0.1, axis=0)), np.ceil(np.percentile(values, 99.9, axis=0))
    assert found.value_ranges == tuple(zip(low.tolist(), high.tolist()))
    scaled = np.clip((values - low) / (high - low), 0, 1)
    assert np.abs(np.array(found.mean) - scaled.mean(0)).max() <= 0.5e-4 + 1e-6  # they have four digits
    assert np.abs(np.array(found.std) - scaled.std(0)).max() <= 0.5e-4 + 1e-6
    # And they normalise what a network sees, to the rounding of its 256 levels.
    form = PixelFormat(5, found.value_ranges)
    pixels = np.concatenate(
        [load_pixels(path, None, form)[4:].reshape(-1, 5) for path in sorted(bands.glob("*.tif"))]
    )
    assert np.abs(pixels.mean(0) / 255 - found.mean).max() < 0.02


def test_eight_bits_need_no_range_and_others_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(3):
        Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    Image.fromarray(rng.integers(0, 256, (8, 9), dtype=np.uint8)).save(tmp_path / "grey.png")
    (tmp_path / "z.png").write_bytes(b"no image")
    found = measure_pixels(ObjectIndex.open(tmp_path))
    assert (found.channels, found.value_ranges, found.images) == (3, None, 3)
    whys = [one.why for one in found.others]
    assert sorted(whys) == sorted(
        ["has 1 channel, most images have 3", *[w for w in whys if "not an im" in w]]
    )
    assert len(whys) == 2
    grey = measure_pixels(ObjectIndex.open(tmp_path), channels=1)
    assert (grey.channels, grey.images) == (1, 4)
    every = measure_pixels(ObjectIndex.open(tmp_path), most=2)
    assert every.images + len(every.others) == 2
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "z.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of its images can be measured; .*z.png"):
        measure_pixels(ObjectIndex.open(tmp_path / "b"))


def as_training_reads(folder: Path) -> np.ndarray:
    """Pixels in 0..1 of grey images by the recipe that is measured of them, and the recipe's mean and std."""
    found = measure_pixels(ObjectIndex.open(folder))
    form = PixelFormat(found.channels, found.value_ranges)
    pixels = [load_pixels(path, None, form).ravel() for path in sorted(folder.iterdir())]
    read = np.concatenate(pixels) / 255
    # A pixel is rounded to one of 256 levels, and the recipe's numbers to four digits.
    assert abs(read.mean() - found.mean[0]) <= 0.5 / 255 + 1e-4
    assert abs(read.std() - found.std[0]) <= 0.5 / 255 + 1e-4
    return read


def test_numbers_of_eight_bits_with_a_sign_get_a_range(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(3):
        tifffile.imwrite(tmp_path / f"{k}.tif", rng.integers(-90, 60, (20, 30), dtype=np.int8))
    found = measure_pixels(ObjectIndex.open(tmp_path))
    assert (found.kinds, found.low, found.high) == ({"1 x signed 8-bit": 3}, (-90.0,), (59.0,))
    assert as_training_reads(tmp_path).std() > 0.2
    with pytest.raises(DataError, match=r"has signed 8-bit pixels; state views.value_ranges"):
        load_pixels(tmp_path / "0.tif")


def test_eight_bits_are_measured_by_the_range_that_each_file_states(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k, most in enumerate((15, 255, 63)):
        values = rng.integers(0, most + 1, (20, 30), dtype=np.uint8)
        tifffile.imwrite(tmp_path / f"{k}.tif", values, extratags=[(281, 3, 1, most, True)], metadata=None)
    assert as_training_reads(tmp_path).mean() == pytest.approx(0.5, abs=0.02)


def test_the_command_writes_a_recipe_that_trains(bands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["index", "stats", str(bands), "--pixels", "--out", str(bands / "views.yaml")])
    assert capsys.readouterr().out.splitlines()[-1] == str(bands / "views.yaml")
    made = load_recipe(bands / "views.yaml", data=str(bands)).views
    found = measure_pixels(ObjectIndex.open(bands))
    assert (made.pixels, made.mean, made.std) == (
        PixelFormat(5, found.value_ranges), found.mean, found.std,
    )  # fmt: skip
    run(["index", "stats", str(bands), "--pixels"])
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown[shown.index("views:") :]) == {"views": found.settings()}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--out", "x.yaml"], "--out goes with --pixels"),
        (["--channels", "2"], "--channels goes with --pixels"),
        (["--pixels", "--channels", "21"], "--channels: is 21, must be from 1 to 20"),
        (["--pixels", "--max-images", "0"], "--max-images: is 0, must be 1 or more"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(why)):
        run(["index", "stats", str(tmp_path), *options])
