"""Colour, blur and solarisation of a view: drawing them, and applying them on the CPU.

As in DINO (arXiv 2104.14294) and BYOL (arXiv 2006.07733, appendix B). Drawing is apart from applying, so that
a worker can draw and the device apply (`augment/device.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from odis.config.training import ViewsConfig
from odis.data.augment.bands import contrast_of_each, mean_of_all
from odis.data.augment.cpu import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
    luminance,
    normalize,
)

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@dataclass(frozen=True, slots=True)
class Photometrics:
    """What is applied to one view, in this order: the jitter's operations, grayscale, blur, solarisation.

    Args:
        jitter: Operations in order, each with its amount: a factor, or for hue a share of the circle.
        grayscale: Whether colour is dropped.
        sigma: Standard deviation of the blur in pixels of the view; 0 for none.
        radius: Pixels to either side at which the blur is cut off.
        solarize: Whether pixels of 128 or more are inverted.
    """

    jitter: tuple[tuple[int, float], ...] = ()
    grayscale: bool = False
    sigma: float = 0.0
    radius: int = 0
    solarize: bool = False


def draw_photometrics(rng: np.random.Generator, size: int, kind: int, views: ViewsConfig) -> Photometrics:
    """Draw one view's photometrics.

    Jitter applies brightness, contrast, saturation and hue in random order; the last two to three channels
    alone. Blur has a standard deviation of
    .1 to 2 pixels. It is cut off at three deviations or at a twentieth of the view's side, whichever is less.

    Args:
        rng: Source of all randomness.
        size: Side of the view in pixels.
        kind: Position in `views.blur` and `views.solarize`: 0 the first global view, 1 the other global
            views, 2 local views.
        views: Probabilities and strengths.
    """
    jitter, grayscale, blur, solarize = (
        rng.random(4) < (views.jitter, views.grayscale, views.blur[kind], views.solarize[kind])
    ).tolist()
    operations: tuple[tuple[int, float], ...] = ()
    if jitter:
        strength = views.jitter_strength
        change = (rng.uniform(-1.0, 1.0, 4) * strength).tolist()
        order = [op for op in rng.permutation(4).tolist() if strength[op] > 0]
        if views.channels != 3:
            order = [op for op in order if op in (BRIGHTNESS, CONTRAST)]
        operations = tuple((op, change[op] if op == HUE else 1.0 + change[op]) for op in order)
    sigma, radius = 0.0, 0
    if blur:
        sigma = float(rng.uniform(0.1, 2.0))
        radius = min(max(1, round(size / 20)), math.ceil(3 * sigma), size - 1)
    return Photometrics(operations, grayscale, sigma, radius, solarize)


def apply_photometrics(
    pixels: np.ndarray, drawn: Photometrics, offset: np.ndarray, scale: np.ndarray, out: np.ndarray
) -> None:
    """Apply a view's photometrics, round to whole numbers, and normalise: `(pixel - offset) / scale`.

    Args:
        pixels: float32 (C, S, S), whole numbers from 0 to 255; may be changed.
        drawn: What to apply.
        offset: float32 (C,).
        scale: float32 (C,).
        out: float32 (C, S, S), written.
    """
    colour = len(pixels) == 3
    contrast = adjust_contrast if colour else contrast_of_each
    adjust = (adjust_brightness, contrast, adjust_saturation, adjust_hue)
    for op, amount in drawn.jitter:
        pixels = adjust[op](pixels, amount)
    if drawn.grayscale:
        pixels[:] = luminance(pixels) if colour else mean_of_all(pixels)
    if drawn.sigma:
        pixels = gaussian_blur(pixels, drawn.sigma, drawn.radius)
    normalize(pixels, drawn.solarize, offset, scale, out)
