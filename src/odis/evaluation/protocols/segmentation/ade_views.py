"""The random view that a segmentation head of DINOv3's protocol learns from.

Letters: H, W the image in pixels; S side of the view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from odis.evaluation.label_maps import IGNORE
from odis.evaluation.protocols.images.views import pixels_of

_TRIES = 10
_LARGEST = 0.75  # share of a crop's labelled pixels that one class may have
_HUE = 18 / 180 * 256  # OpenCV's hue has 180 steps, Pillow's 256


def short_side(image: Image.Image, labels: np.ndarray, short: int) -> tuple[Image.Image, np.ndarray]:
    """An image with its shorter side at `short` pixels, bilinear, and its label map int32 (H, W), nearest."""
    scale = short / min(image.size)
    width, height = (max(short, round(side * scale)) for side in image.size)
    small = Image.fromarray(labels.astype(np.int32), mode="I")
    return (
        image.resize((width, height), Image.Resampling.BILINEAR),
        np.asarray(small.resize((width, height), Image.Resampling.NEAREST)).astype(np.int32),
    )


@dataclass(frozen=True, slots=True)
class RandomWindow:
    """Shorter side at S times .5 to 2; a crop of S in which no class has more than .75 of the labelled pixels
    (the last of 10 tries otherwise); mirrored half of the time; brightness, contrast, saturation and hue.

    Args:
        side: S.
    """

    side: int

    def __call__(
        self, image: Image.Image, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (3, h, w) and int32 (h, w), h and w at most S: what is missing below and to the right is to
        be padded once the pixels are normalised.
        """
        image, labels = short_side(image, labels, max(1, int(self.side * rng.uniform(0.5, 2.0))))
        for _ in range(_TRIES):
            top = int(rng.integers(max(labels.shape[0] - self.side, 0) + 1))
            left = int(rng.integers(max(labels.shape[1] - self.side, 0) + 1))
            part = labels[top : top + self.side, left : left + self.side]
            if is_varied(part):
                break
        image = image.crop((left, top, left + part.shape[1], top + part.shape[0]))
        if rng.random() < 0.5:
            image, part = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), part[:, ::-1]
        return pixels_of(distorted(image, rng)), np.ascontiguousarray(part)


def is_varied(labels: np.ndarray) -> bool:
    """Whether no class has more than .75 of the labelled pixels."""
    counts = np.bincount(labels[labels != IGNORE])
    return bool(len(counts)) and counts.max() <= _LARGEST * counts.sum()


def distorted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness by up to 32 of 255, contrast and saturation by .5 to 1.5, hue by up to 18 of 180; each half
    of the time, contrast first or last.
    """
    pixels = np.asarray(image).astype(np.float64)
    if rng.random() < 0.5:
        pixels = pixels + rng.uniform(-32, 32)
    first = rng.random() < 0.5
    pixels = _contrast(pixels, rng, first)
    hsv = np.array(_to_image(pixels).convert("HSV")).astype(np.float64)
    changed = False
    if rng.random() < 0.5:
        hsv[..., 1], changed = np.clip(hsv[..., 1] * rng.uniform(0.5, 1.5), 0, 255), True
    if rng.random() < 0.5:
        hsv[..., 0], changed = (hsv[..., 0] + rng.uniform(-_HUE, _HUE)) % 256, True
    if changed:
        rounded = np.concatenate([np.floor(hsv[..., :1]), np.rint(hsv[..., 1:])], axis=2).astype(np.uint8)
        pixels = np.asarray(Image.fromarray(rounded, mode="HSV").convert("RGB")).astype(np.float64)
    return _to_image(_contrast(pixels, rng, not first))


def _contrast(pixels: np.ndarray, rng: np.random.Generator, now: bool) -> np.ndarray:
    return pixels * rng.uniform(0.5, 1.5) if now and rng.random() < 0.5 else pixels


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))
