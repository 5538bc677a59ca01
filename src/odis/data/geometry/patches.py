"""From an object to its patches, in training and in inference: which patches of a view belong to it.

A view of `rows x columns` patches is a resized crop, so patch (r, c) is rectangle (r, c) of the same grid on
the crop. An object is its box, or the rectangles its mask consists of. Their overlap with a patch is summed
exactly.

V views, n objects, R rectangles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odis.config.training import MaskShape
from odis.machine.compiled import compiled
from odis.objects import rle

# Sums of exact shares carry rounding errors. A patch that is just covered enough must not depend on them.
_ROUNDING = 1e-9

_SLIVER = 1e-7  # share of a patch: less than any pixel's, more than rounding leaves


def patch_grid(size: int, patch_size: int, shape: tuple[int, int] | None = None) -> tuple[int, int]:
    """Rows and columns of patches of a view.

    Args:
        size: Side of a square view in pixels.
        patch_size: Side of a patch in pixels.
        shape: `(height, width)` of what the view shows, if its aspect is kept: the grid is the one nearest to
            it with about as many patches as a square view has. By default the view is square.
    """
    side = size // patch_size
    if shape is None:
        return side, side
    scale = side / (shape[0] * shape[1]) ** 0.5
    rows, columns = (min(max(round(length * scale), 1), side * side) for length in shape)
    return rows, columns


@dataclass(frozen=True, slots=True)
class ObjectShapes:
    """The areas of n objects of an image."""

    boxes: np.ndarray  # float64 (n, 4), in pixels of the image
    rectangles: np.ndarray  # float64 (R, 4), of one object after the other; no two of one overlap
    starts: np.ndarray  # int64 (n + 1,): rectangles starts[k]:starts[k + 1] are object k's; none for a box
    of_box: np.ndarray  # bool (n,): the object is a box, or several


def object_shapes(boxes: np.ndarray, masks: Sequence[bytes | None], width: int, height: int) -> ObjectShapes:
    """The areas of objects: of each its mask, or its box if it has none.

    Args:
        boxes: (n, 4).
        masks: n COCO compressed RLE counts, or None.
        width: Image width in pixels.
        height: Image height in pixels.

    Raises:
        DataError: A mask is no mask of that image.
    """
    nothing = np.empty((0, 4))
    pieces = [nothing if counts is None else _rectangles(counts, width, height) for counts in masks]
    starts = np.array([0, *map(len, pieces)]).cumsum()
    of_box = np.array([counts is None for counts in masks], dtype=bool)
    return ObjectShapes(
        np.asarray(boxes, dtype=np.float64), np.concatenate([nothing, *pieces]), starts, of_box
    )


def _rectangles(counts: bytes, width: int, height: int) -> np.ndarray:
    runs = rle.run_lengths(counts)
    if runs.sum() != width * height:
        rle.check(counts, width, height)
    return mask_rectangles(runs, height).astype(np.float64)


def objects_on_grid(
    shapes: ObjectShapes,
    crops: np.ndarray,
    flips: np.ndarray,
    grid: tuple[int, int],
    threshold: float,
    margin: int,
    mask_shape: MaskShape = "area",
) -> np.ndarray:
    """The patches that belong to each object in each view.

    A patch belongs to an object that covers enough of it, measured by the patch that the object covers most.
    For an object that fills a patch somewhere, enough is `threshold` of a patch. A small or thin object (a
    stroke, a pole, a far bicycle) fills none: against a fixed share it would keep one chance patch that jumps
    from view to view. An object has no patch only where it covers nothing at all. At a threshold of 0 any
    overlap is enough.

    With `component-boxes` these patches are taken apart into connected components (8 neighbours), and each
    component is replaced by its bounding box, as the code lineage of arXiv 2506.05409 does.

    Args:
        shapes: The areas of the objects.
        crops: (V, 4): x0, y0, x1, y1 of the views' crops in pixels of the image.
        flips: bool (V,): which views are mirrored.
        grid: Rows and columns of patches.
        threshold: Least share of the largest share, from 0 to 1.
        margin: Patches by which masks are widened on every side, corners included: with `area` those of box
            objects, with `component-boxes` all.
        mask_shape: Which patches the covered ones become.

    Returns:
        bool (V, n, rows, columns).
    """
    corners = np.asarray(crops, dtype=np.float64)
    return _on_grid(
        shapes.boxes,
        shapes.rectangles,
        shapes.starts,
        shapes.of_box,
        corners,
        flips,
        *grid,
        float(threshold),
        margin,
        mask_shape == "component-boxes",
    )


@compiled()
def _on_grid(
    boxes: np.ndarray,
    rectangles: np.ndarray,
    starts: np.ndarray,
    of_box: np.ndarray,
    crops: np.ndarray,
    flips: np.ndarray,
    rows: int,
    columns: int,
    threshold: float,
    margin: int,
    as_boxes: bool,
) -> np.ndarray:
    # At a threshold of 0 a rounding error would be an overlap.
    least = _ROUNDING if threshold == 0 else 0.0
    masks = np.empty((len(crops), len(boxes), rows, columns), dtype=np.bool_)
    for k in range(len(boxes)):
        is_box = starts[k] == starts[k + 1]
        parts = boxes[k : k + 1] if is_box else rectangles[starts[k] : starts[k + 1]]
        shares = patch_coverage(parts, crops, flips, rows, columns, least if is_box else _SLIVER)
        mask = _covered_enough(shares, threshold)
        if as_boxes:
            mask = _component_boxes(mask)
        masks[:, k] = _widen(mask, margin) if (of_box[k] or as_boxes) and margin > 0 else mask
    return masks


@compiled()
def mask_rectangles(runs: np.ndarray, height: int) -> np.ndarray:
    """The rectangles that a mask consists of: parts of columns, and runs of whole columns.

    Args:
        runs: int64, uncompressed COCO RLE: lengths of background and object in turn, column by column.
        height: Height of the mask in pixels.

    Returns:
        int64 (n, 4): x0, y0, x1, y1 in pixels, x1 and y1 exclusive; no two overlap.
    """
    # A run is at most the rest of a column, whole columns, and the beginning of another.
    out = np.empty((3 * (len(runs) // 2), 4), dtype=np.int64)
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
def patch_coverage(
    rectangles: np.ndarray,
    crops: np.ndarray,
    flips: np.ndarray,
    rows: int,
    columns: int,
    sliver: float,
) -> np.ndarray:
    """Share of each patch that rectangles cover, by area, exactly.

    Args:
        rectangles: float64 (R, 4), in pixels of the image; no two overlap.
        crops: float64 (V, 4), x0, y0, x1, y1 of the views' crops.
        flips: bool (V,), which views are mirrored.
        rows: Rows of patches.
        columns: Columns of patches.
        sliver: Smaller shares are taken for rounding errors and become 0.

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
                # A rectangle that ends where the patch begins may leave a rounding error here.
                share = min(out[v, r, c] / (wide * high), 1.0)
                out[v, r, c] = share if share >= sliver else 0.0
        if flips[v]:
            out[v] = out[v, :, ::-1].copy()
    return out


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
def _component_boxes(mask: np.ndarray) -> np.ndarray:
    """The bounding boxes of the connected components of each mask, filled: bool (n, rows, columns)."""
    n, rows, columns = mask.shape
    filled = np.zeros((n, rows, columns), dtype=np.bool_)
    seen = np.zeros((n, rows, columns), dtype=np.bool_)
    waiting = np.empty((rows * columns, 2), dtype=np.int64)
    for i in range(n):
        for r in range(rows):
            for c in range(columns):
                if seen[i, r, c] or not mask[i, r, c]:
                    continue
                top, left, bottom, right = r, c, r, c
                waiting[0, 0], waiting[0, 1], count = r, c, 1
                seen[i, r, c] = True
                while count > 0:
                    count -= 1
                    y, x = waiting[count, 0], waiting[count, 1]
                    top, bottom, left, right = min(top, y), max(bottom, y), min(left, x), max(right, x)
                    for near_y in range(max(y - 1, 0), min(y + 2, rows)):
                        for near_x in range(max(x - 1, 0), min(x + 2, columns)):
                            if mask[i, near_y, near_x] and not seen[i, near_y, near_x]:
                                seen[i, near_y, near_x] = True
                                waiting[count, 0], waiting[count, 1] = near_y, near_x
                                count += 1
                filled[i, top : bottom + 1, left : right + 1] = True
    return filled
