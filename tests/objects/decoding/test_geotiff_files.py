"""GeoTIFF: bands, scale and offset, and pixels without data."""

import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio

from odis.config.pixels import PixelFormat
from odis.errors import DataError
from odis.objects.images import header_sizes
from odis.objects.pixels import load_pixels, load_raw

BANDS = np.random.default_rng(0).integers(1, 10_000, (13, 6, 9)).astype(np.uint16)
PLACE = rasterio.transform.from_origin(500_000, 5_000_000, 10, 10)
ALL = PixelFormat(13, ((0.0, 10_000.0),))


def write(path: Path, values: np.ndarray, **more: object) -> Path:
    count, height, width = values.shape
    profile = {"driver": "GTiff", "width": width, "height": height, "count": count, "dtype": values.dtype}
    with rasterio.open(path, "w", transform=PLACE, crs="EPSG:32632", **profile, **more) as file:
        file.write(values)
    return path


@pytest.mark.parametrize(
    "more", [{}, {"interleave": "band"}, {"tiled": True, "blockxsize": 16, "blockysize": 16}]
)
def test_thirteen_bands_of_16_bits(tmp_path: Path, more: dict) -> None:
    path = write(tmp_path / "a.tif", BANDS, **more)
    assert header_sizes(path) == [(9, 6)]
    assert np.array_equal(load_raw(path, (9, 6)).values, BANDS.transpose(1, 2, 0))
    expected = np.rint(BANDS.transpose(1, 2, 0) * (255.0 / 10_000)).astype(np.uint8)
    assert np.array_equal(load_pixels(path, None, ALL), expected)
    assert np.array_equal(load_pixels(path, None, ALL, path.read_bytes()), expected)


def test_scale_and_offset_are_applied_and_pixels_without_data_are_missing(tmp_path: Path) -> None:
    values = BANDS[:2].copy()
    values[:, 0, 0] = 0
    path = write(tmp_path / "a.tif", values, nodata=0)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.5, 1.0), (-100.0, 0.0)
    raw = load_raw(path)
    expected = values.transpose(1, 2, 0) * np.array([0.5, 1.0]) + np.array([-100.0, 0.0])
    assert raw.missing is not None
    assert raw.missing[0, 0].all()
    assert not raw.missing[1:].any()
    assert np.abs(raw.values - expected).max() <= 10_000 * 2**-23
    pixels = load_pixels(path, None, PixelFormat(2, ((-1000.0, 10_000.0),)))
    assert pixels[0, 0].tolist() == [0, 0]  # not 23, which a stored 0 would be


def test_a_file_is_opened_once_to_see_what_it_is_and_once_to_read_it(
    tmp_path: Path, opens: Counter[str]
) -> None:
    path = write(tmp_path / "a.tif", BANDS)
    opens.clear()
    load_pixels(path, (9, 6), ALL)
    assert opens == {"a.tif": 2}
    with pytest.raises(DataError, match="is 9 x 6 pixels, but its objects are for 6 x 9"):
        load_pixels(path, (6, 9), ALL)


def test_floats_that_are_no_number_are_missing(tmp_path: Path) -> None:
    values = BANDS[:1].astype(np.float32)
    values[0, 2, 3] = np.nan
    raw = load_raw(write(tmp_path / "a.tif", values))
    assert raw.missing is not None
    assert np.argwhere(raw.missing).tolist() == [[2, 3, 0]]


def test_bits_that_are_stated_are_the_range(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.full((2, 6, 9), 4095, np.uint16), nbits=12)
    assert (load_pixels(path, None, PixelFormat(2)) == 255).all()
    grey = write(tmp_path / "b.tif", np.full((1, 6, 9), 4095, np.uint16), nbits=12, nodata=4095)
    assert (load_pixels(grey, None, PixelFormat(1)) == 0).all()
    # Of three channels without a range Pillow is asked, which knows neither.
    assert (load_pixels(grey) == round(4095 * 255 / 65535)).all()


def _sum(path: Path) -> int:
    return int(load_pixels(path, None, ALL).sum())


def test_threads_and_processes_read_what_one_reads(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{k}.tif", np.roll(BANDS, k) // (k + 1)) for k in range(4)]
    alone = [_sum(path) for path in paths]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(_sum, paths * 5)) == alone * 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads at a fork, which is what this is about
        with ProcessPoolExecutor(2) as pool:
            assert list(pool.map(_sum, paths)) == alone
