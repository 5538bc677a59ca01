"""How protocols show an image to a network: resized and cut by Pillow, as the references do.

A view is picklable: the workers of a loader apply it. What comes out are 8-bit pixels; the encoder subtracts
its statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest"]

_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "lanczos": InterpolationMode.LANCZOS,
    "nearest": InterpolationMode.NEAREST,
}


class PictureView(Protocol):
    """An image as a network is shown it."""

    def __call__(self, image: Image.Image) -> np.ndarray:
        """uint8 (3, H, W) of an RGB image."""
        ...


def pixels_of(image: Image.Image) -> np.ndarray:
    """uint8 (3, H, W) of an RGB image."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


@dataclass(frozen=True, slots=True)
class CenterCrop:
    """The shorter side resized to `resize`, then a square of `crop` pixels cut from the middle, as
    torchvision's `Resize` and `CenterCrop` do.
    """

    resize: int = 256
    crop: int = 224
    interpolation: Interpolation = "bicubic"

    def __call__(self, image: Image.Image) -> np.ndarray:
        """uint8 (3, crop, crop)."""
        resized = tv.resize(image, [self.resize], interpolation=_MODES[self.interpolation])
        return pixels_of(tv.center_crop(resized, [self.crop]))

    def boxes(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Where boxes of the image are in the view, in its pixels; they may lie outside.

        Args:
            boxes: float64 (n, 4).
            size: `(width, height)` of the image.
        """
        width, height = size
        short, long = min(size), max(size)
        other = int(self.resize * long / short)  # as torchvision rounds it
        resized = (self.resize, other) if width <= height else (other, self.resize)
        scale = np.array([resized[0] / width, resized[1] / height] * 2)
        corner = [round((side - self.crop) / 2) for side in resized]
        moved: np.ndarray = boxes * scale - np.array(corner * 2, dtype=np.float64)
        return moved


@dataclass(frozen=True, slots=True)
class Squash:
    """The whole image resized to a square; its aspect is not kept."""

    side: int
    interpolation: Interpolation = "bilinear"

    def __call__(self, image: Image.Image) -> np.ndarray:
        """uint8 (3, side, side)."""
        return pixels_of(tv.resize(image, [self.side, self.side], interpolation=_MODES[self.interpolation]))

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """A label map int32 (H, W) in the same square, by nearest pixel."""
        picture = Image.fromarray(labels.astype(np.int32), mode="I")
        small = picture.resize((self.side, self.side), Image.Resampling.NEAREST)
        return np.asarray(small).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Stretch:
    """The whole image resized to a width and a height, bilinear without smoothing, as OpenCV does by
    default.
    """

    width: int
    height: int

    def __call__(self, image: Image.Image) -> np.ndarray:
        """uint8 (3, height, width)."""
        pixels = torch.from_numpy(pixels_of(image)).float()[None]
        size = (self.height, self.width)
        resized = interpolate(pixels, size=size, mode="bilinear", align_corners=False)[0]
        return resized.round().to(torch.uint8).numpy()
