"""CorLoc: whether the one box of an image is right, and how often a box would be that nobody looked for."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from odis.errors import DataError
from odis.evaluation.protocols.layouts.boxed import BoxedImages, boxes_of
from odis.objects.clean import ANY_LABEL, usable_objects
from odis.objects.edit.compare import iou
from odis.objects.index import ObjectIndex
from odis.types import Box, Object

RIGHT = 0.5
"""IoU with a true box from which on a box is right."""

DRAWS = 200
"""Boxes drawn in each image to compute a chance."""


def hits(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Which of the boxes (n, 4) have an IoU of .5 or more with any true box (m, 4): bool (n,)."""
    right: np.ndarray = iou(boxes, truth).max(axis=1, initial=0.0) >= RIGHT
    return right


def is_right(box: Box | None, truth: np.ndarray) -> bool:
    """Whether an image's box is right; no box is wrong."""
    return box is not None and bool(hits(np.array([box], dtype=np.float64), truth)[0])


def first_box(objects: Sequence[Object]) -> Box | None:
    """The box of the highest score; of equal ones, or of objects without scores, the first."""
    if not objects:
        return None
    scores = [-np.inf if one.score is None else one.score for one in objects]
    return objects[int(np.argmax(scores))].box


def rows_in(index: ObjectIndex, images: BoxedImages) -> list[int | None]:
    """The row that an index has for each image, matched by the path of its file; None where it has none.

    Raises:
        DataError: It has none of the images.
    """
    rows = {os.path.realpath(index.image_path(i)): i for i in range(len(index))}
    found = [rows.get(os.path.realpath(path)) for path in images.paths]
    if all(row is None for row in found):
        raise DataError(
            f"{index.path} has none of the images of {images.path}; images are matched by the path of their "
            "file"
        )
    return found


def predicted_boxes(index: ObjectIndex, images: BoxedImages) -> tuple[list[Box | None], int]:
    """The most confident box that an index has for each image, and how many images it does not have.

    Raises:
        DataError: It has none of the images.
    """
    found = rows_in(index, images)
    boxes = [
        None if row is None else first_box(usable_objects(index[row], ANY_LABEL).objects) for row in found
    ]
    return boxes, found.count(None)


def whole_image_hits(images: BoxedImages) -> np.ndarray:
    """Whether the box of the whole image is right: float64 (n,), 0 or 1."""
    return np.array(
        [
            is_right((0.0, 0.0, float(row.width), float(row.height)), images.boxes(i))
            for i, row in enumerate(images.rows)
        ],
        dtype=np.float64,
    )


def random_box_hits(images: BoxedImages, seed: int, draws: int = DRAWS) -> np.ndarray:
    """How often a box is right whose sides are drawn evenly in the same image: float64 (n,), shares."""
    rng = np.random.default_rng(seed)
    shares = []
    for i, row in enumerate(images.rows):
        corners = np.sort(rng.random((draws, 2, 2)), axis=1)  # two points; low and high of x and of y
        boxes = corners.reshape(draws, 4) * (row.width, row.height, row.width, row.height)
        shares.append(hits(boxes, images.boxes(i)).mean())
    return np.array(shares, dtype=np.float64)


def other_box_hits(images: BoxedImages, seed: int, draws: int = DRAWS) -> np.ndarray:
    """How often an annotated box of another image is right in this one: float64 (n,), shares; NaN where there
    is no other image.

    Another image is drawn evenly, and one of its boxes; the box is put at the same place relative to the
    image's sides.
    """
    if len(images) < 2:
        return np.full(len(images), np.nan)
    rng = np.random.default_rng(seed)
    relative = [boxes_of(row.objects) / (row.width, row.height, row.width, row.height) for row in images.rows]
    counts = np.array([len(boxes) for boxes in relative])
    starts, pool = np.cumsum(counts) - counts, np.concatenate(relative)
    shares = []
    for i, row in enumerate(images.rows):
        other = rng.integers(len(images) - 1, size=draws)
        other += other >= i
        boxes = pool[starts[other] + rng.integers(counts[other])]
        placed = boxes * (row.width, row.height, row.width, row.height)
        shares.append(hits(placed, images.boxes(i)).mean())
    return np.array(shares, dtype=np.float64)
