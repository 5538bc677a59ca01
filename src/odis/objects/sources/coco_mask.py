"""Segmentations in COCO's form as tools really write them.

What can be read beyond doubt is read: one polygon without the list around it, points as pairs or as x and y,
numbers as text, run lengths as numbers with a point or as Python prints bytes. Of several polygons the good
ones are used. What is left out is said: an object keeps its box, and the part of its mask that is good.
"""

from __future__ import annotations

import ast
import json
import math
import warnings
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from odis.errors import DataError
from odis.objects import rle
from odis.objects.sources.coco_annotation import sound_mask
from odis.objects.sources.coco_entries import number, short
from odis.types import Box

_FURTHEST = 2**17  # pixels from the image's corner that a point may lie

_LONGEST = 2**20  # pixels along the outline of a polygon that reaches far out; its pixels are walked

_NEAR = 2.0  # pixels by which the box of a mask and the annotated one may differ


def read_mask(segmentation: Any, width: int, height: int, box: Box | None) -> tuple[bytes | None, str | None]:
    """Compressed counts of what can be read of a segmentation, None if nothing can or there is none; and what
    is wrong with the rest, None if nothing is.

    Args:
        segmentation: As it stands in the file.
        width: Of the image.
        height: Of the image.
        box: The annotated one, which decides where the size of run lengths is in doubt.
    """
    if not segmentation:
        return None, None
    try:
        return sound_mask(segmentation, width, height), None
    except DataError:
        pass
    masks, problem = [], None
    for part in _parts(segmentation):
        try:
            masks.append(
                _of_polygon(part, width, height)
                if isinstance(part, list)
                else _of_runs(part, width, height, box)
            )
        except DataError as error:
            problem = problem or str(error)
    size = [height, width]
    merged = coco_mask.merge([{"size": size, "counts": counts} for counts in masks]) if masks else None
    if merged is None or not coco_mask.area(merged):
        return None, problem or "its mask is empty"
    counts: bytes = merged["counts"]
    return counts, problem


def box_of(counts: bytes, width: int, height: int) -> Box:
    """`(x0, y0, x1, y1)` of the pixels of a mask."""
    x, y, w, h = map(float, coco_mask.toBbox({"size": [height, width], "counts": counts}))
    return x, y, x + w, y + h


def _parts(segmentation: Any) -> list[Any]:
    """The polygons and run lengths of a segmentation."""
    if isinstance(segmentation, str):
        segmentation = _decoded(segmentation)
    if not isinstance(segmentation, list):
        return [segmentation]
    if segmentation and all(number(value) is not None for value in segmentation):
        return [segmentation]
    if len(segmentation) > 2 and all(_point(value) is not None for value in segmentation):
        return [segmentation]
    return segmentation


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _point(value: Any) -> list[Any] | None:
    """`[x, y]` of a point as a pair or with names."""
    if isinstance(value, dict):
        return [value["x"], value["y"]] if value.keys() >= {"x", "y"} else None
    return value if isinstance(value, list) and len(value) == 2 else None


def _of_polygon(part: list[Any], width: int, height: int) -> bytes:
    values = part
    points = [_point(value) for value in values]
    if values and None not in points:
        values = [value for point in points if point is not None for value in point]
    numbers = [number(value) for value in values]
    wrong = DataError(f"polygon is {short(part)}, must be three or more points x, y in or near the image")
    if len(numbers) < 6 or len(numbers) % 2 or None in numbers:
        raise wrong
    try:
        polygon = np.array(numbers, np.float64)
    except OverflowError:
        raise wrong from None
    if not np.isfinite(polygon).all() or np.abs(polygon).max() > _FURTHEST:
        raise wrong
    if polygon.min() < -max(width, height) or polygon.max() > 2 * max(width, height):
        outline = np.abs(np.diff(polygon.reshape(-1, 2), axis=0, append=polygon[None, :2])).max(axis=1).sum()
        if outline > _LONGEST:
            raise wrong
    return rle.from_polygons([polygon.tolist()], width, height)


def _of_runs(part: Any, width: int, height: int, box: Box | None) -> bytes:
    if not isinstance(part, dict) or "counts" not in part:
        raise DataError(
            f"segmentation is {short(part)}, must be polygons or run lengths with size and counts"
        )
    counts = _counts(part["counts"])
    size = part.get("size")
    stated = [number(value) for value in size] if isinstance(size, list) else size
    known = stated == [height, width]
    if not known and stated is not None and stated != [width, height]:
        raise DataError(
            f"mask is for an image of size {short(size)} (height, width), but the image has {[height, width]}"
        )
    rle.check(counts, width, height)
    if known or (box is not None and _is_near(box_of(counts, width, height), box)):
        return counts
    raise DataError(
        f"mask is for an image of size {short(size)} (height, width), but the image has {[height, width]}; "
        f"read for that, its pixels are not where its box is"
    )


def _counts(value: Any) -> bytes:
    """Compressed counts of run lengths in any spelling."""
    if isinstance(value, str):
        if value[:2] in ("b'", 'b"'):  # as Python prints bytes; no run lengths have such characters
            return _evaluated(value)
        if not value.startswith("["):
            return value.encode(errors="replace")
        value = _decoded(value)
    runs = [number(one) for one in value] if isinstance(value, list) else []
    if not runs or not all(
        run is not None and math.isfinite(run) and run == int(run) and 0 <= run < 2**31 for run in runs
    ):
        raise DataError(f"run lengths are {short(value)}, must be text, or whole numbers from 0 on")
    whole = [int(run) for run in runs if run is not None]
    size = [sum(whole), 1]
    if size[0] >= 2**31:
        raise DataError(f"run lengths make up {size[0]} pixels")
    counts: bytes = coco_mask.frPyObjects({"size": size, "counts": whole}, *size)["counts"]
    return counts


def _evaluated(text: str) -> bytes:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that are none
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, bytes):
        raise DataError(f"run lengths are {short(text)}, which cannot be read")
    return value


def _is_near(one: Box, other: Box) -> bool:
    return all(abs(a - b) <= _NEAR for a, b in zip(one, other))
