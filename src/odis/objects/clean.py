"""What makes an image and its objects usable: shared by every source, and by the check of a finished index."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

from odis.errors import DataError
from odis.objects import rle
from odis.objects.images import header_sizes
from odis.types import Object, Skipped

_FURTHEST = 2.0**31  # no pixel is out there; an index holds float32, in which larger numbers are infinite

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
    if not all(map(math.isfinite, item.box)) or max(map(abs, item.box)) >= _FURTHEST:
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


def usable_size(
    path: str | Path, skip: Skip, *, annotated: tuple[int, int] | None = None, objects: Iterable[str] = ()
) -> tuple[int, int] | None:
    """`(width, height)` of an image, or None if it cannot be used; then it and its objects are passed to `skip`.

    Args:
        path: The image.
        skip: Called with what is left out.
        annotated: `(width, height)` the annotation states, if it does.
        objects: What its objects are called.
    """
    try:
        return verified_size(path, annotated)
    except DataError as error:
        skip(Skipped(str(path), reason(error, path)))
        for name in objects:
            skip(SkippedObject(name, "its image cannot be used"))
        return None


def usable_objects(objects: Iterable[tuple[str, Object]], size: tuple[int, int], classes: int, skip: Skip) -> tuple[Object, ...]:
    """Those of an image's objects that can be used, as they were annotated; the others are passed to `skip`.

    Args:
        objects: Each object, behind what it is called.
        size: `(width, height)` of the image.
        classes: How many classes there are; labels must be below.
        skip: Called with what is left out.
    """
    kept = []
    for name, item in objects:
        problem = object_problem(item, *size, classes)
        if problem is None:
            kept.append(item)
        else:
            skip(SkippedObject(name, problem))
    return tuple(kept)


def reason(error: DataError, path: str | Path) -> str:
    """What an error says about the file it names."""
    return str(error).removeprefix(f"{path}: ")
