"""Pixels of any image: depth, orientation, and bytes that are no image."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.config.pixels import RGB, PixelFormat
from odis.data.views import as_colours
from odis.errors import DataError
from odis.objects.images import header_sizes, load_image
from odis.objects.pixels import ShownImage, load_picture, load_pixels, load_raw

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 4096, (5, 7)).astype(np.uint16)
WIDE = PixelFormat(1, ((0.0, 4095.0),))


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16-bit colours, written by hand (W3C PNG, sections 5 and 11)."""
    import struct
    import zlib

    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">LLBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    made = b"".join(
        struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + made


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jp2"])
def test_a_16_bit_file_by_a_stated_range(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(DEEP).save(path, **({"irreversible": False} if name == "a.jp2" else {}))
    found = load_pixels(path, (7, 5), WIDE)
    assert np.array_equal(found[..., 0], np.rint(DEEP * (255.0 / 4095)).astype(np.uint8))
    assert np.array_equal(load_pixels(path, None, WIDE, path.read_bytes()), found)
    assert np.array_equal(load_pixels(path), np.array(load_image(path)))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_16_bits_keep_all_of_them(tmp_path: Path, channels: int) -> None:
    values = RNG.integers(0, 65536, (4, 6, channels)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png16(values))
    assert np.array_equal(load_raw(tmp_path / "a.png").values, values)
    four = load_pixels(tmp_path / "a.png", None, PixelFormat(channels, ((0.0, 65535.0),)))
    assert np.array_equal(four, np.rint(values * (255.0 / 65535)).astype(np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_turns_channels_as_it_turns_colours(tmp_path: Path, orientation: int) -> None:
    """The marked corner of a grey and of a colour image, by the same rule as Pillow's own."""
    grey = np.zeros((4, 6), np.uint8)
    grey[0, 0], grey[1, 4] = 255, 100
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(grey).save(tmp_path / "a.png", exif=exif)
    turned = np.array(load_image(tmp_path / "a.png"))[..., 0]
    one = load_pixels(tmp_path / "a.png", None, PixelFormat(1))[..., 0]
    assert np.array_equal(one, turned)
    # Annotations of the stored pixels keep them as they are stored.
    if orientation >= 5:
        assert np.array_equal(load_pixels(tmp_path / "a.png", (6, 4), PixelFormat(1))[..., 0], grey)
    with pytest.raises(DataError, match="its objects are for 9 x 9"):
        load_pixels(tmp_path / "a.png", (9, 9), PixelFormat(1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "RGBA"])
def test_every_mode_gives_one_channel_and_three(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)).convert(mode)
    image.save(tmp_path / "a.tif")
    rgb = np.array(image.convert("RGB"))
    assert np.array_equal(load_pixels(tmp_path / "a.tif", None, PixelFormat(3, ((0.0, 255.0),))), rgb) or (
        mode == "1"
    )
    grey = load_pixels(tmp_path / "a.tif", None, PixelFormat(1))[..., 0]
    assert np.abs(grey - rgb.astype(np.float64) @ [0.2989, 0.587, 0.114]).max() < 1.0


def test_pictures_of_deep_images_are_not_black(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    assert np.array(load_image(tmp_path / "a.png")).max() < 16
    looked_at = load_picture(tmp_path / "a.png")
    assert np.array(looked_at.image).max() == 255
    # Networks read the file, not the picture.
    assert np.array_equal(looked_at.pixels(RGB), load_pixels(tmp_path / "a.png").transpose(2, 0, 1))
    assert np.array_equal(looked_at.pixels(WIDE)[0], np.rint(DEEP * (255.0 / 4095)).astype(np.uint8))
    plain = Image.fromarray(RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    plain.save(tmp_path / "b.png")
    assert np.array_equal(np.array(load_picture(tmp_path / "b.png").image), np.array(plain))
    with pytest.raises(DataError, match="8-bit colours, but the network reads images of 1 channel"):
        ShownImage(plain).pixels(WIDE)
    five, one = torch.rand(2, 5, 4, 6), torch.rand(2, 1, 4, 6)
    assert torch.equal(as_colours(five), five[:, :3])
    assert torch.equal(as_colours(one), one.expand(-1, 3, -1, -1))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([".png", ".tif", ".dcm", ".jp2", ".heic"]),
    st.binary(max_size=200),
    st.integers(0, 2**32 - 1),
)
def test_bytes_that_are_no_image_are_one_line(tmp_path: Path, suffix: str, noise: bytes, seed: int) -> None:
    """Noise, and files with some bytes changed: pixels, or a `DataError` that names the file."""
    written = io.BytesIO()
    Image.fromarray(DEEP).save(written, "TIFF")
    broken = bytearray(written.getvalue())
    for at in np.random.default_rng(seed).integers(0, len(broken), 6):
        broken[at] ^= 0xFF
    for content in (noise, bytes(broken), b"II*\0" + noise, b"\0" * 128 + b"DICM" + noise):
        (path := tmp_path / f"a{suffix}").write_bytes(content)
        for form in (RGB, WIDE):
            why = str(path)
            try:
                assert load_pixels(path, None, form).ndim == 3
                assert header_sizes(path)
            except DataError as error:
                why = str(error)
            assert why.startswith(str(path))
            assert "\n" not in why
