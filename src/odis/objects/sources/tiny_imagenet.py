"""Tiny-ImageNet as it is published: one box an image, in inclusive pixel coordinates.

`train/WNID/images/*.JPEG` with `train/WNID/WNID_boxes.txt` (name, x0, y0, x1, y1), `val/images` with
`val/val_annotations.txt` (name, wnid, x0, y0, x1, y1), `test/images` without annotations; `wnids.txt`
(classes, in label order) and `words.txt` (their names).

The images of `val` may also be sorted into folders of classes, `val/WNID/images/` or `val/WNID/`, as many
scripts do: an image without a box is then one object, the whole image, of the class of its folder.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from odis.errors import DataError
from odis.objects.clean import Mended, Skip, SkippedObject, keep_usable, usable_size
from odis.objects.listing import list_files
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, Unit, names_of_split
from odis.objects.sources.text import read_text
from odis.objects.sources.voc_layout import subfolders
from odis.types import ImageObjects, Object

_SPLITS = ("train", "val", "test")


def read(root: Path, split: str | None, skip: Skip) -> AnnotationReader:
    """Every image of a split with its box and class. An image without annotation has no object.

    Args:
        root: The data set's folder.
        split: `train` (if none is given), `val` or `test`.
        skip: Called with every image and box that cannot be used, and every annotation whose image is
            missing.

    Raises:
        DataError: `wnids.txt` or the split is missing, or what is there has another layout.
    """
    wanted = split or "train"
    there = [name for name in _SPLITS if os.path.isdir(root / name)]
    split = next((name for name in names_of_split(wanted) if name in there), "")
    if not split:
        raise DataError(
            f"{root}: no split {wanted!r}; there are {', '.join(there) or 'none of train, val, test'}"
        )
    wnids = [line.strip() for line in _lines(root / "wnids.txt") if line.strip()]
    labels = {wnid: k for k, wnid in enumerate(wnids)}

    def units() -> Iterator[Unit]:
        if split == "train":
            for wnid in (path.name for path in subfolders(root / "train")):
                boxes = _boxes(root / "train" / wnid / f"{wnid}_boxes.txt", skip, labels, wnid)
                yield from _units(root, f"train/{wnid}/images", boxes, skip, len(wnids))
        else:
            path = root / "val" / "val_annotations.txt"
            is_sorted = split == "val" and not os.path.isdir(root / "val" / "images")
            has_boxes = split == "val" and (os.path.isfile(path) or not is_sorted)
            boxes = _boxes(path, skip, labels) if has_boxes else {}
            if is_sorted:
                yield from _sorted_units(root, boxes, skip, labels)
            else:
                yield from _units(root, f"{split}/images", boxes, skip, len(wnids))

    return AnnotationReader(units(), root, "annotated", _names(root / "words.txt", wnids))


FORMAT = AnnotationFormat(
    name="tiny-imagenet",
    title="Tiny-ImageNet: one box an image",
    layout="wnids.txt, words.txt, train/, val/, test/",
    splits="train (default), val, test",
    read=read,
)


def _units(
    root: Path, folder: str, boxes: dict[str, list[Object]], skip: Skip, classes: int
) -> Iterator[Unit]:
    if not os.path.isdir(root / folder):
        raise DataError(f"{root / folder}: no such folder; Tiny-ImageNet keeps its images there")
    listing = list_files(root / folder)
    listing.report(skip)
    images = listing.images
    for name in sorted({*images, *boxes}):
        yield partial(_row, root, f"{folder}/{name}", boxes.get(name, []), skip, classes)


def _sorted_units(
    root: Path, boxes: dict[str, list[Object]], skip: Skip, labels: dict[str, int]
) -> Iterator[Unit]:
    """The images of `val` in folders of classes, and boxes that have no image."""
    left = set(boxes)
    for wnid in (path.name for path in subfolders(root / "val")):
        folder = f"val/{wnid}/images" if os.path.isdir(root / "val" / wnid / "images") else f"val/{wnid}"
        listing = list_files(root / folder)
        listing.report(skip, reads=(".txt",))
        for image in listing.images:
            name = image.rpartition("/")[2]
            left.discard(name)
            label = labels.get(wnid)
            yield partial(_row, root, f"{folder}/{image}", boxes.get(name, []), skip, len(labels), label)
    for name in sorted(left):
        yield partial(_row, root, f"val/{name}", boxes[name], skip, len(labels))


def _row(
    root: Path, image: str, boxes: list[Object], skip: Skip, classes: int, label: int | None = None
) -> ImageObjects | None:
    path = root / image
    named = [(f"{path}, box {k}", item) for k, item in enumerate(boxes, start=1)]
    size = usable_size(path, skip, objects=[text for text, _ in named])
    if size is None:
        return None
    kept = keep_usable(named, size, classes, skip)
    if label is not None and all(item.label is None for item in kept):  # the class must have a place
        kept = (*kept, Object((0.0, 0.0, float(size[0]), float(size[1])), label=label))
    return ImageObjects(image, *size, kept)


def _boxes(
    path: Path, skip: Skip, labels: dict[str, int], wnid: str | None = None
) -> dict[str, list[Object]]:
    """Objects by image name; `wnid` is the class of all of them, or None where each line names its own."""
    found: dict[str, list[Object]] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        name, *rest = line.rstrip("\n").split("\t")
        label = labels.get(wnid or (rest[0] if rest else ""))
        try:
            x0, y0, x1, y1 = map(float, rest[0 if wnid else 1 :])
        except ValueError:
            skip(
                SkippedObject(
                    f"{path}, line {number}",
                    f"is not a name{'' if wnid else ', a class'} and four numbers, separated by tabs",
                )
            )
            continue
        if label is None:
            why = f"has class {wnid or rest[0]}, which wnids.txt does not list: kept without label"
            skip(Mended(f"{path}, line {number}", why))
        found.setdefault(name, []).append(Object((x0, y0, x1 + 1, y1 + 1), label=label))
    return found


def _names(path: Path, wnids: list[str]) -> list[str]:
    """The first word for each class; where classes share it, with the wnid behind."""
    words: dict[str, str] = {}
    if os.path.isfile(path):
        for line in _lines(path):
            wnid, _, text = line.strip().partition("\t")
            words[wnid] = text.split(",")[0]
    names = [words.get(wnid, wnid) for wnid in wnids]
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids)]


def _lines(path: Path) -> list[str]:
    try:
        return read_text(path).text.split("\n")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; Tiny-ImageNet has it") from error
