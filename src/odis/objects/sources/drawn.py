"""Shapes as people draw them in labelme and CVAT, made into annotations of COCO's form.

An outline (polygon, ellipse, rotated box) becomes a polygon, painted pixels become run lengths, a box stays
one. Lines and points enclose nothing: they are no objects.

Shapes of one label that share a group are one object: both tools' own converters read them so, and it is how
an object that something cuts in two is drawn. Its mask is the union of theirs, its box the hull.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from odis.errors import DataError
from odis.objects import rle
from odis.types import Box

LARGEST_PATCH = 2**28
"""Pixels of a painted mask, or of the image it is in, that are looked at."""

_CORNERS = 64  # of the polygon that stands for an ellipse: it is off by a thousandth of the radius

NO_REGION = "lines and points, which are no objects"


@dataclass(frozen=True, slots=True)
class DrawnShape:
    """One shape: its box, and its outline or its pixels, if it has any."""

    number: int  # its place in the file, from 1
    label: str
    box: Box
    outline: list[float] | None = None  # x, y, x, y, ... in pixels
    pixels: bytes | None = None  # compressed run lengths over the whole image
    group: Hashable = None
    score: Any = None


def box_of_points(points: Sequence[tuple[float, float]]) -> Box:
    """The smallest box that holds some points."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def ellipse(cx: float, cy: float, rx: float, ry: float, turned: float = 0.0) -> list[tuple[float, float]]:
    """Corners of the polygon that stands for an ellipse; `turned` in degrees, clockwise as an image shows
    it.
    """
    angles = [2 * math.pi * k / _CORNERS for k in range(_CORNERS)]
    return turn([(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles], turned)


def turn(points: Sequence[tuple[float, float]], degrees: float) -> list[tuple[float, float]]:
    """Points turned about the middle of their box, clockwise as an image shows it."""
    if not degrees:
        return list(points)
    x0, y0, x1, y1 = box_of_points(points)
    cx, cy, cos, sin = (x0 + x1) / 2, (y0 + y1) / 2, *_cos_sin(degrees)
    return [(cx + (x - cx) * cos - (y - cy) * sin, cy + (x - cx) * sin + (y - cy) * cos) for x, y in points]


def _cos_sin(degrees: float) -> tuple[float, float]:
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def painted(patch: np.ndarray, left: int, top: int, size: tuple[int, int]) -> tuple[bytes, Box]:
    """Compressed run lengths over the whole image of a mask that is painted in a part of it; and the box of
    its pixels.

    Args:
        patch: (height, width), non-zero inside; what lies over the image's edge is cut off.
        left: Column of the image that the patch begins at.
        top: Row likewise.
        size: `(width, height)` of the image.

    Raises:
        DataError: No pixel of it is in the image, or the image is larger than any that is read.
    """
    width, height = size
    if not 0 < width * height <= 2**31 - 1:
        raise DataError(f"mask is for an image of {width} x {height} pixels")
    x0, y0 = max(0, -left), max(0, -top)
    inside = patch[y0 : max(0, height - top), x0 : max(0, width - left)] != 0
    if not inside.any():
        raise DataError("mask has no pixel in the image")
    left, top = left + x0, top + y0
    columns = np.flatnonzero(inside.any(axis=0))
    rows = np.flatnonzero(inside.any(axis=1))
    edges = np.diff(np.pad(inside, ((1, 1), (0, 0))).astype(np.int8), axis=0)
    start_column, start_row = np.nonzero((edges > 0).T)  # in the order of COCO's runs: down, then across
    end_column, end_row = np.nonzero((edges < 0).T)
    starts = (start_column.astype(np.int64) + left) * height + start_row + top
    ends = (end_column.astype(np.int64) + left) * height + end_row + top
    apart = np.concatenate([[True], starts[1:] != ends[:-1]])  # a run may go on in the next column
    starts, ends = starts[apart], ends[np.concatenate([apart[1:], [True]])]
    bounds = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [width * height]])
    runs = np.diff(bounds).tolist()
    runs = runs if runs[-1] else runs[:-1]  # as pycocotools writes it
    counts: bytes = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"]
    box = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
    return counts, (float(box[0]), float(box[1]), float(box[2]), float(box[3]))


def entries(
    shapes: Sequence[DrawnShape], size: tuple[int, int] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of an image as annotations of COCO's form, without image and category; each behind its
    label.

    Args:
        shapes: All of the image, in their order.
        size: `(width, height)` of the image, if the file states it; where it does not, a shape with `pixels`
            cannot be.
    """
    groups: dict[Hashable, list[DrawnShape]] = {}
    for shape in shapes:
        alone = shape.group is None
        groups.setdefault((shape.number,) if alone else (shape.label, shape.group), []).append(shape)
    for members in groups.values():
        x0, y0, x1, y1 = (f(m.box[k] for m in members) for k, f in enumerate((min, min, max, max)))
        entry: dict[str, Any] = {"id": members[0].number, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
        segmentation = _segmentation(members, size)
        if segmentation is not None:
            entry["segmentation"] = segmentation
        scores = [member.score for member in members if member.score is not None]
        if scores:
            entry["score"] = scores[0]
        yield members[0].label, entry


def _segmentation(members: list[DrawnShape], size: tuple[int, int] | None) -> Any:
    if all(member.outline is None and member.pixels is None for member in members):
        return None  # boxes
    outlines = [member.outline or _corners(member.box) for member in members if member.pixels is None]
    masks = [member.pixels for member in members if member.pixels is not None]
    if not masks or size is None:
        return outlines
    width, height = size
    for outline in outlines:
        if all(-max(size) <= value <= 2 * max(size) for value in outline):
            try:
                masks.append(rle.from_polygons([outline], width, height))
            except DataError:  # too long to be drawn: the object keeps its box and the rest of its mask
                continue
    stated = [height, width]
    merged = coco_mask.merge([{"size": stated, "counts": one} for one in masks])
    return {"size": stated, "counts": merged["counts"].decode()}


def _corners(box: Box) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1, y0, x1, y1, x0, y1]
