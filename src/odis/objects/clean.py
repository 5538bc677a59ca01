"""What makes an image and its objects usable: shared by every source, and by the check of a finished index."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from odis.errors import DataError
from odis.objects import rle
from odis.objects.images import header_sizes
from odis.types import ImageObjects, Object, Skipped

Skip = Callable[[Skipped], None]


class SkippedObject(Skipped):
    """An object that was left out of an image that was kept, or with it."""

    __slots__ = ()


class Crowd(Skipped):
    """A region annotated as a crowd: not one object, so never in the index, and not a fault either."""

    __slots__ = ()


def verified_size(path: str | Path, annotated: tuple[int, int] | None = None) -> tuple[int, int]:
    """`(width, height)` of an image from its header; the annotated size if the header confirms it, turned or not.

    Raises:
        DataError: The header cannot be read, or is of another size.
    """
    sizes = header_sizes(path)
    if annotated is None:
        return sizes[0]
    if tuple(annotated) not in sizes:
        raise DataError(f"{path}: is {sizes[0][0]} x {sizes[0][1]} pixels, but annotated as {annotated[0]} x {annotated[1]}")
    return annotated


def object_problem(item: Object, width: int, height: int, classes: int) -> str | None:
    """Why an object of a `width` x `height` image cannot be used, or None if it can. Boxes that reach over the edge can."""
    x0, y0, x1, y1 = item.box
    shown = "box (" + ", ".join(f"{v:g}" for v in item.box) + ")"
    if not all(map(math.isfinite, item.box)):
        return f"{shown} is not finite"
    if x1 < x0 or y1 < y0:
        return f"{shown} is inverted"
    if x1 == x0 or y1 == y0:
        return f"{shown} is empty"
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        return f"{shown} is outside the image of {width} x {height} pixels"
    if item.mask is not None:
        try:
            rle.check(item.mask, width, height)
        except DataError as error:
            return str(error)
        if rle.area(item.mask) == 0:
            return f"{shown} has an empty mask"
    if item.label is not None and not 0 <= item.label < classes:
        return f"{shown} has label {item.label}, but there are {classes} classes"
    if item.score is not None and not math.isfinite(item.score):
        return f"{shown} has score {item.score}"
    return None


def clean_row(
    root: str | Path, image: str, objects: Sequence[Object], skip: Skip, *, classes: int, size: tuple[int, int] | None = None
) -> ImageObjects | None:
    """One row of the index: the image with those of its objects that can be used, as they were annotated.

    An image that is left with no object is kept. Everything left out is passed to `skip`, an object as "PATH, object N".

    Args:
        root: Folder that `image` is relative to.
        image: Relative path of the image.
        objects: Its objects.
        skip: Called with everything left out.
        classes: How many classes there are; labels must be below.
        size: `(width, height)` the annotation states, if it does.

    Returns:
        The row, or None if the image cannot be used.
    """
    path = os.path.join(root, image)
    try:
        width, height = verified_size(path, size)
    except DataError as error:
        skip(Skipped(path, str(error).removeprefix(f"{path}: ")))
        for k in range(len(objects)):
            skip(SkippedObject(f"{path}, object {k}", "its image cannot be used"))
        return None
    kept = []
    for k, item in enumerate(objects):
        problem = object_problem(item, width, height, classes)
        if problem is None:
            kept.append(item)
        else:
            skip(SkippedObject(f"{path}, object {k}", problem))
    return ImageObjects(image, width, height, tuple(kept))
