"""Grounds that tell a class: for each of ten, a hue and a texture of its own, behind scenes whose
surroundings are to say what is in them.

A texture is one of five patterns at one of two scales. None is the mirror image of another, so that a flip
turns no class into another, and no two classes differ in hue alone, so that in grey they differ as well. All
grounds are equally bright: what lies on them is as legible on one as on another.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np

CLASSES = 10

_LUMA = np.array([0.299, 0.587, 0.114])

_WAVELENGTHS = (6.0, 15.0)
"""Of classes 0 to 4, and of 5 to 9, in pixels: about twice a stroke, and half a digit."""

_DIRECTIONS = ((0.0,), (90.0,), (45.0, 135.0), (0.0, 90.0), (60.0, 120.0, 0.0))
"""Directions of the waves that make each pattern, in degrees from the x axis. Each set is its own mirror
image.
"""

_SATURATION = 0.65  # as strong as can be without a channel that leaves 0..255 where a pattern is brightest

_SWING = 20.0  # of a pattern about the mean luma: visible under grain, far from that of ink


def themed_ground(rng: np.random.Generator, theme: int, size: int, luma: float) -> np.ndarray:
    """The ground of a class: float (size, size, 3) in 0..255, its pattern shifted, turned and scaled a little
    by chance.

    Args:
        rng: Source of chance.
        theme: The class, 0..9.
        size: Side in pixels.
        luma: Mean luma, at most 85.
    """
    wavelength = _WAVELENGTHS[theme // len(_DIRECTIONS)] * rng.uniform(0.9, 1.1)
    turn = rng.uniform(-4, 4)
    y, x = np.mgrid[:size, :size]
    waves = []
    for direction in _DIRECTIONS[theme % len(_DIRECTIONS)]:
        angle = math.radians(direction + turn)
        waves.append(
            np.sin(
                2 * math.pi / wavelength * (x * math.cos(angle) + y * math.sin(angle))
                + rng.uniform(0, 2 * math.pi)
            )
        )
    pattern = np.sum(waves, axis=0) / math.sqrt(len(waves))  # of one variance, however many waves
    brightness = luma + _SWING * np.clip(pattern, -1.4, 1.4)
    colour = np.array(colorsys.hsv_to_rgb(theme / CLASSES + rng.uniform(-0.015, 0.015), _SATURATION, 1.0))
    ground: np.ndarray = brightness[..., None] * (colour / (colour @ _LUMA))
    return ground
