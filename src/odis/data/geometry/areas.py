"""Areas of objects, exactly: of several joined into one, and the part of each that a crop shows.

V crops, n objects, R rectangles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from odis.data.geometry.patches import ObjectShapes
from odis.machine.compiled import compiled

_ROUNDING = 1e-9  # of a share: more than sums of areas are off by


def select(shapes: ObjectShapes, which: Sequence[int]) -> ObjectShapes:
    """Some of the objects, in this order."""
    parts = [shapes.rectangles[shapes.starts[k] : shapes.starts[k + 1]] for k in which]
    return ObjectShapes(
        shapes.boxes[list(which)],
        np.concatenate([np.empty((0, 4)), *parts]),
        np.array([0, *map(len, parts)]).cumsum(),
        shapes.of_box[list(which)],
    )


def join(shapes: ObjectShapes, groups: Sequence[Sequence[int]]) -> ObjectShapes:
    """One object for each group: the union of the areas of its objects.

    Args:
        shapes: n objects.
        groups: Which of them belong together; none of the groups is empty.

    Returns:
        An object for each group, its box around all of them. It counts as a box if all are boxes.
    """
    boxes, parts = [], []
    for group in groups:
        mine = select(shapes, group)
        boxes.append([*mine.boxes[:, :2].min(0), *mine.boxes[:, 2:].max(0)])
        if len(group) == 1:
            parts.append(mine.rectangles)
            continue
        plain = [mine.boxes[k] for k in range(len(group)) if mine.starts[k] == mine.starts[k + 1]]
        parts.append(disjoint(np.concatenate([np.array(plain).reshape(-1, 4), mine.rectangles])))
    return ObjectShapes(
        np.array(boxes).reshape(-1, 4),
        np.concatenate([np.empty((0, 4)), *parts]),
        np.array([0, *map(len, parts)]).cumsum(),
        np.array([all(shapes.of_box[list(group)]) for group in groups], dtype=bool),
    )


def areas_in(shapes: ObjectShapes, crops: np.ndarray) -> np.ndarray:
    """Area of each object in each crop, float64 (..., n), in pixels of the image; crops are (..., 4)."""
    flat = np.asarray(crops, dtype=np.float64).reshape(-1, 4)
    found: np.ndarray = _areas_in(shapes.boxes, shapes.rectangles, shapes.starts, flat)
    return found.reshape((*np.shape(crops)[:-1], len(shapes.boxes)))


def total_areas(shapes: ObjectShapes) -> np.ndarray:
    """Area of each object, float64 (n,), in pixels of the image."""
    everywhere = np.array([[-np.inf, -np.inf, np.inf, np.inf]])
    areas: np.ndarray = _areas_in(shapes.boxes, shapes.rectangles, shapes.starts, everywhere)[0]
    return areas


def area_coverage(crops: np.ndarray, shapes: ObjectShapes) -> np.ndarray:
    """How well each crop shows each object: overlap / min(object area, crop area). `crops.coverage` is the
    same of boxes.

    Args:
        crops: (..., 4).
        shapes: n objects, none empty.

    Returns:
        float64 (..., n), from 0 to 1.
    """
    corners = np.asarray(crops, dtype=np.float64)
    of_crop = (corners[..., 2] - corners[..., 0]) * (corners[..., 3] - corners[..., 1])
    shares = areas_in(shapes, corners) / np.minimum(of_crop[..., None], total_areas(shapes))
    whole: np.ndarray = np.where(shares > 1 - _ROUNDING, 1.0, shares)
    return whole


def disjoint(rectangles: np.ndarray) -> np.ndarray:
    """The union of rectangles as rectangles of which no two overlap.

    Between two neighbouring vertical edges the union is a set of intervals: each becomes one rectangle.

    Args:
        rectangles: float64 (R, 4), x0 < x1, y0 < y1.
    """
    given = rectangles[np.argsort(rectangles[:, 1], kind="stable")]
    edges = np.unique(given[:, [0, 2]])
    first, end = np.searchsorted(edges, given[:, 0]), np.searchsorted(edges, given[:, 2])
    return _strips(given, edges, first, end)


@compiled()
def _strips(given: np.ndarray, edges: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Rectangles sorted by y0, cut at the edges, their intervals in each strip merged."""
    strips = max(len(edges) - 1, 0)
    counts = np.zeros(strips + 1, dtype=np.int64)
    for k in range(len(given)):
        for s in range(first[k], end[k]):
            counts[s + 1] += 1
    starts = np.cumsum(counts)
    place = starts.copy()
    of_strip = np.empty(starts[strips], dtype=np.int64)
    for k in range(len(given)):
        for s in range(first[k], end[k]):
            of_strip[place[s]] = k
            place[s] += 1
    out = np.empty((starts[strips], 4))
    n = 0
    for s in range(strips):
        for i in range(starts[s], starts[s + 1]):
            y0, y1 = given[of_strip[i], 1], given[of_strip[i], 3]
            if i > starts[s] and y0 <= out[n - 1, 3]:
                out[n - 1, 3] = max(out[n - 1, 3], y1)
            else:
                out[n] = edges[s], y0, edges[s + 1], y1
                n += 1
    return out[:n]


@compiled()
def _areas_in(boxes: np.ndarray, rectangles: np.ndarray, starts: np.ndarray, crops: np.ndarray) -> np.ndarray:
    areas = np.zeros((len(crops), len(boxes)))
    for v in range(len(crops)):
        for k in range(len(boxes)):
            is_box = starts[k] == starts[k + 1]
            parts = boxes[k : k + 1] if is_box else rectangles[starts[k] : starts[k + 1]]
            for i in range(len(parts)):
                across = min(crops[v, 2], parts[i, 2]) - max(crops[v, 0], parts[i, 0])
                down = min(crops[v, 3], parts[i, 3]) - max(crops[v, 1], parts[i, 1])
                if across > 0 and down > 0:
                    areas[v, k] += across * down
    return areas
