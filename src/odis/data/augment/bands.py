"""Photometrics of channels that are no colours, on the CPU: one, or any number of bands.

As for bands of satellites in SSL4EO-S12 (arXiv 2211.07044): contrast is about each channel's own mean, and
grayscale is the mean of all channels. Saturation and hue are of red, green and blue, so they are not drawn.
Brightness, blur and solarisation are those of `cpu.py`, channel by channel.
"""

from __future__ import annotations

import numpy as np

from odis.data.augment.cpu import TOP
from odis.data.augment.resampling import resample


def contrast_of_each(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance of each channel to its mean by `factor`, clipped to 0..255: float32 (C, H, W), in
    place.
    """
    means = image.mean(axis=(1, 2), dtype=np.float64, keepdims=True)
    image *= np.float32(factor)
    image += ((1.0 - factor) * means).astype(np.float32)
    return np.clip(image, 0, TOP, out=image)


def mean_of_all(image: np.ndarray) -> np.ndarray:
    """Mean (H, W) of the channels of float32 (C, H, W)."""
    mean: np.ndarray = image.mean(axis=0)
    return mean


def bands_to_chw(pixels: np.ndarray, flip: bool) -> np.ndarray:
    """float32 (C, H, W) of bytes (H, W, C), mirrored if asked."""
    shown = pixels[:, ::-1] if flip else pixels
    return np.ascontiguousarray(shown.transpose(2, 0, 1), dtype=np.float32)


def resample_bands(image: np.ndarray, x0: float, y0: float, x1: float, y1: float, size: int) -> np.ndarray:
    """`resampling.resample` of uint8 (H, W, C): three channels at a time."""
    channels = image.shape[2]
    parts = []
    for first in range(0, channels, 3):
        three = image[..., [min(first + k, channels - 1) for k in range(3)]]
        parts.append(resample(np.ascontiguousarray(three), x0, y0, x1, y1, size)[..., : channels - first])
    return np.concatenate(parts, axis=2)
