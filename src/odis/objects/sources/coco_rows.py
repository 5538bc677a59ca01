"""The rows of a file in COCO's form whose annotations were put to their images: the ordinary ones a block at
a time, the others with care.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from odis.errors import DataError
from odis.objects.clean import (
    ANY_LABEL,
    Crowd,
    Mended,
    Skip,
    SkippedObject,
    Unread,
    keep_usable,
    possible_repeats,
    possible_sizes,
    sound_boxes,
    usable_size,
)
from odis.objects.columns import Columns
from odis.objects.sources.annotation_join import BLOCK, AnnotationJoin, are_integers
from odis.objects.sources.coco_annotation import box_of_keypoints, checked_counts, sound_mask, to_box
from odis.objects.sources.coco_entries import Identifier, name_of, number, short
from odis.objects.sources.coco_mask import box_of, read_mask
from odis.objects.sources.places import ImagePlaces, Settled
from odis.objects.sources.reader import Unit
from odis.types import Box, ImageObjects, Object, Skipped

_FAR = 2**40  # further than any pixel

_MOST_SCORE = 1e30  # float32, as which an index stores it, holds 3e38

_BLOCKS = 2  # held at a time

AGAIN = "entries of images that are listed under another id too (their objects are with the first)"

Labels = dict[int | str, int]


class InstanceRows:
    """The units of a file.

    Args:
        path: The file, for messages.
        named_by: The key that says what an image is called, for messages.
        places: Finds the images.
        joined: Images and their annotations.
        labels: Of each category.
        skip: Called with every image and object that cannot be used or only in part, and every crowd.
        trust: Take the sizes that the file states, without opening the images.
        noun: What an annotation is called, in front of its number.
    """

    def __init__(
        self,
        path: Path,
        named_by: str,
        places: ImagePlaces,
        joined: AnnotationJoin,
        labels: Labels,
        skip: Skip,
        trust: bool,
        noun: str = "annotation",
    ) -> None:
        self._noun = noun
        self._path, self._named_by, self._places, self._joined = path, named_by, places, joined
        self._labels, self._skip, self._trust = labels, skip, trust
        self._blocks: dict[int, _Block] = {}
        self._in_doubt: dict[int, str] = {}
        self.settled: Settled = "plain"  # images that are elsewhere are looked for, also with `trust`

    def units(self) -> Iterator[Unit]:
        self._in_doubt = dict(self._doubtful())
        start = 0
        left_out = heapq.merge(((again, None) for again in self._joined.repeated()), self._joined.same())
        for again, first in left_out:
            yield from (partial(self._row, i) for i in range(start, again))
            number, name, *_ = self._block(again // BLOCK).images[again % BLOCK]
            what = f"{self._path}, image {_shown(number)}"
            if first is None:
                self._skip(Skipped(what, f"{name}: this image number was listed before"))
            else:
                self._skip(Unread(f"{what}, {name}", AGAIN))
            start = again + 1
        yield from (partial(self._row, i) for i in range(start, len(self._joined)))

    def _doubtful(self) -> Iterator[tuple[int, str]]:
        """Positions of images with objects that may be another's, and why: two are called by one number."""
        for again in self._joined.repeated():
            number, name, *_ = self._block(again // BLOCK).images[again % BLOCK]
            at = self._joined.position(number)
            if self._block(at // BLOCK).images[at % BLOCK][1] != name:
                other = "an image without a name" if name is None else short(name)
                yield (
                    at,
                    f"its number {_shown(number)} is also that of {other}: whose its objects are is unknown",
                )

    def names(self) -> Iterator[str]:
        """What the images are called, each once."""
        left_out = {*self._joined.repeated(), *(again for again, _ in self._joined.same())}
        for k in range(-(-len(self._joined) // BLOCK)):
            for place, (_, name, *_) in enumerate(self._joined.images(k)):
                if name is not None and k * BLOCK + place not in left_out:
                    yield name

    def _block(self, k: int) -> _Block:
        block = self._blocks.get(k)
        if block is None:
            while len(self._blocks) >= _BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            block = self._blocks[k] = _Block(*self._joined.block(k), self._labels)
        return block

    def _row(self, i: int) -> ImageObjects | None:
        block, k = self._block(i // BLOCK), i % BLOCK
        _, name, *size = block.images[k]
        ordinary = block.plain[k] and name is not None and i not in self._in_doubt
        place = self._places.plain(name) if ordinary else None
        if place is not None:
            said: list[Skipped] = []
            found = self._plain_size(place, (size[0], size[1]), block, k, said.append)
            objects = None if found is None else block.objects(k, *found)
            if found is not None and objects is not None:
                for one in said:
                    self._skip(one)
                return ImageObjects(place, found[0], found[1], objects)
        return self._careful(block, k, self._in_doubt.get(i))

    def _plain_size(
        self, place: str, size: tuple[int, int], block: _Block, k: int, skip: Skip
    ) -> tuple[int, int] | None:
        """The size of an image where nothing is odd; None if something is, and it is to be read with care."""
        if self._trust:
            return size if block.possible[k] and self.settled != "elsewhere" else None
        return usable_size(
            f"{self._places.root}{os.sep}{place}",
            skip,
            annotated=size,
            boxes=lambda: (one.box for one in block.annotations(k)),
        )

    def _careful(self, block: _Block, k: int, doubt: str | None) -> ImageObjects | None:
        """The row of an image of which something is left out or mended, or may be; None if it is in doubt."""
        number, name, width, height = block.images[k]
        annotations = block.annotations(k)
        where = f"{self._path}, image {_shown(number)}" if name is None else self._places.called(name)
        for one in annotations:
            if one.crowd:
                self._skip(Crowd(f"{where}, {name_of(one.number, self._noun)}", "is a crowd"))
        named = [(f"{where}, {name_of(one.number, self._noun)}", one) for one in annotations if not one.crowd]
        try:
            if doubt is not None:
                raise DataError(doubt)
            place = self._place(name)
        except DataError as error:
            self._skip(Skipped(where, str(error)))
            for called, _ in named:
                self._skip(SkippedObject(called, "its image cannot be used"))
            return None
        found = usable_size(
            self._places.root / place,
            self._skip,
            annotated=(width, height) if width else None,
            objects=[called for called, _ in named],
            trust=self._trust,
            boxes=lambda: (one.box for _, one in named),
        )
        return (
            None
            if found is None
            else ImageObjects(place, *found, read_objects(named, found, self._labels, self._skip))
        )

    def _place(self, name: str | None) -> str:
        if name is None:
            raise DataError(f"has no {self._named_by}")
        plain = self._places.plain(name)
        if self._trust and self.settled != "elsewhere" and plain is not None:
            return plain
        return self._places.place(name)


def read_objects(
    named: list[tuple[str, CocoAnnotation]], size: tuple[int, int], labels: Labels, skip: Skip
) -> tuple[Object, ...]:
    """The objects of an image of `size` that can be used; what is left out or mended is named.

    Args:
        named: Annotations, none of a crowd, each behind what it is called.
        size: `(width, height)` of the image.
        labels: Of each category.
        skip: Called with every object that cannot be used, or only in part.
    """
    objects, problems, written = [], [], []
    for called, one in named:
        try:
            item, problem = one.object(*size, labels)
        except DataError as error:
            skip(SkippedObject(called, str(error)))
            continue
        objects.append((called, item))
        problems.append(problem)
        segmentation = None if one.rest is None or not one.rest[1] else _repr(one.rest[1])
        written.append((one.category, item.box, segmentation, item.score))
    kept = keep_usable(objects, size, ANY_LABEL, skip, masks_are_sound=True, written=written)
    there = set(map(id, kept))
    for (called, item), problem in zip(objects, problems):
        if problem is not None and id(item) in there:
            skip(Mended(called, problem))
    return kept


def _shown(number: Identifier) -> str:
    return str(number) if isinstance(number, int) else short(number)


@dataclass(frozen=True, slots=True)
class CocoAnnotation:
    """An annotation as it stands in the file; `object` checks it."""

    number: Identifier
    category: int | str | None
    crowd: bool
    box: Box
    rest: tuple[Any, ...] | None
    """bbox and segmentation as they stand in the file, if the record does not hold all of them; behind them
    the score, if there may be one.
    """

    def object(self, width: int, height: int, labels: Labels) -> tuple[Object, str | None]:
        """The object, and in what it is not as it is annotated, if in anything; the error says what is wrong
        with it.
        """
        if self.category is None and labels:
            raise DataError("has no category_id, or none that is a number or text")
        label = None if self.category is None else labels.get(self.category)
        problems = []
        if label is None and self.category is not None:
            problems.append(f"category {_shown(self.category)} is not listed; it has no label")
        if self.rest is None:
            return Object(self.box, None, label), problems[0] if problems else None
        bbox, segmentation, *scores = self.rest
        box = None if bbox is None or bbox == [] else to_box(bbox)
        if type(segmentation) is dict and "keypoints" in segmentation:
            box, segmentation = box_of_keypoints(segmentation["keypoints"]), None
            problems.append("has no bbox; that of its keypoints is taken")
        mask, problem = read_mask(segmentation, width, height, box)
        if box is None and mask is None:
            box = to_box(bbox)
        if box is None:
            assert mask is not None
            box = box_of(mask, width, height)
            problems.append("has no bbox; that of its mask is taken")
        if problem is not None:
            problems.append(f"{problem}; {'that part is left out' if mask else 'it has no mask'}")
        score = number(scores[0]) if scores else None
        if scores and scores[0] is not None and (score is None or not abs(score) < _MOST_SCORE):
            problems.append(f"score is {short(scores[0])}, must be a number; it has no score")
            score = None
        return Object(box, mask, label, None if score is None else float(score)), "; ".join(problems) or None


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except RecursionError:
        return f"{id(value)}"


class _Block:
    """Consecutive images and their annotations, whose boxes are looked at together.

    `images` are (number, name, width, height). `plain` says of each image whether none of its annotations is
    a crowd, may be one that was listed before, or has a box or category that cannot be used, and `possible`
    whether its stated size is one.
    """

    def __init__(
        self,
        images: list[tuple[Any, ...]],
        records: np.ndarray,
        more: list[tuple[Any, ...] | None],
        labels: Labels,
    ) -> None:
        self.images, self._records, self._more = images, records, more
        place = records["place"]
        others = [(i, one) for i, one in enumerate(more) if one is not None] if records["more"].any() else []
        masks = [(i, one) for i, one in others if one[3]]
        of = place[[i for i, _ in masks]].tolist() if masks else []
        for k, counts in checked_counts([one[3] for _, one in masks], [images[j][2:] for j in of]).items():
            more[masks[k][0]] = (*masks[k][1][:3], counts, *masks[k][1][4:])
        sizes = np.array(
            [[max(-_FAR, min(side, _FAR)) for side in image[2:]] for image in images], np.float64
        ).reshape(-1, 2)
        found = _labels(records["category"], labels)
        for i, one in others:
            found[i] = labels.get(one[1], -1)
        self._columns = Columns(
            np.ascontiguousarray(records["box"]), found, [None] * len(more) if masks else None
        )
        boxes = self._columns.boxes
        sound = sound_boxes(boxes, *sizes[place].T) & (found >= 0) & ~records["crowd"]
        sound &= ~possible_repeats(place, found, boxes)
        sound[[i for i, one in others if one[4:] not in ((), (None,))]] = False  # columns hold no scores
        self.possible = possible_sizes(sizes).tolist()
        self._starts = np.searchsorted(place, np.arange(len(images) + 1)).tolist()
        plain = np.diff(np.concatenate([[0], np.cumsum(~sound)])[self._starts]) == 0
        self.plain = (plain & (sizes > 0).all(axis=1)).tolist()

    def annotations(self, k: int) -> list[CocoAnnotation]:
        """Those of an image."""
        part = slice(self._starts[k], self._starts[k + 1])
        found = []
        for (_, crowd, _, called, category, box), more in zip(self._records[part].tolist(), self._more[part]):
            called, category = more[:2] if more else (called, category)
            found.append(CocoAnnotation(called, category, crowd, tuple(box), more[2:] if more else None))
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


def _labels(categories: np.ndarray, labels: Labels) -> np.ndarray:
    """int64 (n,): the labels of categories, int64 (n,); -1 of those that are not listed."""
    known = sorted(number for number in labels if isinstance(number, int) and are_integers([number]))
    if not known:
        return np.full(len(categories), -1)
    numbers = np.array(known, np.int64)
    at = np.minimum(np.searchsorted(numbers, categories), len(numbers) - 1)
    return np.where(numbers[at] == categories, np.array([labels[number] for number in known])[at], -1)
