"""Colour and blur of one view on the CPU, equal to torchvision's up to rounding, in far fewer passes over the pixels.

torchvision's hue gathers per pixel, its blur is a grouped convolution, whose overhead exceeds its arithmetic at the size of a view, and its
contrast makes a grey image to know the mean of it. These are numpy's elementwise loops, in place where they can be: at this size its
comparisons and masked copies take a tenth of the time that torch's take. Nothing here is a BLAS call, whose threads would be in the way.
"""

from __future__ import annotations

import math

import numpy as np

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in luminance (ITU-R 601), as torchvision and Pillow have them."""

TOP = 255.0
"""The largest value of a pixel."""


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """The image with its hues turned by `shift` of the whole circle; saturation and value (HSV) stay.

    A channel of the turned image is a piecewise linear function of the old ones. Of a turn by less than a sixth of the circle,
    `part` of it, red is red - green + part * chroma + least, or, where blue is least, red - green + value - part * chroma, cut off
    at the least and the largest of the old channels; green and blue follow in a circle. Whole sixths of the circle exchange
    channels (even) or mirror them within their range (odd).

    Args:
        image: float32 (3, H, W), RGB from 0 to 255; not changed.
        shift: From -0.5 to 0.5.

    Returns:
        float32 (3, H, W).
    """
    sixths = math.floor(6 * shift)
    part = 6 * shift - sixths
    mirrored = sixths % 2 == 1
    ahead = (sixths - 3 * mirrored) // 2  # channels by which colours move on
    r, g, b = image
    least, value = np.minimum(r, g), np.maximum(r, g)
    np.minimum(least, b, out=least)
    np.maximum(value, b, out=value)
    turned = value - least
    turned *= part
    rising, falling = least + turned, np.subtract(value, turned, out=turned)
    both = least + value if mirrored else None
    out, chosen = np.empty_like(image), np.empty_like(r)
    for k, (x, y, z) in enumerate(((r, g, b), (g, b, r), (b, r, g))):
        channel = out[(k + ahead) % 3]
        np.copyto(chosen, rising)
        np.copyto(chosen, falling, where=z == least)
        np.subtract(x, y, out=channel)
        channel += chosen
        np.maximum(channel, least, out=channel)
        np.minimum(channel, value, out=channel)
        if both is not None:
            np.subtract(both, channel, out=channel)
    return out


def gaussian_blur(image: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """The image blurred by a Gaussian, reflected at its borders.

    Args:
        image: float32 (3, H, W), larger than `radius` on both sides; not changed.
        sigma: Standard deviation in pixels.
        radius: Pixels to either side at which the Gaussian is cut off.

    Returns:
        float32 (3, H, W).
    """
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(radius + 1)]
    total = 2 * sum(weights) - weights[0]
    weights = [weight / total for weight in weights]
    _, height, width = image.shape
    line, out = width + 2 * radius, np.empty_like(image)
    wide = np.empty((height + 2 * radius, line), dtype=np.float32)
    # A channel at a time stays in the cache. A shift by a line or by a pixel is a shift of all pixels in a row as they lie in
    # memory; what that brings in from beyond the ends of lines falls on the border, which is cut off.
    for channel, blurred in zip(image, out):
        middle = wide[radius : radius + height]
        middle[:, radius : radius + width] = channel
        middle[:, :radius] = channel[:, 1 : radius + 1][:, ::-1]
        middle[:, radius + width :] = channel[:, ::-1][:, 1 : radius + 1]
        wide[:radius] = middle[1 : radius + 1][::-1]
        wide[radius + height :] = middle[::-1][1 : radius + 1]
        down = _weighted(wide.ravel(), weights, line)
        across = _weighted(down, weights, 1)
        # `across` ends with the last pixel that is wanted: its lines are full but for the last one's border.
        blurred[:-1] = across[: (height - 1) * line].reshape(height - 1, line)[:, :width]
        blurred[-1] = across[(height - 1) * line : (height - 1) * line + width]
    return out


def _weighted(pixels: np.ndarray, weights: list[float], step: int) -> np.ndarray:
    """Sum over k from -radius to radius of weights[|k|] times the pixels `k * step` on, where all of these exist."""
    radius = len(weights) - 1
    length = len(pixels) - 2 * radius * step
    centre = radius * step
    out = pixels[centre : centre + length] * np.float32(weights[0])
    pair = np.empty_like(out)
    for k in range(1, radius + 1):
        before, after = centre - k * step, centre + k * step
        np.add(pixels[before : before + length], pixels[after : after + length], out=pair)
        pair *= np.float32(weights[k])
        out += pair
    return out


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """`image` (3, H, W), float32 in 0..255, changed in place: every channel times `factor`, cut off at 0 and 255."""
    image *= np.float32(factor)
    return _cut(image, factor)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """`image` (3, H, W), float32 in 0..255, changed in place: moved away from its mean luminance by `factor`, cut off alike."""
    mean = sum(weight * float(channel.mean()) for weight, channel in zip(LUMA, image))
    image *= np.float32(factor)
    image += np.float32((1.0 - factor) * mean)
    return _cut(image, factor)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """`image` (3, H, W), float32 in 0..255, changed in place: pixels moved away from their luminance by `factor`, cut off alike."""
    grey = luminance(image)
    grey *= np.float32(1.0 - factor)
    image *= np.float32(factor)
    image += grey
    return _cut(image, factor)


def luminance(image: np.ndarray) -> np.ndarray:
    """(H, W) of float32 (3, H, W): ITU-R 601, as torchvision and Pillow weigh the channels."""
    grey = image[0] * np.float32(LUMA[0])
    part = image[1] * np.float32(LUMA[1])
    grey += part
    grey += np.multiply(image[2], np.float32(LUMA[2]), out=part)
    return grey


def _cut(image: np.ndarray, factor: float) -> np.ndarray:
    """In place; a mean of what lies within the range, which a factor of 0 to 1 makes, lies within it."""
    if not 0.0 <= factor <= 1.0:
        np.maximum(image, np.float32(0.0), out=image)
        np.minimum(image, np.float32(TOP), out=image)
    return image
