"""Open Images V4 to V7 as published: the boxes of the 600 boxable classes, one row of a CSV file a box.

`SPLIT/IMAGEID.jpg`, and beside the folders or in `annotations/`: `SPLIT-annotations-bbox.csv` (of train, from
V6 on, `oidv6-train-annotations-bbox.csv`) and `class-descriptions-boxable.csv` (from V7 on,
`oidv7-class-descriptions-boxable.csv`). Columns are found by their names; those of V6 that describe the
annotators' clicks are not needed.

Boxes are shares of the image's width and height. They are for the pixels as they are stored, as the
publishers say: the published files are not turned. A file from elsewhere whose EXIF orientation swaps its
sides is therefore taken as it is stored, too.

A box that reaches a little over the edge is clipped. A box around a group (`IsGroupOf` is 1) is a crowd.
Depictions and views from inside are objects like others, and so is what nobody checked (-1). `Confidence` is
a dummy, always 1, so there are no scores.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice, pairwise
from operator import itemgetter
from pathlib import Path

import numpy as np

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.clean import (
    Crowd,
    Mended,
    Skip,
    SkippedObject,
    keep_usable,
    possible_repeats,
    usable_size,
)
from odis.objects.columns import Columns
from odis.objects.sources.frames import LEAST_SHARE, MOST_SHARE, clipped
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, Unit, names_of_split
from odis.types import ImageObjects, Object, Skipped

_SPLITS = ("train", "validation", "test")

_BOX = ("XMin", "YMin", "XMax", "YMax")

_COLUMNS = ("ImageID", "LabelName", *_BOX, "IsGroupOf")

_APART = 1e-9  # of the image: shares that differ by more are different numbers of pixels, too

_LINES = 8192  # looked at together

_NAME = re.compile(r'[^./\\:"\x00-\x1f][^/\\:"\x00-\x1f]*')

_KINDS = {"0": 0, "-1": 0, "1": 1}  # of IsGroupOf: an object, not known to be a group, a group

_Line = tuple[int, list[str]]  # its number, from 1, and its columns


def read(root: Path, split: str | None, skip: Skip) -> AnnotationReader:
    """Every image that the annotation file lists, in its order; the rows of an image must stand together, as
    published.

    Some thousand lines are held at a time, and a hash of 8 bytes for every image so far, by which rows that
    come back later are found (about 90 bytes an image in Python: 0.15 GB for the 1.7 million of train). An
    image without a box is not listed, and so is not read.

    Args:
        root: Folder that holds the image folders and the CSV files.
        split: `train` (if none is given), `validation` or `test`.
        skip: Called with every image and box that cannot be used, also those whose image was not downloaded,
            and every group.

    Raises:
        DataError: The split or a CSV file is missing, or is there twice, or has other columns or another
            encoding.
    """
    wanted = split or "train"
    there = [name for name in _SPLITS if os.path.isdir(root / name)]
    split = next((name for name in names_of_split(wanted) if name in there), "")
    if not split:
        raise DataError(
            f"{root}: no split {wanted!r}; there are {', '.join(there) or 'none of train, validation, test'}"
        )
    path = _find(root, [f"oidv6-{split}-annotations-bbox.csv", f"{split}-annotations-bbox.csv"])
    classes = _classes(
        _find(root, ["oidv7-class-descriptions-boxable.csv", "class-descriptions-boxable.csv"])
    )
    labels = {number: k for k, number in enumerate(classes)}
    header = _header(path)

    def units() -> Iterator[Unit]:
        seen: set[int] = set()
        folder = root / split
        for lines in _together(path, header, labels):
            for start, stop in lines.images():
                image = lines.rows[start][0]
                lines.report(start, skip)
                key = hash(image)
                if key in seen:
                    for i in range(start, stop):
                        skip(
                            SkippedObject(
                                lines.name(i),
                                f"image {image!r} was listed before; its rows must stand together",
                            )
                        )
                        lines.report(i + 1, skip)
                    continue
                lines.report(stop, skip)
                seen.add(key)
                yield partial(_image, folder, split, lines, start, stop, labels, skip)
            lines.report(len(lines.rows), skip)

    count = Counter(classes.values())
    names = [name if count[name] == 1 else f"{name} ({number})" for number, name in classes.items()]
    return AnnotationReader(units(), root, "annotated", names)


FORMAT = AnnotationFormat(
    name="open-images",
    title="Open Images V4 to V7: boxes",
    layout="SPLIT/*.jpg, SPLIT-annotations-bbox.csv, class-descriptions-boxable.csv",
    splits="train (default), validation, test",
    read=read,
)


def _find(root: Path, names: list[str]) -> Path:
    found = [
        path
        for folder in (root, root / "annotations")
        for name in names
        if os.path.isfile(path := folder / name)
    ]
    if not found:
        raise DataError(f"{root}: has no {' or '.join(names)}, nor is there one in annotations/")
    if len(found) > 1:
        raise DataError(
            f"{root}: has {' and '.join(str(path.relative_to(root)) for path in found)}; keep the one "
            f"that is meant"
        )
    return found[0]


def _classes(path: Path) -> dict[str, str]:
    """Names by class number (`/m/0cmf2`), in the file's order; it may have a header line."""
    names: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if not row or row[0] == "LabelName":
                    continue
                if len(row) != 2 or not row[0].strip() or not row[1].strip():
                    raise DataError(
                        f"{path}, line {reader.line_num}: must be a class and its name, with a comma "
                        f"between them"
                    )
                if row[0] in names:
                    raise DataError(f"{path}, line {reader.line_num}: lists class {row[0]} again")
                names[row[0]] = row[1]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not names:
        raise DataError(f"{path}: lists no class")
    return names


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            header = file.readline().strip().split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    wrong = [name for name in _COLUMNS if header.count(name) != 1]
    if wrong:
        raise DataError(
            f"{path}: its first line must name the columns {', '.join(_COLUMNS)} once each; {wrong[0]} is not"
        )
    return header


def _together(path: Path, header: list[str], labels: dict[str, int]) -> Iterator[_Lines]:
    """All lines behind the first, some at a time, so that the rows of an image are not apart."""
    waiting: list[_Line] = []
    key = header.index("ImageID")
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            numbered = islice(enumerate(file, start=1), 1, None)
            # Nothing is quoted: a stray quote must not swallow the lines behind it.
            while found := [
                (number, line.rstrip("\n").split(","))
                for number, line in islice(numbered, max(_LINES, len(waiting)))
            ]:
                waiting += found
                cut = _last_image(waiting, len(header), key)
                if cut:
                    yield _Lines(path, header, waiting[:cut], labels)
                    waiting = waiting[cut:]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    yield _Lines(path, header, waiting, labels)


def _last_image(lines: list[_Line], width: int, key: int) -> int:
    """Where the lines of the last image begin; 0 if there is only one."""
    begin, name = 0, None
    for i in range(len(lines) - 1, -1, -1):
        fields = lines[i][1]
        if len(fields) == width:
            if name is not None and fields[key] != name:
                return begin
            begin, name = i, fields[key]
    return 0


class _Lines:
    """Lines that are looked at together. `rows` holds the needed columns of those that have as many as the
    first line.
    """

    def __init__(self, path: Path, header: list[str], lines: list[_Line], labels: dict[str, int]) -> None:
        self._path, self._width = path, len(header)
        needed = itemgetter(*map(header.index, _COLUMNS))
        good = [line for line in lines if len(line[1]) == self._width]
        wrong = [line for line in lines if len(line[1]) != self._width] if len(good) < len(lines) else []
        self.rows, self._numbers = [needed(fields) for _, fields in good], [number for number, _ in good]
        self._wrong = deque(
            (number, len(fields)) for number, fields in wrong if len(fields) > 1 or fields[0].strip()
        )
        _, classes, x0, y0, x1, y1, groups = zip(*self.rows) if self.rows else ((),) * len(_COLUMNS)
        shares = np.stack([_shares(texts) for texts in (x0, y0, x1, y1)], axis=1)
        kinds = np.array([_KINDS.get(group, -1) for group in groups], np.int64)
        numbers = np.array([labels.get(name, -1) for name in classes], np.int64)
        # What is so needs no second look when the size of its image is known; comparisons with NaN are false.
        sound = (shares[:, 2:] - shares[:, :2] > _APART).all(axis=1) & (shares[:, :2] < 1 - _APART).all(
            axis=1
        )
        sound &= (shares[:, 2:] > _APART).all(axis=1) & (numbers >= 0) & (kinds == 0)
        kept = kinds != 1
        names = [row[0] for row in self.rows]
        images = np.cumsum([0, *(a != b for a, b in pairwise(names))])[: len(names)]
        sound &= ~possible_repeats(images, numbers, shares)
        self._faults, self._kept = (
            np.concatenate([[0], np.cumsum(marks)]).tolist() for marks in (kept & ~sound, kept)
        )
        self._shares = shares[kept]
        self._columns = Columns(np.zeros_like(self._shares), numbers[kept])

    def images(self) -> Iterator[tuple[int, int]]:
        """The rows of each image: where they start and stop."""
        names = [row[0] for row in self.rows]
        starts = [i for i in range(len(names)) if not i or names[i] != names[i - 1]]
        return zip(starts, [*starts[1:], len(names)])

    def name(self, i: int) -> str:
        """What a row is called."""
        return f"{self._path}, line {self._numbers[i]}"

    def report(self, stop: int, skip: Skip) -> None:
        """Tell `skip` of the lines with another number of columns that stand before row `stop`, once."""
        while self._wrong and (stop == len(self._numbers) or self._wrong[0][0] < self._numbers[stop]):
            number, count = self._wrong.popleft()
            skip(
                SkippedObject(
                    f"{self._path}, line {number}",
                    f"has {counted(count, 'column')}, but the first line {self._width}",
                )
            )

    def groups(self, start: int, stop: int) -> list[int]:
        """Those of some rows that are groups."""
        if self._kept[stop] - self._kept[start] == stop - start:
            return []
        return [i for i in range(start, stop) if self.rows[i][-1] == "1"]

    def objects(self, start: int, stop: int, width: int, height: int) -> tuple[Object, ...] | None:
        """The objects of an image of `width` x `height` pixels; None if one may have to be left out."""
        if self._faults[stop] > self._faults[start]:
            return None
        begin, end = self._kept[start], self._kept[stop]
        self._columns.boxes[begin:end] = self._shares[begin:end] * (width, height, width, height)
        return self._columns.between(begin, end)


def _image(
    folder: Path, split: str, lines: _Lines, start: int, stop: int, labels: dict[str, int], skip: Skip
) -> ImageObjects | None:
    groups = lines.groups(start, stop)
    for i in groups:
        skip(Crowd(lines.name(i), "is a group"))
    image = lines.rows[start][0]
    called = (lines.name(i) for i in range(start, stop) if i not in groups)
    if not _NAME.fullmatch(image):
        skip(
            Skipped(
                f"{folder}, image {image!r}",
                "its ImageID must be the name of a file in this folder, without .jpg",
            )
        )
        for name in called:
            skip(SkippedObject(name, "its image cannot be used"))
        return None
    file = next((name for name in _files(image) if os.path.isfile(folder / name)), f"{image}.jpg")
    size = usable_size(f"{folder}{os.sep}{file}", skip, objects=called, stored=True)
    if size is None:
        return None
    kept = lines.objects(start, stop, *size)
    if kept is None:
        objects = []
        for i in range(start, stop):
            changes: list[str] = []
            try:
                if i not in groups:
                    fields = dict(zip(_COLUMNS, lines.rows[i]))
                    objects.append((lines.name(i), _object(fields, size, labels, changes)))
            except DataError as error:
                skip(SkippedObject(lines.name(i), str(error)))
            if changes:
                skip(Mended(lines.name(i), "; ".join(changes)))
        kept = keep_usable(objects, size, len(labels), skip)
    return ImageObjects(f"{split}/{file}", *size, kept)


def _files(image: str) -> Iterator[str]:
    """What the file of an image may be called: as published, or stored again by a tool."""
    for ending in (".jpg", ".jpeg", ".png", ".webp"):
        yield f"{image}{ending}"
        yield f"{image}{ending.upper()}"


def _object(
    fields: dict[str, str], size: tuple[int, int], labels: dict[str, int], changes: list[str]
) -> Object:
    if fields["IsGroupOf"] not in _KINDS:
        raise DataError(f"IsGroupOf is {fields['IsGroupOf']!r}, must be 0, 1 or -1")
    x0, y0, x1, y1 = (_share(name, fields[name]) for name in _BOX)
    label = labels.get(fields["LabelName"])
    if label is None:
        changes.append(
            f"has class {fields['LabelName']!r}, which the class descriptions have not: kept without label"
        )
    width, height = size
    return Object(clipped((x0 * width, y0 * height, x1 * width, y1 * height), size, changes), label=label)


def _shares(texts: Sequence[str]) -> np.ndarray:
    """float64 (n,): the number of each, NaN where it is none, or not from 0 to 1."""
    try:
        values = np.array(list(map(float, texts)), np.float64)
    except ValueError:
        values = np.array([_number(text) for text in texts], np.float64)
    values[~((values >= 0) & (values <= 1))] = np.nan
    if "_" in "".join(texts):
        values[["_" in text for text in texts]] = np.nan
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _share(name: str, text: str) -> float:
    value = _number(text)
    if "_" in text or not LEAST_SHARE <= value <= MOST_SHARE:
        raise DataError(f"{name} is {text!r}, must be a share of the image's width or height, from 0 to 1")
    return value
