"""Object-aware crop geometry: numbers in, numbers out, no pixels.

A crop is an int64 row `(x0, y0, x1, y1)` in pixels of the image, x1 and y1 exclusive; boxes are floats in the
same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from odis.machine.compiled import compiled

# torchvision's RandomResizedCrop tries this often before it takes the central crop.
ATTEMPTS = 10


def propose_crops(
    rng: np.random.Generator,
    width: int,
    height: int,
    count: tuple[int, ...],
    scale: tuple[float, float],
    ratio: tuple[float, float],
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
    # One draw for all attempts of all crops: at this size a call costs more than the numbers.
    uniform = rng.random((2 * ATTEMPTS + 2, math.prod(count)))
    return _crops_from(uniform, width, height, *scale, *ratio).reshape(*count, 4)


@compiled()
def _crops_from(
    uniform: np.ndarray, width: int, height: int, smallest: float, largest: float, narrow: float, wide: float
) -> np.ndarray:
    """Crops from uniform numbers in [0, 1), (2 * ATTEMPTS + 2, n): areas, aspect ratios, then x and y.

    The first area and aspect ratio that fit into the image are taken. Returns int64 (n, 4).
    """
    n = uniform.shape[1]
    crops = np.empty((n, 4), dtype=np.int64)
    low, high = math.log(narrow), math.log(wide)
    for k in range(n):
        w = h = 0.0
        for attempt in range(ATTEMPTS):
            area = (width * height) * (smallest + (largest - smallest) * uniform[attempt, k])
            aspect = math.exp(low + (high - low) * uniform[ATTEMPTS + attempt, k])
            w, h = np.rint(math.sqrt(area * aspect)), np.rint(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                # floor(u * k) of u in [0, 1) is uniform on 0..k-1.
                x0, y0 = (
                    math.floor(uniform[-2, k] * (width - w + 1)),
                    math.floor(uniform[-1, k] * (height - h + 1)),
                )
                crops[k] = x0, y0, x0 + int(w), y0 + int(h)
                break
        else:
            crops[k] = _central_crop(width, height, narrow, wide)
    return crops


@compiled()
def _central_crop(width: int, height: int, narrow: float, wide: float) -> tuple[int, int, int, int]:
    """The largest central crop whose aspect ratio is allowed: torchvision's fallback, at least a pixel wide
    and high.
    """
    w, h = width, height
    if width / height < narrow:
        h = max(1, round(width / narrow))
    elif width / height > wide:
        w = max(1, round(height * wide))
    x0, y0 = (width - w) // 2, (height - h) // 2
    return x0, y0, x0 + w, y0 + h


def coverage(crops: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """How well each crop shows each object: overlap / min(object area, crop area).

    The minimum lets a crop inside a large object count as full coverage.

    Args:
        crops: (..., 4).
        boxes: (4,) or (n, 4).

    Returns:
        float64 (...) or (..., n), from 0 to 1; 0 for empty boxes.
    """
    crops, boxes = np.asarray(crops, dtype=np.float64), np.asarray(boxes, dtype=np.float64)
    return _coverage(crops.reshape(-1, 4), boxes.reshape(-1, 4)).reshape(crops.shape[:-1] + boxes.shape[:-1])


@compiled()
def _coverage(crops: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    shares = np.zeros((len(crops), len(boxes)))
    for i in range(len(crops)):
        x0, y0, x1, y1 = crops[i]
        for k in range(len(boxes)):
            bx0, by0, bx1, by1 = boxes[k]
            across, down = min(x1, bx1) - max(x0, bx0), min(y1, by1) - max(y0, by0)
            if across > 0 and down > 0:
                shares[i, k] = across * down / min((x1 - x0) * (y1 - y0), (bx1 - bx0) * (by1 - by0))
    return shares


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
    shares: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Random-resized-crops that show an object (arXiv 2506.05409, section 3).

    Each view takes the first of up to `candidates` crops that covers the object. If none does, it takes the
    one that covers it most (the first of equals). All candidates are drawn at once: they are independent, so
    the result is distributed as if they were drawn one after the other.

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
        shares: From crops (views, candidates, 4) to how well each shows the object, for one that is not its
            box. By default the box's `coverage`.

    Returns:
        int64 (views, 4).
    """
    if shares is None and box[0] <= 0 and box[1] <= 0 and box[2] >= width and box[3] >= height:
        return propose_crops(rng, width, height, (views,), scale, ratio)  # every crop covers the whole image
    crops = propose_crops(rng, width, height, (views, candidates), scale, ratio)
    return _first_that_shows(crops, coverage(crops, box) if shares is None else shares(crops), min_coverage)


@compiled()
def _first_that_shows(crops: np.ndarray, shares: np.ndarray, min_coverage: float) -> np.ndarray:
    """int64 (V, 4) of candidates (V, K, 4) and their coverage (V, K)."""
    chosen = np.empty((len(crops), 4), dtype=np.int64)
    for v in range(len(crops)):
        best = 0
        for k in range(crops.shape[1]):
            share = shares[v, k]
            if share > shares[v, best]:
                best = k
            if share > 0 and share >= min_coverage:
                best = k
                break
        chosen[v] = crops[v, best]
    return chosen


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of boxes (n, 4), float64 (n,)."""
    corners = np.asarray(boxes, dtype=np.float64)
    areas: np.ndarray = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return areas


def choose_target(rng: np.random.Generator, areas: np.ndarray, sampling: Literal["area", "uniform"]) -> int:
    """Draw the target, the object that all views of an image show: its position among the objects.

    Args:
        rng: Source of all randomness.
        areas: (n,), n >= 1, of the objects, none 0.
        sampling: `area` draws in proportion to the area, `uniform` does not.
    """
    if len(areas) == 1:
        # No draw without a choice: an image with one object then draws the same crops as one without objects.
        return 0
    if sampling == "uniform":
        return int(rng.integers(len(areas)))
    return _by_area(np.asarray(areas, dtype=np.float64), rng.random())


@compiled()
def _by_area(areas: np.ndarray, share: float) -> int:
    """The object in which that share of the total area ends, when areas are added in order."""
    total = 0.0
    for area in areas:
        total += area
    end = 0.0
    for k in range(len(areas)):
        end += areas[k]
        if end > share * total:
            return k
    return len(areas) - 1


def clip_boxes(boxes: np.ndarray, width: int, height: int, min_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes to the image, and say which of them are large enough.

    Args:
        boxes: (n, 4); may be inverted, outside or NaN: those are not kept.
        width: Image width in pixels.
        height: Image height in pixels.
        min_size: Least side of a clipped box in pixels.

    Returns:
        Clipped boxes, float64 (n, 4), and `keep`, bool (n,).
    """
    return _clip(np.array(boxes, dtype=np.float64).reshape(-1, 4), width, height, min_size)


@compiled()
def _clip(boxes: np.ndarray, width: int, height: int, min_size: float) -> tuple[np.ndarray, np.ndarray]:
    keep = np.empty(len(boxes), dtype=np.bool_)
    for k in range(len(boxes)):
        box = boxes[k]
        for c in range(4):
            limit = float(height if c % 2 else width)
            box[c] = 0.0 if box[c] < 0 else limit if box[c] > limit else box[c]  # NaN stays what it is
        across, down = box[2] - box[0], box[3] - box[1]
        keep[k] = across > 0 and down > 0 and across >= min_size and down >= min_size  # NaN compares false
    return boxes, keep
