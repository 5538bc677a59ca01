"""Resizing a box that begins and ends within pixels, which crops of shrunk images need and torch does not
offer.
"""

from __future__ import annotations

import numpy as np

from odis.machine.compiled import compiled

_SUPPORT = 2.0  # of the cubic, in pixels of the coarser grid


@compiled(reorder=True)
def resample(image: np.ndarray, x0: float, y0: float, x1: float, y1: float, size: int) -> np.ndarray:
    """A box of an image, resized to a square as in Pillow and torch: bicubic (a = -1/2), antialiased, rounded
    to bytes between the axes.

    Args:
        image: uint8 (H, W, 3), contiguous rows of pixels. The filter may read all of it.
        x0: Left border of the box, in pixels.
        y0: Upper border.
        x1: Right border, beyond x0.
        y1: Lower border, beyond y0.
        size: Side of the result.

    Returns:
        uint8 (size, size, 3).
    """
    height, width, _ = image.shape
    rows, row_weights = _weights(y0, y1, height, size)
    columns, column_weights = _weights(x0, x1, width, size)
    top, below = rows[0], rows[-1] + row_weights.shape[1]
    low, high, half = np.float32(0), np.float32(255), np.float32(0.5)
    narrow = np.empty((below - top, size, 3), dtype=np.uint8)
    for y in range(top, below):
        here, line = image[y], narrow[y - top]
        for x in range(size):
            red = green = blue = half
            for k in range(column_weights.shape[1]):
                weight, pixel = column_weights[x, k], here[columns[x] + k]
                red += weight * np.float32(pixel[0])
                green += weight * np.float32(pixel[1])
                blue += weight * np.float32(pixel[2])
            line[x, 0] = np.uint8(min(max(red, low), high))
            line[x, 1] = np.uint8(min(max(green, low), high))
            line[x, 2] = np.uint8(min(max(blue, low), high))
    out = np.empty((size, size, 3), dtype=np.uint8)
    total = np.empty(size * 3, dtype=np.float32)
    for y in range(size):
        total[:] = half
        for k in range(row_weights.shape[1]):
            weight, level = row_weights[y, k], narrow[rows[y] - top + k].reshape(-1)
            for x in range(len(level)):
                total[x] += weight * np.float32(level[x])
        whole = out[y].reshape(-1)
        for x in range(len(total)):
            whole[x] = np.uint8(min(max(total[x], low), high))
    return out


@compiled()
def _weights(start: float, end: float, length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The source pixels of each of `size` pixels between `start` and `end`: the first one, int64 (size,), and
    the weights from there on, float32 (size, n).

    Each has n source pixels, all inside the image; weights that are not needed are 0.
    """
    step = (end - start) / size
    wide = max(step, 1.0)
    reach = _SUPPORT * wide
    count = min(length, int(2 * reach) + 2)
    firsts, weights = np.empty(size, dtype=np.int64), np.zeros((size, count), dtype=np.float32)
    exact = np.empty(count)
    for i in range(size):
        middle = start + (i + 0.5) * step
        low, high = max(0, int(middle - reach + 0.5)), min(length, int(middle + reach + 0.5))
        firsts[i] = min(low, length - count)
        total = 0.0
        for k in range(count):
            at = firsts[i] + k
            t = abs((at + 0.5 - middle) / wide)
            if at < low or at >= high or t >= 2:
                exact[k] = 0.0
            elif t < 1:
                exact[k] = (1.5 * t - 2.5) * t * t + 1
            else:
                exact[k] = ((-0.5 * t + 2.5) * t - 4) * t + 2
            total += exact[k]
        for k in range(count):
            weights[i, k] = exact[k] / total
    return firsts, weights
