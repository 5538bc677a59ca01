"""Colour and blur of one view on the CPU, as torchvision does them up to rounding, in one or two passes each.

torchvision's hue gathers per pixel, its contrast makes a grey image only to average it, and its blur is a
grouped convolution, whose overhead exceeds its arithmetic at the size of a view. Here one loop does the whole
operation while the pixel is in a register. Functions are compiled when they are first called."""

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
    """The image with its hues turned by `shift` of the circle; saturation and value (HSV) stay.

    Each new channel is a piecewise linear function of the old ones. For a turn of `part` of a sixth of the
    circle, red becomes red - green + part * chroma + least, or, where blue is least, red - green + value -
    part * chroma, clipped to the range of the old channels. Green and blue follow in a circle. Whole sixths
    exchange the channels (even) or mirror them within their range (odd).

    Args:
        image: float32 (3, H, W), RGB from 0 to 255; not changed.
        shift: From -0.5 to 0.5.

    Returns:
        float32 (3, H, W).
    """
    sixths = math.floor(6 * shift)
    part = np.float32(6 * shift - sixths)
    mirrored = sixths % 2 == 1
    ahead = (sixths - 3 * mirrored) // 2  # channels by which colours move
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
        image: float32 (C, H, W), larger than `radius` on both sides; not changed.
        sigma: Standard deviation in pixels.
        radius: Pixels to either side at which the Gaussian is cut off.

    Returns:
        float32 (C, H, W).
    """
    exact = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights = (exact / (2 * exact.sum() - exact[0])).astype(np.float32)
    _, height, width = image.shape
    out = np.empty_like(image)
    line = np.empty(width + 2 * radius, dtype=np.float32)  # stays in the L1 cache
    end = radius + width - 1
    for c in range(len(image)):
        for y in range(height):
            down, here = line[radius : radius + width], image[c, y]
            for x in range(width):
                down[x] = weights[0] * here[x]
            for k in range(1, radius + 1):
                # Reflected: the pixel `k` beyond a border is the one `k` before it; the border is not
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
    """Multiply every channel by `factor`, clipped to 0..255: float32 (C, H, W), changed in place."""
    times = np.float32(factor)
    for c in range(len(image)):
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                image[c, y, x] = min(max(image[c, y, x] * times, np.float32(0)), _TOP)
    return image


@compiled(reorder=True)
def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance to the mean luminance by `factor`, clipped to 0..255: (3, H, W), in place."""
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
    """Scale each pixel's distance to its luminance by `factor`, clipped to 0..255: float32 (3, H, W), in
    place.
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
    """Luminance (H, W) of float32 (3, H, W), weighted as in torchvision and Pillow (ITU-R 601)."""
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
        line = pixels[y].reshape(-1)  # with one index instead of two the loop is vectorised
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
    """Round pixels to whole numbers, solarise if asked, and write `(pixel - offset) / scale` to `out`.

    Args:
        image: float32 (C, H, W), 0 to 255; not changed.
        solarize: Whether pixels of 128 or more are inverted.
        offset: float32 (C,), of each channel.
        scale: float32 (C,), of each channel.
        out: float32 (C, H, W), written; may be `image`.
    """
    for c in range(len(image)):
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                pixel = np.rint(image[c, y, x])
                if solarize:  # the darker of a value and its inverse
                    pixel = min(pixel, _TOP - pixel)
                out[c, y, x] = (pixel - offset[c]) / scale[c]
