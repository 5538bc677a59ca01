"""Decoding an image file, at a fraction of its size where views need no more. Crops and objects stay in
pixels of the image at full size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file

from odis.config.pixels import RGB, PixelFormat
from odis.data.pixels.scaled import is_plain_jpeg, load_scaled
from odis.objects.decoding.kinds import reader_of
from odis.objects.decoding.raw import to_pixels
from odis.objects.decoding.source import Source
from odis.objects.images import read_by
from odis.objects.pixels import load_pixels
from odis.types import Crop


@dataclass(frozen=True, slots=True)
class Decoded:
    """Pixels of an image at 1 / `shrink` of its size.

    The point `(x, y)` of the image at full size is at `(x / shrink + offset[0], y / shrink + offset[1])`.
    """

    # uint8 (C, h, w), in memory height x width x channel as decoded, which torchvision resizes fastest;
    # without content (on the device `meta`) if the training device has them
    pixels: Tensor
    shrink: int = 1
    offset: tuple[float, float] = (0.0, 0.0)
    kept_as: int | None = None  # the requested shrink, if the training device has the image or will keep it

    def box(self, crop: Crop) -> tuple[float, float, float, float]:
        """`x0, y0, x1, y1` of a crop in `pixels`, within them; whole numbers where nothing was shrunk."""
        height, width = self.pixels.shape[-2:]
        x, y = self.offset
        x0, y0 = max(0.0, crop.x0 / self.shrink + x), max(0.0, crop.y0 / self.shrink + y)
        return (
            x0,
            y0,
            min(float(width), crop.x1 / self.shrink + x),
            min(float(height), crop.y1 / self.shrink + y),
        )


def outer_pixels(box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """The least box of whole pixels around a box."""
    return math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])


def decode(
    path: str | Path,
    size: tuple[int, int],
    shrink: int = 1,
    data: bytes | None = None,
    form: PixelFormat = RGB,
) -> Decoded:
    """An image's pixels at 1 / `shrink` of its size.

    Args:
        path: The image file.
        size: `(width, height)` at full size that its objects were made for.
        shrink: 1, 2, 4, 8, ...
        data: The file's content, if it has been read; that of an image elsewhere (`objects.storage`) is.
        form: Channels and ranges.

    Raises:
        DataError: Naming the file: missing, empty, truncated, not an image, of another size.
    """
    if form != RGB:
        return _at(shrink, load_pixels(path, size, form, data))
    if (reader := reader_of(source := Source(str(path), data))) is not None:
        return _at(shrink, to_pixels(read_by(reader, source, size), form, str(path)))
    if shrink == 1 and is_plain_jpeg(path, size, data):
        file = read_file(str(path)) if data is None else torch.frombuffer(bytearray(data), dtype=torch.uint8)
        try:
            # The pixels that Pillow gives, from the same library, without its 4 bytes a pixel and its copies.
            return Decoded(decode_jpeg(file, ImageReadMode.RGB))
        except RuntimeError:
            pass  # a broken file: Pillow reads it all the same, or says what is wrong
    scaled = load_scaled(path, size, shrink, data)
    return Decoded(torch.from_numpy(np.array(scaled.image)).permute(2, 0, 1), scaled.shrink, scaled.offset)


def _at(shrink: int, values: np.ndarray) -> Decoded:
    pixels = torch.from_numpy(values).permute(2, 0, 1)
    return Decoded(pixels) if shrink == 1 else Decoded(_averaged(pixels, shrink), shrink)


def _averaged(pixels: Tensor, shrink: int) -> Tensor:
    """uint8 (C, h, w) at 1 / `shrink` of its size, rounded up: means over squares, or what of them there
    is.
    """
    planes = [Image.fromarray(plane.contiguous().numpy()).reduce(shrink) for plane in pixels]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes], axis=2)).permute(2, 0, 1)
