"""Masks on the patch grid of a view: which patches belong to an object, and which are hidden from the
student.

A view of `rows * columns` patches is a crop, resized; so patch (r, c) is the crop's rectangle (r, c) of the
same grid.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from odis.machine.compiled import compiled
from odis.types import Crop

# Sums of exact shares carry rounding errors; a patch that is just covered enough must not depend on them.
_ROUNDING = 1e-9

_SLIVER = 1e-7  # share of a patch that is less than any pixel's, and more than rounding


def patch_coverage_of_box(box: np.ndarray, crop: Crop, grid: tuple[int, int]) -> np.ndarray:
    """Share of each patch that a box covers, by area, exactly.

    Args:
        box: (4,), pixels of the image.
        crop: The view's crop.
        grid: Rows and columns of patches.

    Returns:
        float64 (rows, columns), from 0 to 1.
    """
    corners = np.array([[crop.x0, crop.y0, crop.x1, crop.y1]])
    return patch_coverage_of_boxes(np.asarray(box)[None], corners, np.array([crop.flip]), grid)[0, 0]


def patch_coverage_of_boxes(
    boxes: np.ndarray, crops: np.ndarray, flips: np.ndarray, grid: tuple[int, int]
) -> np.ndarray:
    """`patch_coverage_of_box` of n boxes in V views at once.

    Args:
        boxes: (n, 4), pixels of the image.
        crops: (V, 4), x0, y0, x1, y1 of the views' crops.
        flips: bool (V,), which views are mirrored.
        grid: Rows and columns of patches.

    Returns:
        float64 (V, n, rows, columns), from 0 to 1.
    """
    boxes, crops = np.asarray(boxes, dtype=np.float64)[None, :, :, None], crops[:, :, None, None]
    across = _interval_shares(boxes[:, :, 0], boxes[:, :, 2], crops[:, 0], crops[:, 2] - crops[:, 0], grid[1])
    down = _interval_shares(boxes[:, :, 1], boxes[:, :, 3], crops[:, 1], crops[:, 3] - crops[:, 1], grid[0])
    across = np.where(flips[:, None, None], across[..., ::-1], across)
    return down[..., :, None] * across[..., None, :]


def patch_coverage_of_mask(
    mask: np.ndarray, crop: Crop, grid: tuple[int, int], corner: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """Share of each patch that a pixel mask covers, by area, exactly; pixels are squares that patches may
    cut.

    Args:
        mask: (H, W), 1 where the object is, else 0; float64 is used as it is, other types are converted.
        crop: The view's crop.
        grid: Rows and columns of patches.
        corner: x and y of the mask's first pixel in the image, if the mask is a window of it (`mask_window`).

    Returns:
        float64 (rows, columns), from 0 to 1.
    """
    x0, y0 = max(crop.x0, corner[0]), max(crop.y0, corner[1])
    x1, y1 = (
        max(x0, min(crop.x1, corner[0] + mask.shape[1])),
        max(y0, min(crop.y1, corner[1] + mask.shape[0])),
    )
    inside = mask[y0 - corner[1] : y1 - corner[1], x0 - corner[0] : x1 - corner[0]]
    across = _pixel_shares(x0, x1, crop.x0, crop.width, grid[1])
    down = _pixel_shares(y0, y1, crop.y0, crop.height, grid[0])
    if crop.flip:
        across = across[:, ::-1]
    return down.T @ inside.astype(np.float64, copy=False) @ across


@compiled()
def mask_rectangles(runs: np.ndarray, height: int) -> np.ndarray:
    """The rectangles that a mask consists of: its pieces of columns, and columns that are whole, side by
    side.

    Args:
        runs: int64, lengths of the runs of background and object in turn, down one column after the other
            (uncompressed COCO RLE).
        height: Height of the mask in pixels.

    Returns:
        int64 (n, 4): x0, y0, x1, y1 in pixels, x1 and y1 exclusive; no two overlap.
    """
    out = np.empty(
        (3 * (len(runs) // 2), 4), dtype=np.int64
    )  # a run is at most the rest of a column, whole columns, part of another
    n, start = 0, 0
    for k in range(len(runs)):
        stop = start + runs[k]
        if k % 2 == 1 and stop > start:
            x, y = start // height, start % height
            last, bottom = (stop - 1) // height, (stop - 1) % height + 1
            if y > 0 and last > x:
                out[n] = x, y, x + 1, height
                n, x, y = n + 1, x + 1, 0
            if last > x and bottom < height:
                out[n] = x, 0, last, height
                n, x = n + 1, last
            out[n] = x, y, last + 1, bottom
            n += 1
        start = stop
    return out[:n]


@compiled()
def patch_coverage_of_rectangles(
    rectangles: np.ndarray,
    crops: np.ndarray,
    flips: np.ndarray,
    rows: int,
    columns: int,
    sliver: float = _SLIVER,
) -> np.ndarray:
    """`patch_coverage_of_mask` of one mask in V views at once, from its `mask_rectangles`.

    Args:
        rectangles: float64 (n, 4), in pixels of the image.
        crops: float64 (V, 4), x0, y0, x1, y1 of the views' crops.
        flips: bool (V,), which views are mirrored.
        rows: Rows of patches.
        columns: Columns of patches.
        sliver: Least share of a patch that is not taken for rounding.

    Returns:
        float64 (V, rows, columns), from 0 to 1.
    """
    out = np.zeros((len(crops), rows, columns))
    for v in range(len(crops)):
        left, top, right, bottom = crops[v]
        wide, high = (right - left) / columns, (bottom - top) / rows  # of a patch, in pixels of the image
        for k in range(len(rectangles)):
            x0, y0 = max(left, rectangles[k, 0]), max(top, rectangles[k, 1])
            x1, y1 = min(right, rectangles[k, 2]), min(bottom, rectangles[k, 3])
            if x0 >= x1 or y0 >= y1:
                continue
            first_row, end_row = int((y0 - top) / high), min(int((y1 - top) / high) + 1, rows)
            first_column, end_column = int((x0 - left) / wide), min(int((x1 - left) / wide) + 1, columns)
            for r in range(first_row, end_row):
                down = min(y1, top + (r + 1) * high) - max(y0, top + r * high)
                for c in range(first_column, end_column):
                    across = min(x1, left + (c + 1) * wide) - max(x0, left + c * wide)
                    out[v, r, c] += max(down, 0.0) * max(across, 0.0)
        for r in range(rows):
            for c in range(columns):
                share = min(out[v, r, c] / (wide * high), 1.0)
                out[v, r, c] = (
                    share if share >= sliver else 0.0
                )  # what rounding leaves of a rectangle that ends where the patch begins
        if flips[v]:
            out[v] = out[v, :, ::-1].copy()
    return out


def mask_window(mask: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The smallest window of a pixel mask that holds all of it, and the window's corner.

    Args:
        mask: uint8 or bool (H, W).

    Returns:
        uint8 (h, w) of 0 and 1, and `(x, y)` of its first pixel; an empty mask has an empty window.
    """
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(rows):
        return np.zeros((0, 0), dtype=np.uint8), (0, 0)
    x, y = int(columns[0]), int(rows[0])
    return (mask[y : rows[-1] + 1, x : columns[-1] + 1] != 0).view(np.uint8), (x, y)


def _interval_shares(low: np.ndarray, high: np.ndarray, start: Any, length: Any, parts: int) -> np.ndarray:
    """Share of each of `parts` equal parts of start..start + length that lies in low..high; all broadcast,
    (..., 1) -> (..., parts).
    """
    edges = start + np.arange(parts + 1) * (length / parts)
    overlap = np.minimum(high, edges[..., 1:]) - np.maximum(low, edges[..., :-1])
    # minimum and maximum instead of np.clip, which costs more than both at this size
    return np.minimum(np.maximum(overlap * (parts / length), 0.0), 1.0)


def _pixel_shares(first: int, end: int, start: int, length: int, parts: int) -> np.ndarray:
    """Share of each of `parts` equal parts of start..start + length that pixels first..end - 1 make up,
    (pixels, parts).
    """
    pixel = np.arange(first, end)[:, None]
    return _interval_shares(pixel, pixel + 1, start, length, parts)


def object_mask(coverage: np.ndarray, threshold: float, margin: int = 0) -> np.ndarray:
    """The patches that belong to an object: those it covers enough, measured by the patch that it covers
    most.

    For an object that fills a patch somewhere, enough is `threshold` of a patch. A small or thin one (a
    stroke, a pole, a far bicycle) covers no patch so well; against a fixed share it would be left with the
    single patch it covers most, a chance part of it that jumps from view to view. The result is empty only
    where the object covers nothing at all.

    Args:
        coverage: (..., rows, columns), share of each patch that the object covers.
        threshold: Least share of the largest share, above 0 and at most 1.
        margin: Patches by which the mask is widened on every side, corners included.

    Returns:
        bool (..., rows, columns).
    """
    mask = _covered_enough(coverage.reshape(-1, *coverage.shape[-2:]), threshold)
    return (_widen(mask, margin) if margin else mask).reshape(coverage.shape)


@compiled()
def _covered_enough(coverage: np.ndarray, threshold: float) -> np.ndarray:
    n, rows, columns = coverage.shape
    mask = np.empty((n, rows, columns), dtype=np.bool_)
    for i in range(n):
        largest = 0.0
        for r in range(rows):
            for c in range(columns):
                largest = max(largest, coverage[i, r, c])
        enough = threshold * largest * (1 - _ROUNDING)
        for r in range(rows):
            for c in range(columns):
                mask[i, r, c] = coverage[i, r, c] >= enough and coverage[i, r, c] > 0
    return mask


@compiled()
def _widen(mask: np.ndarray, margin: int) -> np.ndarray:
    """Or of the mask and its shifts by up to `margin` patches, (n, rows, columns)."""
    n, rows, columns = mask.shape
    wide = np.zeros((n, rows, columns), dtype=np.bool_)
    for i in range(n):
        for r in range(rows):
            for c in range(columns):
                if mask[i, r, c]:
                    wide[i, max(r - margin, 0) : r + margin + 1, max(c - margin, 0) : c + margin + 1] = True
    return wide


@compiled()
def object_masks(
    rectangles: np.ndarray,
    starts: np.ndarray,
    boxes: np.ndarray,
    shown: np.ndarray,
    crops: np.ndarray,
    flips: np.ndarray,
    side: int,
    slots: int,
    threshold: float,
    margin: int,
) -> tuple[np.ndarray, np.ndarray]:
    """`object_mask` of the objects of an image in V views of it, and which views show which object.

    Args:
        rectangles: float64 (R, 4), in pixels of the image: the objects' `mask_rectangles`, one object after
            the other; an object without a mask has none, and is its box.
        starts: int64 (n + 1,), where the rectangles of each object begin, and where the last one's end.
        boxes: float64 (n, 4), of the objects.
        shown: bool (V, n), which views show enough of which object. One that covers no patch is never
            visible.
        crops: float64 (V, 4), x0, y0, x1, y1 of the views' crops.
        flips: bool (V,), which views are mirrored.
        side: Patches in a row, and rows.
        slots: Q >= n; slots beyond the objects are not visible.
        threshold: As in `object_mask`.
        margin: As there; of boxes alone.

    Returns:
        bool (V, Q, side * side), all-true where the object is not visible, and bool (V, Q).
    """
    masks = np.ones((len(crops), slots, side * side), dtype=np.bool_)
    visible = np.zeros((len(crops), slots), dtype=np.bool_)
    for k in range(len(boxes)):
        is_box = starts[k] == starts[k + 1]
        parts = boxes[k : k + 1] if is_box else rectangles[starts[k] : starts[k + 1]]
        of_object = _covered_enough(
            patch_coverage_of_rectangles(parts, crops, flips, side, side, 0.0 if is_box else _SLIVER),
            threshold,
        )
        if is_box and margin > 0:
            of_object = _widen(of_object, margin)
        for v in range(len(crops)):
            if shown[v, k] and of_object[v].any():
                visible[v, k] = True
                masks[v, k] = of_object[v].ravel()
    return masks, visible


def prediction_mask(
    rng: np.random.Generator, grid: tuple[int, int], probability: float, ratio: float, spread: float
) -> np.ndarray:
    """Patches hidden from the student: rectangles, added until their share is reached (iBOT, section 3.1,
    after BEiT).

    With `probability`, a share is drawn from ratio - spread to ratio + spread, and rectangles of aspect .3 to
    1 / .3 are added that together never exceed it. As in iBOT the share is a ceiling, closely approached: of
    int(share * patches), on 14 x 14 patches at .3 +- .2, a mean of 0.8 patches of 58 are missing, at most 4
    in 95 of 100 masks; on 6 x 6, 0.1 of 10. Other than in iBOT, a rectangle may span the whole grid and is at
    least one patch wide and high, so that grids of a few patches get masks too.

    Args:
        rng: Source of all randomness.
        grid: Rows and columns of patches.
        probability: Probability that anything is hidden.
        ratio: Mean share of hidden patches, where some are.
        spread: Half the width of the share's range.

    Returns:
        bool (rows, columns).
    """
    rows, columns = grid
    mask = np.zeros(grid, dtype=bool)
    draw, share = rng.random(2)
    if draw >= probability:
        return mask
    wanted = rows * columns * (ratio + spread * (2 * share - 1))
    smallest = (min(grid) // 3) ** 2
    while wanted >= 1:
        rectangle = _free_rectangle(rng, mask, wanted, smallest)
        if rectangle is None:
            break
        block = mask[rectangle]
        wanted -= block.size - np.count_nonzero(block)
        block[:] = True
    return mask


def _free_rectangle(
    rng: np.random.Generator, mask: np.ndarray, room: float, smallest: int
) -> tuple[slice, slice] | None:
    """A rectangle that adds at least one and at most `room` patches to the mask; None if ten draws gave
    none.
    """
    rows, columns = mask.shape
    for area, aspect, down, across in rng.random((10, 4)).tolist():
        target = smallest + area * (room - smallest)
        stretch = math.exp((2 * aspect - 1) * math.log(0.3))
        h, w = max(1, round(math.sqrt(target * stretch))), max(1, round(math.sqrt(target / stretch)))
        if h <= rows and w <= columns:
            top, left = int(down * (rows - h + 1)), int(across * (columns - w + 1))
            rectangle = slice(top, top + h), slice(left, left + w)
            if 0 < h * w - np.count_nonzero(mask[rectangle]) <= room:
                return rectangle
    return None
