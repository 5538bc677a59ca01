"""Open Images V4 to V7 as published: the boxes of the 600 boxable classes, one row of a CSV file a box.

`SPLIT/IMAGEID.jpg`, and beside the folders or in `annotations/`: `SPLIT-annotations-bbox.csv` (of train, from V6 on,
`oidv6-train-annotations-bbox.csv`) and `class-descriptions-boxable.csv` (from V7 on, `oidv7-class-descriptions-boxable.csv`). Columns
are found by their names; those of V6 that describe the annotators' clicks are not needed.

Boxes are shares of the image's width and height. They are for the pixels as they are stored, as the publishers say: the published
files are not turned. A file from elsewhere whose EXIF orientation swaps its sides is therefore taken as it is stored, too.

A box around a group (`IsGroupOf` is 1) is a crowd. Depictions and views from inside are objects like others, and so is what nobody
checked (-1). `Confidence` is a dummy, always 1, so there are no scores.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

from odis.errors import DataError
from odis.objects.clean import Crowd, Skip, SkippedObject, usable_objects, usable_size
from odis.objects.sources import Source, Unit
from odis.types import ImageObjects, Object, Skipped

_SPLITS = ("train", "validation", "test")

_BOX = ("XMin", "YMin", "XMax", "YMax")

_COLUMNS = ("ImageID", "LabelName", *_BOX, "IsGroupOf")

_SLACK = 0.01  # of the image: how far over its edge rounding may put a box

_Row = tuple[str, dict[str, str]]  # what it is called, and its needed columns


def read(root: Path, split: str | None, skip: Skip) -> Source:
    """Every image that the annotation file lists, in its order; the rows of an image must stand together, as published.

    One image's rows are held at a time, and a hash of 8 bytes for every image so far, by which rows that come back later are
    found (about 90 bytes an image in Python: 0.15 GB for the 1.7 million of train). An image without a box is not listed, and so
    is not read.

    Args:
        root: Folder that holds the image folders and the CSV files.
        split: `train` (if none is given), `validation` or `test`.
        skip: Called with every image and box that cannot be used, also those whose image was not downloaded, and every group.

    Raises:
        DataError: The split or a CSV file is missing, or is there twice, or has other columns or another encoding.
    """
    split = split or "train"
    there = [name for name in _SPLITS if (root / name).is_dir()]
    if split not in there:
        raise DataError(f"{root}: no split {split!r}; there are {', '.join(there) or 'none of train, validation, test'}")
    path = _find(root, [f"oidv6-{split}-annotations-bbox.csv", f"{split}-annotations-bbox.csv"])
    classes = _classes(_find(root, ["oidv7-class-descriptions-boxable.csv", "class-descriptions-boxable.csv"]))
    labels = {number: k for k, number in enumerate(classes)}
    header = _header(path)

    def units() -> Iterator[Unit]:
        seen: set[int] = set()
        for image, group in groupby(_records(path, header, skip), key=lambda record: record[1]["ImageID"]):
            key = hash(image)
            if key in seen:
                for name, _ in group:
                    skip(SkippedObject(name, f"image {image!r} was listed before; its rows must stand together"))
                continue
            seen.add(key)
            yield partial(_image, root, split, image, list(group), labels, skip)

    count = Counter(classes.values())
    names = [name if count[name] == 1 else f"{name} ({number})" for number, name in classes.items()]
    return Source(units(), root, "annotated", names)


def _find(root: Path, names: list[str]) -> Path:
    found = [path for folder in (root, root / "annotations") for name in names if (path := folder / name).is_file()]
    if not found:
        raise DataError(f"{root}: has no {' or '.join(names)}, nor is there one in annotations/")
    if len(found) > 1:
        raise DataError(f"{root}: has {' and '.join(str(path.relative_to(root)) for path in found)}; keep the one that is meant")
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
                    raise DataError(f"{path}, line {reader.line_num}: must be a class and its name, with a comma between them")
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
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline().strip().split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    wrong = [name for name in _COLUMNS if header.count(name) != 1]
    if wrong:
        raise DataError(f"{path}: its first line must name the columns {', '.join(_COLUMNS)} once each; {wrong[0]} is not")
    return header


def _records(path: Path, header: list[str], skip: Skip) -> Iterator[_Row]:
    at = [(name, header.index(name)) for name in _COLUMNS]
    try:
        with path.open(encoding="utf-8-sig") as file:
            next(file, None)
            for number, line in enumerate(file, start=2):
                fields = line.rstrip("\n").split(",")  # nothing is quoted: a stray quote must not swallow the lines behind it
                if len(fields) == len(header):
                    yield f"{path}, line {number}", {name: fields[k] for name, k in at}
                elif line.strip():
                    skip(SkippedObject(f"{path}, line {number}", f"has {len(fields)} columns, but the first line {len(header)}"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _image(root: Path, split: str, image: str, rows: list[_Row], labels: dict[str, int], skip: Skip) -> ImageObjects | None:
    for name, fields in rows:
        if fields["IsGroupOf"] == "1":
            skip(Crowd(name, "is a group"))
    rows = [(name, fields) for name, fields in rows if fields["IsGroupOf"] != "1"]
    path = root / split / f"{image}.jpg"
    if not image or image.startswith(".") or any(c in '/\\:"' or ord(c) < 32 for c in image):
        skip(Skipped(f"{root / split}, image {image!r}", "its ImageID must be the name of a file in this folder, without .jpg"))
        for name, _ in rows:
            skip(SkippedObject(name, "its image cannot be used"))
        return None
    size = usable_size(path, skip, objects=[name for name, _ in rows], stored=True)
    if size is None:
        return None
    objects = []
    for name, fields in rows:
        try:
            objects.append((name, _object(fields, *size, labels)))
        except DataError as error:
            skip(SkippedObject(name, str(error)))
    return ImageObjects(f"{split}/{image}.jpg", *size, usable_objects(objects, size, len(labels), skip))


def _object(fields: dict[str, str], width: int, height: int, labels: dict[str, int]) -> Object:
    if fields["LabelName"] not in labels:
        raise DataError(f"class {fields['LabelName']!r} is not in the class descriptions")
    if fields["IsGroupOf"] not in ("0", "-1"):
        raise DataError(f"IsGroupOf is {fields['IsGroupOf']!r}, must be 0, 1 or -1")
    x0, y0, x1, y1 = (_share(name, fields[name]) for name in _BOX)
    return Object((x0 * width, y0 * height, x1 * width, y1 * height), label=labels[fields["LabelName"]])


def _share(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if "_" in text or not -_SLACK <= value <= 1 + _SLACK:
        raise DataError(f"{name} is {text!r}, must be a share of the image's width or height, from 0 to 1")
    return value
