"""COCO as it is published: `SPLIT/*.jpg` and `annotations/instances_SPLIT.json`.

Segmentations may be polygons, uncompressed or compressed run lengths; each becomes compressed run lengths
over the whole image. Category numbers, which have gaps, become labels 0..n-1 in their order.

The file is read a window at a time, and what it says is kept on disk in blocks of images (`json_arrays.py`,
`annotation_join.py`): memory does not grow with it, but for some bytes an image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from odis.errors import DataError
from odis.objects.clean import (
    Crowd,
    Skip,
    SkippedObject,
    keep_usable,
    possible_sizes,
    sound_boxes,
    usable_size,
)
from odis.objects.columns import Columns
from odis.objects.sources.annotation_join import ANNOTATION, BLOCK, AnnotationJoin, are_integers
from odis.objects.sources.coco_annotation import (
    checked_counts,
    inside,
    sound_mask,
    to_box,
    to_corners,
    to_mask,
)
from odis.objects.sources.json_arrays import read_arrays
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, Unit
from odis.types import Box, ImageObjects, Object, Skipped

_PREFIX = "instances_"

_FIELDS: dict[str, dict[str, Any]] = {
    "images": {"id": int | str, "width": int, "height": int},
    "annotations": {"id": int | str, "image_id": int | str, "category_id": int},
    "categories": {"id": int, "name": str},
}

_UNTIDY = re.compile(r"(^|/)\.?(/|$)")  # parts of a path that say nothing

_FAR = 2**40  # further than any pixel

_BLOCKS = 2  # held at a time


def read(root: Path, split: str | None, skip: Skip, *, trust: bool = False) -> AnnotationReader:
    """Every image of a split with its objects; an image without annotations has none. Crowds go to `skip` as
    `Crowd`.

    Args:
        root: Folder that holds `annotations/` and the image folders.
        split: As in the name of the annotation file: `train2017`, `val2017`.
        skip: Called with every image and object that cannot be used, and every crowd.
        trust: Take the sizes that the file states, without opening the images.

    Raises:
        DataError: The split is missing or not named, or its annotation file is not COCO's.
    """
    there = sorted(p.stem.removeprefix(_PREFIX) for p in (root / "annotations").glob(f"{_PREFIX}*.json"))
    if split is None or split not in there:
        wanted = f"no split {split!r}" if split else "a split must be named"
        found = ", ".join(there) or f"none (no annotations/{_PREFIX}SPLIT.json)"
        raise DataError(f"{root}: {wanted}; there are {found}")
    path = root / "annotations" / f"{_PREFIX}{split}.json"
    if not (root / split).is_dir():
        raise DataError(f"{root / split}: no such folder; the images of {path.name} should be there")
    return read_instances(root, path, lambda name: f"{split}/{name}", skip, trust=trust)


FORMAT = AnnotationFormat(
    name="coco",
    title="COCO 2017: boxes and masks",
    layout="annotations/instances_SPLIT.json, images in SPLIT/",
    splits="train2017, val2017 (required)",
    read=read,
    states_sizes=True,
)


def read_instances(
    root: Path,
    path: Path,
    place: Callable[[str], str],
    skip: Skip,
    *,
    named_by: str = "file_name",
    trust: bool = False,
) -> AnnotationReader:
    """An annotation file in COCO's form. LVIS and Objects365 publish theirs in it, with images in other
    places.

    Args:
        root: Folder of the data set.
        path: The annotation file.
        place: Where an image is, below `root`, from what its entry calls it.
        skip: Called with every image and object that cannot be used, and every crowd.
        named_by: The key of an image's entry that says what it is called.
        trust: Take the sizes that the file states, without opening the images.

    Raises:
        DataError: The file is not of this form.
    """

    def orphan(record: np.void, more: tuple[Any, ...] | None, image: int | str) -> None:
        skip(
            SkippedObject(
                f"{path}, annotation {more[0] if more else record['number']}",
                f"its image {image} is not listed",
            )
        )

    joined = AnnotationJoin(path, orphan)
    names = _load(path, named_by, joined)
    categories = dict(sorted(names))
    if len(categories) < len(names):
        raise DataError(f"{path}: lists a category twice")
    labels = {number: k for k, number in enumerate(categories)}
    rows = _InstanceRows(root, path, place, joined, labels, skip, trust)
    return AnnotationReader(rows.units(), root, "annotated", list(categories.values()))


def _load(path: Path, named_by: str, joined: AnnotationJoin) -> list[tuple[int, str]]:
    """Fill `joined` with the file's images and annotations; numbers and names of its categories."""
    counts: dict[str, int] = {}
    categories: list[tuple[int, str]] = []
    for name, entries in read_arrays(path, _FIELDS):
        keys = {named_by: str, **_FIELDS[name]} if name == "images" else _FIELDS[name]
        values = _checked(path, name, keys, entries, counts.get(name, 0))
        counts[name] = counts.get(name, 0) + len(entries)
        if name == "images":
            named, numbers, widths, heights = values
            joined.add_images(numbers, list(zip(numbers, named, widths, heights)))
        elif name == "annotations":
            numbers, images, of = values
            joined.add_annotations(images, *_records(numbers, of, entries))
        else:
            categories += list(zip(*values))
    for name in _FIELDS:
        if name not in counts:
            raise DataError(
                f"{path}: has no list of {name}; a COCO instances file has images, annotations and categories"
            )
    joined.close()
    return categories


def _records(
    numbers: list[Any], categories: list[Any], entries: list[dict[str, Any]]
) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
    """What is kept of annotations: records, and (number, category, bbox, segmentation) of those that do not
    fit into one.
    """
    records = np.zeros(len(entries), ANNOTATION)
    bboxes, segmentations, crowds = (
        [entry.get(key) for entry in entries] for key in ("bbox", "segmentation", "iscrowd")
    )
    records["crowd"] = list(map(bool, crowds))
    records["box"] = to_corners(bboxes)
    records["more"] = np.isnan(records["box"]).any(axis=1)
    if any(segmentations):
        records["more"] |= list(map(bool, segmentations))
    for name, values in (("number", numbers), ("category", categories)):
        if not are_integers(values):
            records["more"] |= [not are_integers([value]) for value in values]
            values = [value if are_integers([value]) else 0 for value in values]
        records[name] = values
    where = np.flatnonzero(records["more"]).tolist()
    return records, [(numbers[i], categories[i], bboxes[i], segmentations[i]) for i in where]


def _checked(path: Path, name: str, keys: dict[str, Any], entries: list[Any], before: int) -> list[list[Any]]:
    """For each of `keys` the values in the entries of a list, `before` others came before them; refuse one
    missing or of another type.
    """
    try:
        values = list(map(list, zip(*map(itemgetter(*keys), entries)))) or [[] for _ in keys]
        if all(
            issubclass(kind, kinds)
            for column, kinds in zip(values, keys.values())
            for kind in set(map(type, column))
        ):
            return values
    except (KeyError, TypeError, IndexError):
        pass
    for k, entry in enumerate(entries, start=before):
        wrong = [
            key
            for key, kinds in keys.items()
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kinds)
        ]
        if wrong:
            raise DataError(f"{path}: entry {k} of {name} has no {wrong[0]}, or not one of the right type")
    raise AssertionError("types were found to be wrong and to be right")


class _InstanceRows:
    """The units of a file whose annotations were put to their images."""

    def __init__(
        self,
        root: Path,
        path: Path,
        place: Callable[[str], str],
        joined: AnnotationJoin,
        labels: dict[int, int],
        skip: Skip,
        trust: bool,
    ) -> None:
        self._root, self._path, self._place, self._joined = root, path, place, joined
        self._labels, self._skip, self._trust = labels, skip, trust
        self._blocks: dict[int, _Block] = {}

    def units(self) -> Iterator[Unit]:
        start = 0
        for again in self._joined.repeated():
            yield from (partial(self._row, i) for i in range(start, again))
            number, name, *_ = self._block(again // BLOCK).images[again % BLOCK]
            self._skip(
                Skipped(f"{self._path}, image {number}", f"{name}: this image number was listed before")
            )
            start = again + 1
        yield from (partial(self._row, i) for i in range(start, len(self._joined)))

    def _block(self, k: int) -> _Block:
        block = self._blocks.get(k)
        if block is None:
            while len(self._blocks) >= _BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            block = self._blocks[k] = _Block(*self._joined.block(k), self._labels)
        return block

    def _row(self, i: int) -> ImageObjects | None:
        block, k = self._block(i // BLOCK), i % BLOCK
        name, size = self._place(block.images[k][1]), block.images[k][2:]
        if block.plain[k] and inside(name):
            found = size if self._trust and block.possible[k] else self._size(name, size, block, k)
            if found is None:
                return None
            objects = block.objects(k, *found)
            if objects is not None:
                return ImageObjects(name, found[0], found[1], objects)
        return self._careful(name, size, block.annotations(k))

    def _size(self, name: str, size: tuple[int, int], block: _Block, k: int) -> tuple[int, int] | None:
        path = (
            self._root / name if _UNTIDY.search(name) else f"{self._root}{os.sep}{name}"
        )  # which is the same, and made sooner

        def called() -> Iterator[str]:  # asked for only if the image cannot be used
            yield from (_called(path, one.number) for one in block.annotations(k))

        return usable_size(path, self._skip, annotated=size, objects=called(), trust=self._trust)

    def _careful(
        self, name: str, size: tuple[int, int], annotations: list[_Annotation]
    ) -> ImageObjects | None:
        """The row of an image of which something is left out, or may be."""
        path = self._root / name.encode(errors="replace").decode()
        for one in annotations:
            if one.crowd:
                self._skip(Crowd(_called(path, one.number), "is a crowd"))
        named = [(_called(path, one.number), one) for one in annotations if not one.crowd]
        if not inside(name):
            self._skip(Skipped(str(path), "its name leads out of the data set's folder, or names no file"))
            for called, _ in named:
                self._skip(SkippedObject(called, "its image cannot be used"))
            return None
        found = usable_size(
            path, self._skip, annotated=size, objects=[called for called, _ in named], trust=self._trust
        )
        if found is None:
            return None
        objects = []
        for called, one in named:
            try:
                objects.append((called, one.object(*found, self._labels)))
            except DataError as error:
                self._skip(SkippedObject(called, str(error)))
        return ImageObjects(name, *found, keep_usable(objects, found, len(self._labels), self._skip))


def _called(path: Path | str, annotation: int | str) -> str:
    return f"{path}, annotation {annotation}"


@dataclass(frozen=True, slots=True)
class _Annotation:
    number: int | str
    category: int
    crowd: bool
    box: Box
    rest: (
        tuple[Any, Any] | None
    )  # bbox and segmentation as they stand in the file, if the record does not hold all of them

    def object(self, width: int, height: int, labels: dict[int, int]) -> Object:
        """The object as it is annotated; the error says what is wrong with it."""
        if self.category not in labels:
            raise DataError(f"category {self.category} is not listed")
        box, segmentation = (self.box, None) if self.rest is None else (to_box(self.rest[0]), self.rest[1])
        return Object(box, to_mask(segmentation, width, height), labels[self.category])


class _Block:
    """Consecutive images and their annotations, whose boxes are looked at together.

    `images` are (number, name, width, height). `plain` says of each image whether none of its annotations is
    a crowd or has a box or category that cannot be used, and `possible` whether its stated size is one.
    """

    def __init__(
        self,
        images: list[tuple[Any, ...]],
        records: np.ndarray,
        more: list[tuple[Any, ...] | None],
        labels: dict[int, int],
    ) -> None:
        self.images, self._records, self._more = images, records, more
        place = records["place"]
        others = [(i, one) for i, one in enumerate(more) if one is not None] if records["more"].any() else []
        masks = [(i, one) for i, one in others if one[3]]
        of = place[[i for i, _ in masks]].tolist() if masks else []
        for k, counts in checked_counts([one[3] for _, one in masks], [images[j][2:] for j in of]).items():
            more[masks[k][0]] = (*masks[k][1][:3], counts)
        sizes = np.array(
            [[max(-_FAR, min(side, _FAR)) for side in image[2:]] for image in images], np.float64
        ).reshape(-1, 2)
        found = _labels(records["category"], labels)
        for i, one in others:
            found[i] = labels.get(one[1], -1)
        self._columns = Columns(
            np.ascontiguousarray(records["box"]), found, [None] * len(more) if masks else None
        )
        sound = sound_boxes(self._columns.boxes, *sizes[place].T) & (found >= 0) & ~records["crowd"]
        self.possible = possible_sizes(sizes).tolist()
        self._starts = np.searchsorted(place, np.arange(len(images) + 1)).tolist()
        self.plain = (np.diff(np.concatenate([[0], np.cumsum(~sound)])[self._starts]) == 0).tolist()

    def annotations(self, k: int) -> list[_Annotation]:
        """Those of an image."""
        part = slice(self._starts[k], self._starts[k + 1])
        found = []
        for (_, crowd, _, number, category, box), more in zip(self._records[part].tolist(), self._more[part]):
            number, category = more[:2] if more else (number, category)
            found.append(_Annotation(number, category, crowd, tuple(box), more[2:] if more else None))
        return found

    def objects(self, k: int, width: int, height: int) -> tuple[Object, ...] | None:
        """The objects of a plain image of `width` x `height`; None if a mask cannot be used."""
        start, stop = self._starts[k], self._starts[k + 1]
        if self._columns.masks is not None:
            try:
                self._columns.masks[start:stop] = [
                    sound_mask(one[3], width, height) if one else None for one in self._more[start:stop]
                ]
            except DataError:
                return None
        return self._columns.between(start, stop)


def _labels(categories: np.ndarray, labels: dict[int, int]) -> np.ndarray:
    """int64 (n,): the labels of categories, int64 (n,); -1 of those that are not listed."""
    known = sorted(number for number in labels if are_integers([number]))
    if not known:
        return np.full(len(categories), -1)
    numbers = np.array(known, np.int64)
    at = np.minimum(np.searchsorted(numbers, categories), len(numbers) - 1)
    return np.where(numbers[at] == categories, np.array([labels[number] for number in known])[at], -1)
