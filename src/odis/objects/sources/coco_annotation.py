"""One annotation in COCO's form, checked: its box, and its segmentation as compressed run lengths over the
whole image.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from odis.errors import DataError
from odis.objects import rle
from odis.objects.sources.coco_entries import number, short
from odis.types import Box

_NUMBERS = {int, float}

_FAR = 2**60

_BATCH = 2**19  # bytes of counts looked at together; numbers made of them take a hundred times as much

_NONE = [math.nan] * 4


def to_box(bbox: Any) -> Box:
    """`(x0, y0, x1, y1)` of COCO's x, y, width and height, which may be empty or lie outside.

    Raises:
        DataError: Saying what is wrong with it.
    """
    values = [number(value) for value in bbox] if isinstance(bbox, list) else []
    if len(values) != 4 or None in values:
        raise DataError(f"bbox is {short(bbox)}, must be four numbers (x, y, width, height)")
    try:
        x, y, width, height = map(float, values)  # type: ignore[arg-type]
    except OverflowError as error:
        raise DataError(f"bbox is {short(bbox)}, which is not finite") from error
    return x, y, x + width, y + height


def box_of_keypoints(keypoints: Any) -> Box:
    """The box around COCO's keypoints x, y, v, ..., of those that are labelled (v > 0).

    Raises:
        DataError: Saying what is wrong with them.
    """
    values = [number(value) for value in keypoints] if isinstance(keypoints, list) else []
    if not values or len(values) % 3 or any(value is None or not abs(value) < 2**31 for value in values):
        raise DataError(f"keypoints are {short(keypoints)}, must be numbers x, y, v, x, y, v, ...")
    numbers = [float(value or 0) for value in values]
    seen = [(x, y) for x, y, v in zip(numbers[::3], numbers[1::3], numbers[2::3]) if v > 0]
    if not seen:
        raise DataError("has no bbox, and none of its keypoints is labelled")
    return min(x for x, _ in seen), min(y for _, y in seen), max(x for x, _ in seen), max(y for _, y in seen)


def to_corners(bboxes: list[Any]) -> np.ndarray:
    """float64 (n, 4): as `to_box` of each, NaN where that refuses it or a whole number is far from any
    image.
    """
    shapes = set(map(type, bboxes)) <= {list} and set(map(len, bboxes)) <= {4}
    if not (shapes and set(map(type, chain.from_iterable(bboxes))) <= _NUMBERS):
        bboxes = [bbox if _numbers(bbox) and len(bbox) == 4 else _NONE for bbox in bboxes]
    try:
        corners = np.fromiter(chain.from_iterable(bboxes), np.float64, 4 * len(bboxes)).reshape(-1, 4)
    except OverflowError:
        return to_corners([bbox if all(-_FAR < v < _FAR for v in bbox) else _NONE for bbox in bboxes])
    with np.errstate(all="ignore"):
        corners[:, 2:] += corners[:, :2]
    return corners


def sound_mask(segmentation: Any, width: int, height: int) -> bytes | None:
    """As `to_mask`, with all that `object_problem` asks of a mask.

    Raises:
        DataError: It cannot be used.
    """
    counts = to_mask(segmentation, width, height)
    if counts is None or counts is segmentation:
        return counts
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        area = rle.check(counts, width, height)
    else:  # the library made the counts, and need not be asked whether they are any
        area = int(coco_mask.area({"size": [height, width], "counts": counts}))
    if not area:
        raise DataError("has an empty mask")
    return counts


def checked_counts(segmentations: list[Any], sizes: list[tuple[int, int]]) -> dict[int, bytes]:
    """The compressed counts among many segmentations of which `sound_mask` has nothing to say, by their
    positions.

    Args:
        segmentations: As they stand in the file.
        sizes: `(width, height)` of the image of each.
    """
    found: dict[int, bytes] = {}
    waiting: dict[int, bytes] = {}
    length = 0

    def look() -> None:
        pixels = np.array([min(sizes[i][0] * sizes[i][1], _FAR) for i in waiting], np.int64)
        sound = rle.are_sound(list(waiting.values()), pixels) if waiting else ()
        found.update((i, counts) for (i, counts), one in zip(waiting.items(), sound) if one)
        waiting.clear()

    for i, (segmentation, (width, height)) in enumerate(zip(segmentations, sizes)):
        if (
            type(segmentation) is dict
            and type(text := segmentation.get("counts")) is str
            and segmentation.get("size") == [height, width]
        ):
            if text:
                waiting[i] = text.encode(errors="replace")
                length += len(text)
            if length > _BATCH:
                look()
                length = 0
    look()
    return found


def to_mask(segmentation: Any, width: int, height: int) -> bytes | None:
    """Compressed counts of any of COCO's segmentations, checked before the C library sees them: it checks
    nothing.

    Compressed counts are passed on as they are; bytes are those that `checked_counts` found sound.

    Raises:
        DataError: Saying what is wrong with it.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, bytes):
        return segmentation
    if isinstance(segmentation, list):
        reach = max(
            width, height
        )  # a point further out than this is no point of the image, and would cost its distance in memory
        for polygon in segmentation:
            if (
                not _numbers(polygon)
                or len(polygon) < 6
                or len(polygon) % 2
                or not _all_within(polygon, -reach, 2 * reach)
            ):
                raise DataError(
                    f"polygon is {short(polygon)}, must be three or more points x, y in or near the image"
                )
        return rle.from_polygons(segmentation, width, height)
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        raise DataError(
            f"segmentation is {short(segmentation)}, must be polygons or run lengths with size and counts"
        )
    counts, size = segmentation["counts"], segmentation["size"]
    if size != [height, width]:
        raise DataError(
            f"mask is for an image of size {short(size)} (height, width), but the image has {[height, width]}"
        )
    if isinstance(counts, str):
        return counts.encode(errors="replace")  # what is no run lengths is found out by whoever reads them
    if (
        not _numbers(counts)
        or any(not isinstance(c, int) or c < 0 for c in counts)
        or sum(counts) != width * height
    ):
        raise DataError(f"run lengths do not make up the image of {width} x {height} pixels")
    compressed: bytes = coco_mask.frPyObjects(segmentation, height, width)["counts"]
    return compressed


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and set(map(type, values)) <= _NUMBERS


def _all_within(values: list[float], low: float, high: float) -> bool:
    total = sum(values)
    return (
        total == total and low <= min(values) and max(values) <= high
    )  # `min` and `max` may pass over a NaN, a sum never
