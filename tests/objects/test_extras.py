"""Parts of image files that nobody reads are counted, whatever the format of the annotations."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from odis.objects.build import build_index
from odis.objects.clean import Unread, usable_size
from odis.objects.extras import LOW_BITS, is_dark
from odis.types import Skipped

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
FRAMES = [Image.fromarray(PIXELS + 80 * k) for k in range(3)]


def unread(path: Path) -> list[tuple[str, int]]:
    passed: list[Skipped] = []
    assert usable_size(path, passed.append) == (8, 6)
    assert all(isinstance(one, Unread) and one.what == str(path) for one in passed)
    return [(one.why, one.count) for one in passed if isinstance(one, Unread)]


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp", "a.png"])
def test_pages_after_the_first(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:])
    assert unread(path) == [(f"further pages of {Image.open(path).format} files", 2)]
    FRAMES[0].save(path)
    assert unread(path) == []


def test_a_broken_later_page_is_one(tmp_path: Path) -> None:
    FRAMES[0].save(tmp_path / "a.tif", save_all=True, append_images=FRAMES[1:])
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with Image.open(tmp_path / "a.tif") as image:
        second = image.tag_v2.next  # where its directory begins
    data[second : second + 2] = b"\xff\xff"
    (tmp_path / "a.tif").write_bytes(data)
    assert unread(tmp_path / "a.tif") in ([("further pages of TIFF files", n)] for n in (1, 2))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "1"])
def test_alpha_and_cmyk_are_no_news(tmp_path: Path, mode: str) -> None:
    FRAMES[0].convert(mode).save(tmp_path / "a.tif")
    assert unread(tmp_path / "a.tif") == []


@pytest.mark.parametrize("bands", [4, 5, 6])
def test_bands_beyond_colour(tmp_path: Path, bands: int) -> None:
    """Uncompressed pixels of 8 bits with unspecified extra samples, written by hand."""
    values = np.zeros((6, 8, bands), np.uint8)
    head = TiffImagePlugin.ImageFileDirectory_v2()
    entries: dict[int, object] = {
        256: 8, 257: 6, 258: (8,) * bands, 259: 1, 262: 2, 273: 8, 277: bands, 278: 6, 279: values.size,
        338: (0,) * (bands - 3),
    }  # fmt: skip
    for tag, value in entries.items():
        head[tag] = value
        head.tagtype[tag] = 4 if tag in (273, 279) else 3
    directory = head.tobytes(8 + values.size)
    start = (8 + values.size).to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(b"II*\0" + start + values.tobytes() + directory)
    assert unread(tmp_path / "a.tif") == [
        ("further bands of TIFF files (views.channels reads them)", bands - 3)
    ]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_half_of_sixteen_bits(tmp_path: Path, name: str) -> None:
    values = np.arange(48, dtype=np.uint16).reshape(6, 8)
    for scale, dark in ((87, True), (88, False)):
        Image.fromarray(values * scale).save(tmp_path / name)
        assert unread(tmp_path / name) == [(LOW_BITS, 1)]
        assert is_dark(str(tmp_path / name)) is dark


def test_the_summary_counts_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    FRAMES[0].save(data / "a.gif", save_all=True, append_images=FRAMES[1:])
    FRAMES[0].save(data / "b.tif", save_all=True, append_images=FRAMES[1:2])
    (data / "c.psd").touch()
    summary = build_index("folder", data, tmp_path / "x.parquet")
    assert summary.unread == {
        "further pages of GIF files": 2, ".psd files": 1, "further pages of TIFF files": 1
    }  # fmt: skip
    assert str(summary).endswith("further pages of GIF files, 1 .psd files, 1 further pages of TIFF files")
