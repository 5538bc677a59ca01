"""Colour and blur of one view on the CPU, equal to torchvision's up to rounding, each in one or two passes
over the pixels.

torchvision's hue gathers per pixel, its blur is a grouped convolution, whose overhead exceeds its arithmetic
at the size of a view, and its contrast makes a grey image to know the mean of it. Here a loop does all of an
operation while the pixel is in a register. Functions are compiled when they are first called.
"""

from __future__ import annotations

import math

import numpy as np

from odis.machine.compiled import compiled

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in luminance (ITU-R 601), as torchvision and Pillow have them."""

TOP = 255.0
"""The largest value of a pixel."""

_RED, _GREEN, _BLUE, _TOP = *(np.float32(weight) for weight in LUMA), np.float32(TOP)


@compiled(reorder=True)
def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """The image with its hues turned by `shift` of the whole circle; saturation and value (HSV) stay.

    A channel of the turned image is a piecewise linear function of the old ones. Of a turn by less than a
    sixth of the circle, `part` of it, red is red - green + part * chroma + least, or, where blue is least,
    red - green + value - part * chroma, cut off at the least and the largest of the old channels; green and
    blue follow in a circle. Whole sixths of the circle exchange channels (even) or mirror them within their
    range (odd).

    Args:
        image: float32 (3, H, W), RGB from 0 to 255; not changed.
        shift: From -0.5 to 0.5.

    Returns:
        float32 (3, H, W).
    """
    sixths = math.floor(6 * shift)
    part = np.float32(6 * shift - sixths)
    mirrored = sixths % 2 == 1
    ahead = (sixths - 3 * mirrored) // 2  # channels by which colours move on
    out = np.empty_like(image)
    red, green, blue = out[ahead % 3], out[(1 + ahead) % 3], out[(2 + ahead) % 3]
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            r, g, b = image[0, y, x], image[1, y, x], image[2, y, x]
            least, value = min(r, g, b), max(r, g, b)
            turned = part * (value - least)
            rising, falling = least + turned, value - turned
            new_r = min(max(r - g + (falling if b == least else rising), least), value)
            new_g = min(max(g - b + (falling if r == least else rising), least), value)
            new_b = min(max(b - r + (falling if g == least else rising), least), value)
            if mirrored:
                both = least + value
                new_r, new_g, new_b = both - new_r, both - new_g, both - new_b
            red[y, x], green[y, x], blue[y, x] = new_r, new_g, new_b
    return out


@compiled(reorder=True)
def gaussian_blur(image: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """The image blurred by a Gaussian, reflected at its borders.

    Args:
        image: float32 (3, H, W), larger than `radius` on both sides; not changed.
        sigma: Standard deviation in pixels.
        radius: Pixels to either side at which the Gaussian is cut off.

    Returns:
        float32 (3, H, W).
    """
    exact = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights = (exact / (2 * exact.sum() - exact[0])).astype(np.float32)
    _, height, width = image.shape
    out = np.empty_like(image)
    line = np.empty(width + 2 * radius, dtype=np.float32)  # stays in the nearest cache
    end = radius + width - 1
    for c in range(3):
        for y in range(height):
            down, here = line[radius : radius + width], image[c, y]
            for x in range(width):
                down[x] = weights[0] * here[x]
            for k in range(1, radius + 1):
                # What lies `k` beyond a border is what lies `k` before it; the pixel at the border is not
                # repeated.
                over, under = image[c, abs(y - k)], image[c, height - 1 - abs(height - 1 - y - k)]
                for x in range(width):
                    down[x] += weights[k] * (over[x] + under[x])
            for k in range(1, radius + 1):
                line[radius - k], line[end + k] = line[radius + k], line[end - k]
            across = out[c, y]
            for x in range(width):
                across[x] = weights[0] * down[x]
            for k in range(1, radius + 1):
                left, right = line[radius - k : radius - k + width], line[radius + k : radius + k + width]
                for x in range(width):
                    across[x] += weights[k] * (left[x] + right[x])
    return out


@compiled(reorder=True)
def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """`image` (3, H, W), float32 in 0..255, changed in place: every channel times `factor`, cut off at 0 and
    255.
    """
    times = np.float32(factor)
    for c in range(3):
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                image[c, y, x] = min(max(image[c, y, x] * times, np.float32(0)), _TOP)
    return image


@compiled(reorder=True)
def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """`image` (3, H, W), float32 in 0..255, changed in place: moved away from its mean luminance by `factor`,
    cut off alike.
    """
    _, height, width = image.shape
    total = 0.0
    for y in range(height):
        of_row = np.float32(0)
        for x in range(width):
            of_row += _RED * image[0, y, x] + _GREEN * image[1, y, x] + _BLUE * image[2, y, x]
        total += float(of_row)
    times, plus = np.float32(factor), np.float32((1.0 - factor) * total / (height * width))
    for c in range(3):
        for y in range(height):
            for x in range(width):
                image[c, y, x] = min(max(image[c, y, x] * times + plus, np.float32(0)), _TOP)
    return image


@compiled(reorder=True)
def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """`image` (3, H, W), float32 in 0..255, changed in place: pixels moved away from their luminance by
    `factor`, cut off alike.
    """
    times, rest = np.float32(factor), np.float32(1.0 - factor)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            r, g, b = image[0, y, x], image[1, y, x], image[2, y, x]
            grey = rest * (_RED * r + _GREEN * g + _BLUE * b)
            image[0, y, x] = min(max(r * times + grey, np.float32(0)), _TOP)
            image[1, y, x] = min(max(g * times + grey, np.float32(0)), _TOP)
            image[2, y, x] = min(max(b * times + grey, np.float32(0)), _TOP)
    return image


@compiled(reorder=True)
def luminance(image: np.ndarray) -> np.ndarray:
    """(H, W) of float32 (3, H, W): ITU-R 601, as torchvision and Pillow weigh the channels."""
    grey = np.empty(image.shape[1:], dtype=np.float32)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            grey[y, x] = _RED * image[0, y, x] + _GREEN * image[1, y, x] + _BLUE * image[2, y, x]
    return grey


@compiled(reorder=True)
def to_chw(pixels: np.ndarray, flip: bool) -> np.ndarray:
    """float32 (3, H, W) of bytes (H, W, 3), mirrored if asked."""
    height, width, _ = pixels.shape
    out = np.empty((3, height, width), dtype=np.float32)
    last = 3 * (width - 1)
    for y in range(height):
        line = pixels[y].reshape(-1)  # one index instead of two is what becomes vector instructions
        for c in range(3):
            plane = out[c, y]
            if flip:
                for x in range(width):
                    plane[x] = line[last - 3 * x + c]
            else:
                for x in range(width):
                    plane[x] = line[3 * x + c]
    return out


@compiled(reorder=True)
def normalize(
    image: np.ndarray, solarize: bool, offset: np.ndarray, scale: np.ndarray, out: np.ndarray
) -> None:
    """Pixels rounded to whole numbers, those of 128 or more inverted if asked, and normalised into `out`:
    `(pixel - offset) / scale`.

    Args:
        image: float32 (3, H, W), 0 to 255; not changed.
        solarize: Whether light pixels are inverted.
        offset: float32 (3,), of each channel.
        scale: float32 (3,), of each channel.
        out: float32 (3, H, W), written; may be `image`.
    """
    for c in range(3):
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                pixel = np.rint(image[c, y, x])
                if solarize:  # of a value and its inverse the darker
                    pixel = min(pixel, _TOP - pixel)
                out[c, y, x] = (pixel - offset[c]) / scale[c]
