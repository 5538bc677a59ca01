"""The label file of one image in YOLO's form: a line an object.

A line is `class x y width height` (the box's centre and size), perhaps with a confidence behind it, or `class
x1 y1 x2 y2 x3 y3 ...` (a polygon; so are the four corners of an oriented box). All are shares of the image's
width and height as a viewer shows it. What reaches a little over the edge is clipped to the image; a share
far outside of 0 to 1 is no share, but pixels, and its line is left out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects import rle
from odis.objects.clean import Mended, Skip, SkippedObject
from odis.objects.sources.frames import LEAST_SHARE, MOST_SHARE, clipped
from odis.objects.sources.text import read_text, short
from odis.objects.sources.yolo_yaml import ClassList
from odis.types import Object


def label_lines(path: Path) -> list[tuple[str, str]]:
    """Each line of a label file that is not blank, behind what it is called; none if there is no file.

    Raises:
        DataError: It is there and cannot be read.
    """
    try:
        found = read_text(path)
    except FileNotFoundError:
        return []
    return [(f"{path}, line {number}", line) for number, line in found.lines]


def objects_of(
    lines: list[tuple[str, str]], size: tuple[int, int], classes: ClassList, skip: Skip
) -> list[tuple[str, Object]]:
    """The objects of some lines, each behind what its line is called.

    Args:
        lines: Of a label file, each behind what it is called.
        size: `(width, height)` of the image as a viewer shows it.
        classes: The classes of the data set.
        skip: Called with every line that is no object, and every object that is not used as it stands there.
    """
    found = []
    for name, line in lines:
        changes: list[str] = []
        try:
            item = _object(line, size, classes, changes)
        except DataError as error:
            skip(SkippedObject(name, str(error)))
            continue
        found.append((name, item))
        if changes:
            skip(Mended(name, "; ".join(changes)))
    return found


def _object(line: str, size: tuple[int, int], classes: ClassList, changes: list[str]) -> Object:
    word, *words = line.split()
    try:
        values = list(map(_number, words))
    except ValueError as error:
        raise DataError(f"is {short(line)}, must be numbers with spaces between them") from error
    if len(values) not in (4, 5) and (len(values) < 6 or len(values) % 2):
        raise DataError(
            f"has {counted(len(values) + 1, 'number')}, must have 5 (class and box), 6 (and confidence) or "
            f"7, 9, ... (class and points)"
        )
    label = classes.position(word)
    score = values.pop() if len(values) == 5 else None
    for value in values:
        if not LEAST_SHARE <= value <= MOST_SHARE:
            raise DataError(f"has {value:g}, must be a share of the image's width or height, from 0 to 1")
    if label is None:
        changes.append(f"has class {short(word)}, which the class list has not: kept without label")
    if score is not None and not 0 <= score <= 1:
        changes.append(f"has confidence {score:g}, which must be from 0 to 1: kept without score")
        score = None
    item = _box(values, size) if len(values) == 4 else _polygon(values, size, changes)
    box = clipped(item.box, size, changes, far=len(values) > 4)  # a polygon's mask is clipped, too
    return replace(item, box=box, label=label, score=score)


def _box(values: list[float], size: tuple[int, int]) -> Object:
    x, y, w, h = values
    width, height = size
    return Object(((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height))


def _polygon(values: list[float], size: tuple[int, int], changes: list[str]) -> Object:
    width, height = size
    points = [value * (height if k % 2 else width) for k, value in enumerate(values)]
    box = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    if box[0] == box[2] or box[1] == box[3]:
        return Object(box)  # a line: no object, as will be said of its box
    try:
        mask = rle.from_polygons([points], width, height)
    except DataError as error:
        changes.append(f"{error}: kept without mask")
        return Object(box)
    if not rle.area(mask):
        if box[0] < width and box[1] < height and box[2] > 0 and box[3] > 0:
            changes.append("has a polygon that covers no pixel: kept without mask")
        return Object(box)
    return Object(box, mask)


def _number(text: str) -> float:
    if "_" in text:  # which Python takes for a separator of digits
        raise ValueError(text)
    return float(text)
