"""Pictures: oriented, without EXIF, bounded before they are decoded."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from odis.explorer import pictures
from odis.explorer.pictures import PictureStore, decode_upload, encoded
from odis.explorer.refusal import RefusedError
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object


def jpeg(pixels: np.ndarray, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    written = BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=95, exif=exif)
    return written.getvalue()


def corner() -> np.ndarray:
    """Dark, with the upper left corner bright as it is stored."""
    pixels = np.full((16, 24, 3), 20, np.uint8)
    pixels[:8, :8] = 230
    return pixels


@pytest.mark.parametrize(
    ("orientation", "size", "bright"),
    [(1, (24, 16), (3, 3)), (3, (24, 16), (20, 12)), (6, (16, 24), (12, 3)), (8, (16, 24), (3, 20))],
)
def test_orientation_is_applied_once_and_left_out_of_what_is_sent(
    tmp_path: Path, orientation: int, size: tuple[int, int], bright: tuple[int, int]
) -> None:
    content = jpeg(corner(), orientation)
    (tmp_path / "a.jpg").write_bytes(content)
    rows = [ImageObjects("a.jpg", *size, (Object((0.0, 0.0, *map(float, size))),))]
    write_index(tmp_path / "i.parquet", rows, root=tmp_path, provenance="annotated", classes=[])
    store = PictureStore(ObjectIndex.open(tmp_path / "i.parquet"))
    for sent in (store.shown(0), store.thumb(0), encoded(decode_upload(content), 2048)):
        with Image.open(BytesIO(sent)) as shown:
            assert not shown.getexif(), "else a browser would turn it again"
            assert shown.size == size
            assert shown.convert("L").getpixel(bright) > 180


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels, and next to no data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(10000, 5001), (2**31 - 1, 2**31 - 1), (100000, 100000)])
def test_a_bomb_is_refused_by_its_header(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(self: Image.Image) -> None:
        raise AssertionError("nothing is decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", decoded)
    with pytest.raises(RefusedError) as refused:
        decode_upload(png_header(width, height))
    assert refused.value.status == 413


def test_a_text_bomb_in_a_png_is_refused() -> None:
    text = zlib.compress(b"x" * 3_000_000)
    content = png_header(4, 4)
    chunk = b"zTXt" + b"k\0\0" + text
    bomb = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(RefusedError) as refused:
        decode_upload(content[:33] + bomb + content[33:])
    assert refused.value.status == 415


def test_the_last_uploads_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch, scenes: Path) -> None:
    monkeypatch.setattr(pictures, "_UPLOADS", 2)
    monkeypatch.setattr(pictures, "_SIDE", 16)
    store = PictureStore(ObjectIndex.open(scenes))
    names = [store.keep_upload(jpeg(corner(), 1)) for _ in range(3)]
    assert len(set(names)) == 3
    assert all(store.of_upload(name).size == (16, 11) for name in names[1:]), "and no larger than it need be"
    with pytest.raises(RefusedError) as refused:
        store.of_upload(names[0])
    assert refused.value.status == 404


def test_jpegs_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch, scenes: Path) -> None:
    store = PictureStore(ObjectIndex.open(scenes))
    size = len(store.thumb(0))
    monkeypatch.setattr(pictures, "_ENCODED", 3 * size)
    for row in range(8):
        store.thumb(row)
        assert store._bytes == sum(map(len, store._encoded.values())) <= 3 * size
    monkeypatch.setattr(store, "_read", lambda row: pytest.fail("it was kept"))
    assert len(store.thumb(7)) > 0


def test_a_cut_shows_the_object_and_little_else(scenes: Path) -> None:
    store = PictureStore(ObjectIndex.open(scenes))
    with Image.open(BytesIO(store.cut_out(1, 0))) as cut:
        assert cut.size == (17, 16)  # 3.7 to 19.3 and 4.7 to 19.3, in whole pixels


def test_decoded_images_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch, scenes: Path) -> None:
    monkeypatch.setattr(pictures, "_DECODED", 2 * 48 * 40)
    store = PictureStore(ObjectIndex.open(scenes))
    shown = [store.of_index(row) for row in (0, 1, 0, 2)]
    assert shown[2] is shown[0]
    assert list(store._decoded) == [0, 2]
    monkeypatch.setattr(pictures, "_DECODED", 1)
    assert store.of_index(5) is store.of_index(5), "the last one is kept, however large"
    assert list(store._decoded) == [5]
