"""How protocols of segmentation show an image and its labels: both moved and resized alike.

A view is picklable: the workers of a loader apply it. Labels are resized by nearest pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from odis.data.geometry.crops import propose_crops
from odis.evaluation.protocols.images.views import Squash, pixels_of

_RATIO = (3 / 4, 4 / 3)


class LabelledView(Protocol):
    """An image and its labels as a network is shown them."""

    def __call__(
        self, image: Image.Image, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (3, S, S) of an RGB image, and int32 (S, S) of its labels (H, W)."""
        ...


@dataclass(frozen=True, slots=True)
class SquashBoth:
    """The whole image in a square; its aspect is not kept."""

    side: int

    def __call__(
        self, image: Image.Image, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `LabelledView`; nothing is drawn."""
        square = Squash(self.side)
        return square(image), square.labels(labels)


@dataclass(frozen=True, slots=True)
class HummingbirdView:
    """The view of the memory: squashed, colours jittered, then a random crop that is resized to the square.

    Brightness, contrast, saturation and hue are changed by up to `jitter`, each for half of the images. The
    crop has from half to twice the area of the square and is bilinear; an area above 1 cannot be cut, and
    after ten tries the whole square is taken.
    """

    side: int
    jitter: float = 0.1
    scale: tuple[float, float] = (0.5, 2.0)

    def __call__(
        self, image: Image.Image, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `LabelledView`."""
        square = Squash(self.side)
        resized, found = Image.fromarray(square(image).transpose(1, 2, 0)), square.labels(labels)
        for adjust, middle in (
            (tv.adjust_brightness, 1.0),
            (tv.adjust_contrast, 1.0),
            (tv.adjust_saturation, 1.0),
            (tv.adjust_hue, 0.0),
        ):
            applied, amount = rng.random() < 0.5, rng.uniform(middle - self.jitter, middle + self.jitter)
            if applied:
                resized = adjust(resized, amount)
        return _cut(
            resized, found, propose_crops(rng, self.side, self.side, (), self.scale, _RATIO), self.side
        )


@dataclass(frozen=True, slots=True)
class RandomSquare:
    """A random crop of the image itself, resized to a square, mirrored half of the time."""

    side: int
    scale: tuple[float, float] = (0.8, 1.0)

    def __call__(
        self, image: Image.Image, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `LabelledView`."""
        crop = propose_crops(rng, *image.size, (), self.scale, _RATIO)
        pixels, found = _cut(image, labels, crop, self.side)
        if rng.random() < 0.5:
            pixels, found = np.ascontiguousarray(pixels[:, :, ::-1]), np.ascontiguousarray(found[:, ::-1])
        return pixels, found


def _cut(
    image: Image.Image, labels: np.ndarray, crop: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    x0, y0, x1, y1 = (int(v) for v in crop)
    cut = tv.resize(image.crop((x0, y0, x1, y1)), [side, side], interpolation=tv.InterpolationMode.BILINEAR)
    return pixels_of(cut), Squash(side).labels(labels[y0:y1, x0:x1])
