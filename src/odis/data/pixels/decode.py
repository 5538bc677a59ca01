"""Decoding no more pixels than the views of an image need. Crops and objects stay in pixels of the image at
full size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file

from odis.data.pixels.scaled import is_plain_jpeg, load_scaled
from odis.types import Crop

# Under a million pixels decoding costs less than what a view loses in sharpness: such images are decoded
# whole.
LARGE = 2**20


@dataclass(frozen=True, slots=True)
class Decoded:
    """Pixels of an image at 1 / `shrink` of its size; its full-size coordinate `x` lies at `x / shrink +
    offset[0]`, `y` likewise.
    """

    # uint8 (3, h, w), height x width x channel in memory, as it was decoded: torchvision resizes that layout
    # fastest
    pixels: Tensor
    shrink: int = 1
    offset: tuple[float, float] = (0.0, 0.0)

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


def needed_shrink(width: int, height: int, crops: Sequence[Crop], sizes: Sequence[int]) -> int:
    """The largest power of two by which an image can be shrunk without a view being enlarged that would not
    be at full size.

    Args:
        width: Image width in pixels.
        height: Image height in pixels.
        crops: The crops of all views of the image.
        sizes: The sides of these views in pixels.

    Returns:
        1 for an image of less than `LARGE` pixels, else 1, 2, 4, 8, ...
    """
    if width * height < LARGE:
        return 1
    spare = min(min(crop.width, crop.height) // size for crop, size in zip(crops, sizes))
    return 1 << (spare.bit_length() - 1) if spare > 1 else 1


def decode(path: str | Path, size: tuple[int, int], shrink: int = 1) -> Decoded:
    """An image's pixels at 1 / `shrink` of its size.

    Args:
        path: The image file.
        size: `(width, height)` at full size that its objects were made for.
        shrink: From `needed_shrink`.

    Raises:
        DataError: Naming the file: missing, empty, truncated, not an image, of another size.
    """
    if shrink == 1 and is_plain_jpeg(path, size):
        try:
            # Pillow's pixels, from the same library, without its four bytes a pixel and the copies into
            # three.
            return Decoded(decode_jpeg(read_file(str(path)), ImageReadMode.RGB))
        except RuntimeError:
            pass  # a broken file: Pillow knows what to say, or to read it nevertheless
    scaled = load_scaled(path, size, shrink)
    return Decoded(torch.from_numpy(np.array(scaled.image)).permute(2, 0, 1), scaled.shrink, scaled.offset)
