"""Object-aware crop geometry: numbers in, numbers out, no pixels.

A crop is an int64 row `(x0, y0, x1, y1)` in pixels of the image, x1 and y1 exclusive; boxes are floats in the same order.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

# torchvision's RandomResizedCrop tries this often before it falls back on the central crop.
ATTEMPTS = 10


def propose_crops(
    rng: np.random.Generator, width: int, height: int, count: tuple[int, ...], scale: tuple[float, float], ratio: tuple[float, float]
) -> np.ndarray:
    """Independent random-resized-crops, distributed as torchvision's `RandomResizedCrop.get_params`.

    Args:
        rng: Source of all randomness.
        width: Image width in pixels.
        height: Image height in pixels.
        count: Shape of the result, without its last axis.
        scale: Area of a crop as a share of the image, from and to.
        ratio: Aspect ratio (width / height), from and to; drawn log-uniformly.

    Returns:
        int64 (*count, 4).
    """
    n = math.prod(count)
    # One draw for all attempts of all crops: calls cost more than numbers at this size.
    uniform = rng.random((2 * ATTEMPTS + 2, n))
    area = (width * height) * (scale[0] + (scale[1] - scale[0]) * uniform[:ATTEMPTS])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * uniform[ATTEMPTS:-2])
    w = np.rint(np.sqrt(area * aspect))
    h = np.rint(np.sqrt(area / aspect))
    accepted = (w <= width) & (h <= height) & (w > 0) & (h > 0)
    first = accepted.argmax(0)
    crop = np.arange(n)
    w, h = w[first, crop], h[first, crop]
    # floor(u * k) of u in [0, 1) is uniform on 0..k-1.
    x0 = np.floor(uniform[-2] * (width - w + 1))
    y0 = np.floor(uniform[-1] * (height - h + 1))
    crops = np.array((x0, y0, x0 + w, y0 + h))
    if not (found := accepted[first, crop]).all():
        crops[:, ~found] = np.array(_central_crop(width, height, ratio))[:, None]
    return crops.T.astype(np.int64).reshape(*count, 4)


def _central_crop(width: int, height: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest central crop whose aspect ratio is allowed: torchvision's fallback, at least a pixel wide and high."""
    w, h = width, height
    if width / height < min(ratio):
        h = max(1, round(width / min(ratio)))
    elif width / height > max(ratio):
        w = max(1, round(height * max(ratio)))
    x0, y0 = (width - w) // 2, (height - h) // 2
    return x0, y0, x0 + w, y0 + h


def coverage(crops: np.ndarray, box: np.ndarray) -> np.ndarray:
    """How well each crop shows an object: overlap / min(object area, crop area), so that a crop inside a large object counts.

    Args:
        crops: (..., 4).
        box: (4,), or any shape that broadcasts with `crops`.

    Returns:
        float64 (...), from 0 to 1; 0 for empty boxes.
    """
    # Column by column: numpy's reductions over an axis of length two cost more than the arithmetic.
    crops, box = np.asarray(crops, dtype=np.float64), np.asarray(box, dtype=np.float64)
    x0, y0, x1, y1 = crops[..., 0], crops[..., 1], crops[..., 2], crops[..., 3]
    bx0, by0, bx1, by1 = box[..., 0], box[..., 1], box[..., 2], box[..., 3]
    overlap_x = np.maximum(np.minimum(x1, bx1) - np.maximum(x0, bx0), 0.0)
    overlap_y = np.maximum(np.minimum(y1, by1) - np.maximum(y0, by0), 0.0)
    smaller = np.minimum((x1 - x0) * (y1 - y0), (bx1 - bx0) * (by1 - by0))
    # An empty box overlaps nothing; the tiny divisor only keeps its 0 / 0 from being NaN.
    return overlap_x * overlap_y / np.maximum(smaller, np.finfo(np.float64).tiny)


def object_aware_crops(
    rng: np.random.Generator,
    width: int,
    height: int,
    box: np.ndarray,
    views: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    min_coverage: float,
    candidates: int,
) -> np.ndarray:
    """Random-resized-crops that show an object (arXiv 2506.05409, section 3).

    Each view takes the first of up to `candidates` crops that covers the object; if none does, the one that covers it most
    (the first of equals). All candidates are drawn at once: they are independent, so those after the first that fits change
    nothing, and the distribution is that of drawing one after the other.

    Args:
        rng: Source of all randomness.
        width: Image width in pixels.
        height: Image height in pixels.
        box: (4,), the object.
        views: Crops to return.
        scale: Area of a crop as a share of the image, from and to.
        ratio: Aspect ratio (width / height), from and to.
        min_coverage: Least `coverage` of the object; 0 is any overlap.
        candidates: Crops drawn a view.

    Returns:
        int64 (views, 4).
    """
    if box[0] <= 0 and box[1] <= 0 and box[2] >= width and box[3] >= height:
        return propose_crops(rng, width, height, (views,), scale, ratio)  # the whole image: any crop covers it
    crops = propose_crops(rng, width, height, (views, candidates), scale, ratio)
    share = coverage(crops, box)
    fits = share >= min_coverage if min_coverage > 0 else share > 0
    best = np.where(fits, 2.0, share).argmax(1)  # argmax takes the first of equals, and no share exceeds 1
    return crops[np.arange(views), best]


def choose_target(rng: np.random.Generator, boxes: np.ndarray, sampling: Literal["area", "uniform"]) -> int:
    """The index of the object that all views of an image show, drawn in proportion to its area or uniformly.

    Args:
        rng: Source of all randomness.
        boxes: (n, 4), n >= 1, none empty.
        sampling: `area` or `uniform`.
    """
    if len(boxes) == 1:
        return 0  # no draw where there is no choice: an image that is one object draws what an image without objects does
    if sampling == "uniform":
        return int(rng.integers(len(boxes)))
    boxes = np.asarray(boxes, dtype=np.float64)
    total = np.cumsum((boxes[:, 2:] - boxes[:, :2]).prod(1))
    return int(np.searchsorted(total, rng.random() * total[-1], side="right"))


def clip_boxes(boxes: np.ndarray, width: int, height: int, min_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes cut off at the image's border, and which of them are worth keeping.

    Args:
        boxes: (n, 4); may be inverted, outside or NaN: those are not kept.
        width: Image width in pixels.
        height: Image height in pixels.
        min_size: Least side of a clipped box in pixels.

    Returns:
        Clipped boxes, float64 (n, 4), and `keep`, bool (n,).
    """
    clipped = np.clip(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), 0.0, [width, height, width, height])
    sides = clipped[:, 2:] - clipped[:, :2]
    large = (sides > 0) & (sides >= min_size)  # NaN compares false
    return clipped, large[:, 0] & large[:, 1]
