"""Image files: how large they are, and their pixels as 8-bit RGB. `pixels.py` reads other channels."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from odis.config.pixels import RGB
from odis.errors import DataError, UnreachableError
from odis.objects.decoding.kinds import HEIF, Reader, reader_of, register_heif
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.decoding.raw import MEASURED, RawImage, to_pixels, warn_if_dark
from odis.objects.decoding.source import Source
from odis.objects.headers import MOST_SIDE, header_of, read_header
from odis.objects.storage.address import is_elsewhere
from odis.objects.storage.reading import read_bytes

_ORIENTATION_TAG = 0x0112
_AT_ONCE = 2**20  # pixels of 16 bits that are scaled to 8 bits together

TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

SIDEWAYS = frozenset({5, 6, 7, 8})


def image_size(path: str | Path) -> tuple[int, int]:
    """`(width, height)` in pixels as a viewer shows the image (EXIF orientation applied), from the header
    alone.

    Raises:
        DataError: The file is missing, empty or not an image.
    """
    return header_sizes(path)[0]


def header_sizes(
    path: str | Path, look: Callable[[Image.Image], None] | None = None, data: bytes | None = None
) -> list[tuple[int, int]]:
    """The sizes an annotation may mean, from the header alone: as a viewer shows the image, then as it is
    stored.

    Args:
        path: The image file.
        look: Called with the open image, unless its header is so plain that there is nothing to see in it.
        data: The file's content, if it has been read.

    Raises:
        DataError: The file is missing, empty or not an image.
    """
    if data is None and is_elsewhere(path):
        data = read_bytes(str(path))
    found = read_header(path) if data is None else header_of(data)
    if found is None and (reader := reader_of(source := Source(str(path), data))) is not None:
        return [possible_size(path, reader.size(source))]
    if found is None:
        with opened(path, data) as image:
            found = (*image.size, orientation_of(image))
            if look is not None:
                look(image)
    width, height, orientation = found
    return [(height, width), (width, height)] if orientation in SIDEWAYS else [(width, height)]


def load_image(
    path: str | Path, expected_size: tuple[int, int] | None = None, data: bytes | None = None
) -> Image.Image:
    """The whole image as 8-bit RGB, turned as a viewer shows it.

    Alpha is dropped, grey repeated, 16-bit scaled to 8-bit. An image of more channels is refused.

    Args:
        path: The image file, or its address elsewhere (see `storage`).
        expected_size: `(width, height)` that its boxes and masks were made for. An image whose stored
            (unturned) size alone matches is left unturned, since then its annotations ignored the orientation
            too.
        data: The file's content, if it has been read.

    Raises:
        DataError: Naming the file: missing, empty, truncated, not an image, of another size than expected.
    """
    if data is None and is_elsewhere(path):
        data = read_bytes(str(path))
    if (reader := reader_of(source := Source(str(path), data))) is not None:
        return Image.fromarray(to_pixels(read_by(reader, source, expected_size), RGB, str(path)))
    return load_by_pillow(path, expected_size, data)


def read_by(
    reader: Reader, source: Source, expected_size: tuple[int, int] | None, ranges_stated: bool = False
) -> RawImage:
    """The numbers of an image of which `reader_of` says that it has a reader of its own.

    Raises:
        DataError: As `load_image`.
    """

    def check(width: int, height: int) -> None:
        expect_size(source.path, possible_size(source.path, (width, height)), expected_size)

    return reader.read(source, check, ranges_stated)


def load_by_pillow(
    path: str | Path, expected_size: tuple[int, int] | None = None, data: bytes | None = None
) -> Image.Image:
    """`load_image` of an image of which `reader_of` says that it is Pillow's to read."""
    with opened(path, data) as image:
        try:
            with quiet_pillow():
                image.load()
            turn = TRANSPOSE.get(turn_of(image, path, expected_size))
            rgb = to_rgb(image, path)
            return rgb if turn is None else rgb.transpose(turn)
        except DataError:
            raise
        # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ... on bad bytes
        except Exception as error:
            raise DataError(f"{path}: cannot be decoded ({reason_of(error)})") from error


def turn_of(image: Image.Image, path: str | Path, expected_size: tuple[int, int] | None) -> int:
    """The EXIF orientation by which an open image is turned: 1 if `expected_size` is that of its stored
    pixels.

    Raises:
        DataError: It is of another size either way.
    """
    orientation = orientation_of(image)
    size = (image.height, image.width) if orientation in SIDEWAYS else image.size
    if expected_size is not None and size != tuple(expected_size) and image.size == tuple(expected_size):
        return 1
    expect_size(path, size, expected_size)
    return orientation


def expect_size(path: str | Path, size: tuple[int, int], expected: tuple[int, int] | None) -> None:
    """Refuse an image of another size than its objects are for.

    Raises:
        DataError: It is.
    """
    if expected is not None and size != tuple(expected):
        raise DataError(
            f"{path}: is {size[0]} x {size[1]} pixels, but its objects are for {expected[0]} x {expected[1]}"
        )


def possible_size(path: str | Path, size: tuple[int, int]) -> tuple[int, int]:
    """The size of an image, if it is one that is read.

    Raises:
        DataError: A side, or the image, has more pixels.
    """
    width, height = size
    if max(size) > MOST_SIDE:
        raise DataError(f"{path}: is {width:,} x {height:,} pixels, and a side has at most {MOST_SIDE:,}")
    if min(size) < 1:
        raise DataError(f"{path}: is {width} x {height} pixels")
    if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise DataError(f"{path}: {_too_many(width * height)}")
    return size


def opened(path: str | Path, data: bytes | None = None) -> Image.Image:
    """The image by Pillow, its header read and nothing decoded.

    Args:
        path: The image file, or its address elsewhere.
        data: Its content, if it has been read.

    Raises:
        DataError: The file is missing, empty or not an image.
        UnreachableError: The store that it is in does not answer.
    """
    try:
        if data is None and is_elsewhere(path):
            data = read_bytes(str(path))
        if (os.path.getsize(path) if data is None else len(data)) == 0:
            raise DataError(f"{path}: is empty (0 bytes)")
        if os.path.splitext(path)[1].lower() in HEIF and not register_heif():
            raise DataError(f"{path}: needs pillow-heif: pip install 'odis[heif]'")
        with quiet_pillow():
            image = Image.open(path if data is None else io.BytesIO(data))
        if max(image.size) > MOST_SIDE:
            image.close()
            possible_size(path, image.size)
        return image
    except (DataError, UnreachableError):
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {_too_large(error)}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # a broken header makes Pillow's parsers raise almost anything
        raise DataError(f"{path}: is not an image that can be read ({reason_of(error)})") from error


def _too_large(error: Image.DecompressionBombError) -> str:
    pixels = re.search(r"\d+", str(error))
    return _too_many(int(pixels[0]) if pixels else None)


def _too_many(pixels: int | None) -> str:
    shown = "has more pixels" if pixels is None else f"has {pixels / 1e6:,.0f} megapixels"
    most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
    return f"{shown}, and {most:,.0f} are the most that are read; make it smaller, or cut it into tiles"


def reason_of(error: Exception) -> str:
    """What a decoder complains of, in one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "unknown format"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 (upright) if there is none, or none that makes sense."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole image to look for a trailing chunk
    try:
        with quiet_pillow():
            value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # EXIF is an aside: a broken one does not make the image unusable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def to_rgb(image: Image.Image, path: str | Path) -> Image.Image:
    """A decoded image as 8-bit RGB, a copy of its own.

    Raises:
        DataError: Its pixels have more than 16 bits.
    """
    if image.mode == "F":
        raise DataError(f"{path}: has floating-point pixels; state views.value_ranges ({MEASURED})")
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image)
        if deep.size and (deep.min() < 0 or deep.max() > 65535):
            raise DataError(f"{path}: has 32-bit pixels; state views.value_ranges ({MEASURED})")
        warn_if_dark(deep, str(path))
        values = np.empty(deep.shape, np.uint8)
        rows = max(1, _AT_ONCE // max(1, image.width))
        for k in range(0, len(deep), rows):  # whole, 8 bytes a pixel would be gigabytes of a large image
            values[k : k + rows] = (deep[k : k + rows].astype(np.int64) * 255 + 32767) // 65535
        image = Image.fromarray(values)
    return image.copy() if image.mode == "RGB" else image.convert("RGB")
