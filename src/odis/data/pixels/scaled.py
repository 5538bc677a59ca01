"""Reading a photograph at a fraction of its size, which costs a fraction of the decoding for a large JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from odis.errors import DataError
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.images import (
    SIDEWAYS,
    TRANSPOSE,
    load_by_pillow,
    opened,
    orientation_of,
    reason_of,
    to_rgb,
)

# libjpeg computes a block of 8 x 8 pixels at 8 x 8, 4 x 4, 2 x 2 or 1 x 1 from the same coefficients.
_LARGEST_DCT_SCALE = 8

# Which axes of the turned image run against those of the stored one, by EXIF orientation.
_MIRRORED_X = frozenset({2, 3, 6, 7})
_MIRRORED_Y = frozenset({3, 4, 7, 8})


@dataclass(frozen=True, slots=True)
class ScaledImage:
    """An image at 1 / `shrink` of its size.

    The point `(x, y)` of the image at full size is at `(x / shrink + offset[0], y / shrink + offset[1])`.
    Sizes are rounded up; the offset is the part of a pixel that this adds, on sides where EXIF orientation
    puts it in front."""

    image: Image.Image
    shrink: int = 1
    offset: tuple[float, float] = (0.0, 0.0)


def load_scaled(
    path: str | Path, expected_size: tuple[int, int], shrink: int, data: bytes | None = None
) -> ScaledImage:
    """`images.load_by_pillow` at 1 / `shrink` of the size (rounded up), with the same rules for orientation
    and colours.

    A JPEG is decoded at 1/2, 1/4 or 1/8 (libjpeg's scaled inverse DCT, Pillow's `draft`), which saves most of
    the work. The rest of the way, and all of it in other formats, pixels are averaged over squares.

    Args:
        path: The image file.
        expected_size: `(width, height)` at full size that its boxes and masks were made for.
        shrink: 1, 2, 4, 8, ...; 1 gives exactly `load_by_pillow`.
        data: The file's content, if it has been read.

    Raises:
        DataError: As `images.load_image`.
    """
    if shrink == 1:
        return ScaledImage(load_by_pillow(path, expected_size, data))
    with opened(path, data) as image:
        orientation = orientation_of(image)
        stored = image.size
        turned = stored[::-1] if orientation in SIDEWAYS else stored
        if turned != tuple(expected_size):
            if stored != tuple(expected_size):
                expected = f"{expected_size[0]} x {expected_size[1]}"
                raise DataError(
                    f"{path}: is {turned[0]} x {turned[1]} pixels, but its objects are for {expected}"
                )
            orientation, turned = 1, stored
        try:
            by_decoder = min(shrink, _LARGEST_DCT_SCALE)
            # Only the JPEG decoder acts on this.
            image.draft(None, (max(1, stored[0] // by_decoder), max(1, stored[1] // by_decoder)))
            rest = shrink // by_decoder if image.size != stored else shrink
            with quiet_pillow():
                image.load()
            rgb = to_rgb(image, path)
            rgb = rgb.reduce(rest) if rest > 1 else rgb
            turn = TRANSPOSE.get(orientation)
            rgb = rgb if turn is None else rgb.transpose(turn)
        except DataError:
            raise
        # On bad bytes decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        except Exception as error:
            raise DataError(f"{path}: cannot be decoded ({reason_of(error)})") from error
    x = rgb.width - turned[0] / shrink if orientation in _MIRRORED_X else 0.0
    y = rgb.height - turned[1] / shrink if orientation in _MIRRORED_Y else 0.0
    return ScaledImage(rgb, shrink, (x, y))


def is_plain_jpeg(path: str | Path, size: tuple[int, int], data: bytes | None = None) -> bool:
    """Whether a file is an upright JPEG of `size` in RGB or grey, of which every JPEG decoder makes the same
    pixels; only the header is read.

    Raises:
        DataError: The file is missing, empty or not an image.
    """
    with opened(path, data) as image:
        return (
            image.format == "JPEG"
            and image.mode in ("RGB", "L")
            and image.size == tuple(size)
            and orientation_of(image) == 1
        )
