"""Which images and objects can be used: the rules that every source, the training loader, inference and the
check of an index share."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from odis.config.wording import there_are
from odis.errors import DataError
from odis.objects import rle
from odis.objects.decoding.kinds import reader_of
from odis.objects.decoding.source import Source
from odis.objects.extras import unread_parts
from odis.objects.images import header_sizes
from odis.objects.storage.address import is_elsewhere
from odis.objects.storage.reading import read_bytes
from odis.types import Box, ImageObjects, Object, Skipped

_FURTHEST = 2.0**31  # pixels; coordinates beyond it are errors

_LARGEST = 10**6  # pixels along a side, where an annotation states the size and the image is not opened

ANY_LABEL = 2**31
"""Classes of images whose labels are not looked at: every label that an index can hold is below."""

AS_STORED = "EXIF orientations (annotated in the size as stored: boxes are taken for the photo as stored)"
"""Kind of what is not read of a photo that EXIF turns and whose annotation states the size before that. If
its boxes were drawn on what a viewer shows, and fit both ways, nothing else tells.
"""

Skip = Callable[[Skipped], None]

_ODD = np.array(
    [
        0x9E3779B97F4A7C15,
        0xBF58476D1CE4E5B9,
        0x94D049BB133111EB,
        0xD6E8FEB86659FD93,
        0xA0761D6478BD642F,
        0xE7037ED1A0B428DB,
    ],
    np.uint64,
)
"""Odd factors that mix the bits of an image's number, a label and a box into one word."""


@dataclass(frozen=True, slots=True)
class SkippedObject(Skipped):
    """An object that was left out, alone or with its image; with its box, if it is for the box."""

    box: Box | None = field(default=None, compare=False)


class Mended(Skipped):
    """An object that is used, but not as it is annotated: without its mask or its label, or clipped."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Unread(Skipped):
    """A part of the data set that no reader looks at: a file of another kind, a further page, a fourth band.
    `why` is its kind, which is what is counted.
    """

    count: int = 1


class Crowd(Skipped):
    """A region annotated as a crowd. It is not one object, so it is never in the index; it is no error
    either.
    """

    __slots__ = ()


def verified_size(
    path: str | Path,
    annotated: tuple[int, int] | None = None,
    look: Callable[[Image.Image], None] | None = None,
) -> tuple[int, int]:
    """`(width, height)` of an image from its header; the annotated size, if the header confirms it in either
    orientation. `look` is called as `header_sizes` does.

    Raises:
        DataError: The header cannot be read, or is of another size.
    """
    return _confirmed(path, annotated, look)[0]


def _confirmed(
    path: str | Path,
    annotated: tuple[int, int] | None,
    look: Callable[[Image.Image], None] | None,
    data: bytes | None = None,
) -> tuple[tuple[int, int], bool]:
    """What `verified_size` gives, and whether that is the size as stored of a photo that EXIF turns."""
    sizes = header_sizes(path, look, data)
    if annotated is None:
        return sizes[0], False
    if tuple(annotated) not in sizes:
        raise DataError(
            f"{path}: is {sizes[0][0]} x {sizes[0][1]} pixels, but annotated as {annotated[0]} x "
            f"{annotated[1]}"
        )
    return annotated, tuple(annotated) != sizes[0]


def object_problem(item: Object, width: int, height: int, *, mask_is_sound: bool = False) -> str | None:
    """Why an object of a `width` x `height` image cannot be used, or None. A box may reach over the edge.

    A mask that is known to be sound (`rle.are_sound`) is not checked again.
    """
    problem = _box_problem(item.box, width, height)
    if problem is None and item.mask is not None and not mask_is_sound:
        try:
            problem = None if rle.check(item.mask, width, height) else "has an empty mask"
        except DataError as error:
            return str(error)
    if problem is None and item.score is not None and not math.isfinite(item.score):
        problem = f"has score {item.score}"
    return None if problem is None else f"box ({', '.join(f'{v:g}' for v in item.box)}) {problem}"


def _box_problem(box: Box, width: int, height: int) -> str | None:
    x0, y0, x1, y1 = box
    if not all(map(math.isfinite, box)) or max(map(abs, box)) >= _FURTHEST:
        return "is not finite"
    if x1 < x0 or y1 < y0:
        return "is inverted"
    if x1 == x0 or y1 == y0:
        return "is empty"
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        return f"is outside the image of {width} x {height} pixels"
    return None


def sound_boxes(boxes: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Which boxes `object_problem` accepts: bool (n,).

    Args:
        boxes: float64 (n, 4).
        widths: (n,), of the image of each.
        heights: (n,).
    """
    x0, y0, x1, y1 = boxes.T
    within = np.isfinite(boxes).all(axis=1) & (np.abs(boxes) < _FURTHEST).all(axis=1)
    visible = (x1 > x0) & (y1 > y0) & (x0 < widths) & (y0 < heights) & (x1 > 0) & (y1 > 0)
    sound: np.ndarray = within & visible
    return sound


def usable_size(
    path: str | Path,
    skip: Skip,
    *,
    annotated: tuple[int, int] | None = None,
    objects: Iterable[str] = (),
    trust: bool = False,
    stored: bool = False,
    boxes: Callable[[], Iterable[Box]] | None = None,
    data: bytes | None = None,
) -> tuple[int, int] | None:
    """`(width, height)` of an image; None if it cannot be used, with it and its objects passed to `skip`.

    Args:
        path: The image.
        skip: Called with what is left out.
        annotated: `(width, height)` the annotation states, if it does.
        objects: What its objects are called.
        trust: Use the annotated size, if there is one, without opening the image.
        stored: For an image without annotated size, give the size of its stored pixels, before EXIF
            orientation.
        boxes: Makes the boxes of its objects; asked for where these may be of either frame of a turned photo.
        data: The file's content, if it has been read; else that of an address is read here, once.
    """

    def look(image: Image.Image) -> None:
        for kind, count in unread_parts(image):
            skip(Unread(str(path), kind, count))

    try:
        if stored and annotated is None:
            return header_sizes(path, look)[-1]
        if annotated is not None and trust:
            return _possible_size(path, annotated)
        if data is None and is_elsewhere(path):
            data = read_bytes(str(path))
        size, as_stored = _confirmed(path, annotated, look, data)
        if (reader := reader_of(source := Source(str(path), data))) is not None:
            for kind, count in reader.unread(source):
                skip(Unread(str(path), kind, count))
        if as_stored and boxes is not None and _fit(boxes(), size[::-1]):
            skip(Unread(str(path), AS_STORED))
        return size
    except DataError as error:
        skip(Skipped(str(path), reason(error, path)))
        for name in objects:
            skip(SkippedObject(name, "its image cannot be used"))
        return None


def _fit(boxes: Iterable[Box], size: tuple[int, int]) -> bool:
    """Whether there are boxes, and all lie in an image of this size, to two pixels."""
    corners = list(boxes)
    return bool(corners) and all(x1 <= size[0] + 2 and y1 <= size[1] + 2 for _, _, x1, y1 in corners)


def possible_sizes(sizes: np.ndarray) -> np.ndarray:
    """Which of the stated `(width, height)`, (n, 2), are possible: bool (n,)."""
    return np.asarray(((sizes > 0) & (sizes <= _LARGEST)).all(axis=1))


def _possible_size(path: str | Path, annotated: tuple[int, int]) -> tuple[int, int]:
    if not possible_sizes(np.array([[min(side, 2 * _LARGEST) for side in annotated]]))[0]:
        raise DataError(
            f"{path}: is annotated as {annotated[0]} x {annotated[1]}; a side has from 1 to {_LARGEST:,} "
            f"pixels"
        )
    return annotated


@dataclass(frozen=True, slots=True)
class UsableObjects:
    """Which objects of an image can be used."""

    row: ImageObjects  # the image with its usable objects
    numbers: list[int]  # their places among all objects of the image
    problems: dict[int, str]  # places of the others, and why they cannot be used
    mended: dict[int, str] = field(default_factory=dict)  # places of those used without their label, and why

    @property
    def objects(self) -> tuple[Object, ...]:
        """The usable objects."""
        return self.row.objects

    def skipped(self, path: str, what: str = "object") -> list[Skipped]:
        """The others, named `<path>, <what> <place>`."""
        return [SkippedObject(f"{path}, {what} {number}", why) for number, why in self.problems.items()]

    def named(self, path: str) -> list[Skipped]:
        """The others, and those used without their label, for whoever needs labels; in their order."""
        mended = [Mended(f"{path}, object {number}", why) for number, why in self.mended.items()]
        places = [*self.problems, *self.mended]
        found = [*self.skipped(path), *mended]
        return [item for _, item in sorted(zip(places, found), key=lambda pair: pair[0])]


def usable_objects(row: ImageObjects, classes: int, *, masks_are_sound: bool = False) -> UsableObjects:
    """The objects of an image that can be used: the one place where that is decided.

    Args:
        row: The image and all its objects.
        classes: How many classes there are; an object whose label is none of them is used without label.
            `ANY_LABEL` if labels are not looked at.
        masks_are_sound: Masks were checked before, or made here, and are not looked at again.
    """
    problems, mended = {}, {}
    for number, item in enumerate(row.objects):
        why = object_problem(item, row.width, row.height, mask_is_sound=masks_are_sound)
        if why is not None:
            problems[number] = why
        elif item.label is not None and not 0 <= item.label < classes:
            mended[number] = f"has label {item.label}, but {there_are(classes, 'class')}: used without label"
    if not problems and not mended:
        return UsableObjects(row, list(range(len(row.objects))), problems)
    numbers = [number for number in range(len(row.objects)) if number not in problems]
    kept = [
        replace(row.objects[number], label=None) if number in mended else row.objects[number]
        for number in numbers
    ]
    return UsableObjects(replace(row, objects=tuple(kept)), numbers, problems, mended)


def keep_usable(
    objects: Iterable[tuple[str, Object]],
    size: tuple[int, int],
    classes: int,
    skip: Skip,
    *,
    masks_are_sound: bool = False,
    written: Sequence[Hashable] | None = None,
) -> tuple[Object, ...]:
    """`usable_objects` of an image that is being read from annotations, each once; the others are passed to
    `skip`.

    Args:
        objects: Each object, behind what it is called.
        size: `(width, height)` of the image.
        classes: How many classes there are; an object whose label is none of them is used without label.
        skip: Called with what is left out, and with what is used otherwise than annotated (`Mended`).
        masks_are_sound: Masks were checked before, or made here, and are not looked at again.
        written: What tells the objects apart, if not box, mask, label and score (`without_repeats`).
    """
    names, items = [], []
    for name, item in objects:
        names.append(name)
        items.append(item)
    row = ImageObjects("", *size, tuple(items))
    usable = usable_objects(row, classes, masks_are_sound=masks_are_sound)
    for number, problem in usable.problems.items():
        skip(SkippedObject(names[number], problem, items[number].box))
    for number, why in usable.mended.items():
        skip(Mended(names[number], why))
    kept = usable.numbers
    apart = usable.objects if written is None else [written[number] for number in kept]
    if len(set(apart)) == len(kept):
        return usable.objects
    return tuple(without_repeats([names[number] for number in kept], usable.objects, skip, apart))


def without_repeats(
    names: Sequence[str], objects: Sequence[Object], skip: Skip, written: Sequence[Hashable] | None = None
) -> list[Object]:
    """The objects of an image, each once: one that was listed before is passed to `skip`.

    Args:
        names: What each is called.
        objects: All usable ones of the image, in the order of the annotations.
        skip: Called with every object that is left out.
        written: What tells them apart; by default box, mask, label and score.
    """
    first: dict[Hashable, int] = {}
    kept = []
    for k, one in enumerate(objects if written is None else written):
        if first.setdefault(one, k) == k:
            kept.append(objects[k])
        else:
            skip(SkippedObject(names[k], f"is the same as {_short_name(names[first[one]])}"))
    return kept


def possible_repeats(images: np.ndarray, labels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which objects may be the same as an earlier one: bool (n,). None is missed; a few may be different.

    Args:
        images: int (n,), a number for the image of each.
        labels: int64 (n,).
        boxes: float64 (n, 4).
    """
    with np.errstate(over="ignore"):
        words = (boxes + 0.0).view(np.uint64) * _ODD[:4]  # -0.0 becomes 0.0
        words ^= words >> np.uint64(29)
        key = (words * _ODD[1:5]).sum(axis=1, dtype=np.uint64)
        key += images.astype(np.uint64) * _ODD[4] + labels.astype(np.uint64) * _ODD[5]
    found = np.zeros(len(key), bool)
    ordered = np.sort(key)
    if not (ordered[1:] == ordered[:-1]).any():  # which is the rule, and costs a tenth of the rest
        return found
    order = np.argsort(key, kind="stable")
    found[order[1:]] = key[order[1:]] == key[order[:-1]]
    return found


def _short_name(name: str) -> str:
    """The last part of what an object is called: its image or file is named beside it."""
    return name.rsplit(", ", 1)[-1]


def reason(error: DataError, path: str | Path) -> str:
    """An error's message without the path it begins with."""
    return str(error).removeprefix(f"{path}: ")
