"""webdataset's shards: tar files whose members are images and what describes them. They are read in place.

Members in a row with one name up to the first dot of the file are a sample: `a/0001.jpg`, `a/0001.json`,
`a/0001.cls`. Its JSON describes objects as `described.py` says; `odis index pack` writes such. Where no
sample has any, every image is one object, labelled by `cls` or by `label` in the JSON, if there is one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.clean import Skip, Unread, usable_size
from odis.objects.listing import IMAGE_SUFFIXES
from odis.objects.sources.coco_entries import stated_size
from odis.objects.sources.coco_rows import read_objects
from odis.objects.sources.described import (
    annotations_of,
    boxes_of,
    described_objects,
    first_of,
    has_objects,
    label_text,
)
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, Unit
from odis.objects.sources.shard_files import files_of_split
from odis.objects.sources.text import class_order, decode
from odis.objects.storage.address import Member, resolve
from odis.objects.storage.tar_shards import members
from odis.types import ImageObjects, Object, Skipped

WHOLE_LABELS = ("label", "class", "category", "class_name", "cls")
"""Keys that say what a whole image is of."""

_META = re.compile(r"__[^/]*__($|/)")  # members that webdataset passes over

_MOST_JSON = 2**26  # bytes


def read(root: Path, split: str | None, skip: Skip) -> AnnotationReader:
    """Every sample with an image, in the order of the shards.

    The shards are gone through twice: for the classes, and for the images.

    Args:
        root: Folder that holds the shards.
        split: `train`, `val`, `test`, or another word of the shards' names; needed where there are several.
        skip: Called with every image and object that cannot be used, and every kind of member that is not
            read.

    Raises:
        DataError: There are no shards, or of several splits and none is named, or one cannot be read.
    """
    rows = _Samples(root, files_of_split(root, (".tar",), split, "shards"), skip)
    rows.first_pass()
    provenance = "annotated" if rows.objects else "whole-image"
    return AnnotationReader(rows.units(), root, provenance, rows.classes)


FORMAT = AnnotationFormat(
    name="webdataset",
    title="webdataset's tar shards, read in place: images with JSON of boxes, or with classes",
    layout="tar files whose members are 0001.jpg, 0001.json or 0001.cls, ...",
    splits="train, val, test: a word of the shards' names (needed if there are several)",
    read=read,
)


@dataclass(slots=True)
class ShardSample:
    """Members of a shard that belong together, by their endings: name, offset and length of each."""

    key: str
    parts: dict[str, tuple[str, int, int]] = field(default_factory=dict)

    def image(self) -> str | None:
        """The ending of its image: the plain one (`jpg`), else the first one."""
        images = [one for one in self.parts if f".{one.rpartition('.')[2]}" in IMAGE_SUFFIXES]
        return min(images, key=lambda one: "." in one, default=None)


def samples_of(path: Path, skip: Skip) -> Iterator[ShardSample]:
    """The samples of a shard, by webdataset's rule.

    Args:
        path: The tar.
        skip: Called with each member that is no part of one.

    Raises:
        DataError: It cannot be read, or is cut off.
    """
    sample: ShardSample | None = None
    for name, offset, length in members(path, lambda name: skip(Unread(str(path), "links in shards"))):
        if _META.match(name):
            skip(Unread(f"{path}, {name}", "members of webdataset's own (__...__)"))
            continue
        folder, slash, file = name.rpartition("/")
        stem, dot, ending = file.partition(".")
        if not stem or not dot:
            skip(Unread(f"{path}, {name}", "members without an ending"))
            continue
        key, ending = f"{folder}{slash}{stem}", ending.lower()
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = ShardSample(key)
        if ending in sample.parts:
            skip(Skipped(f"{path}, {name} at {offset:,}", "its sample has a member of this name already"))
        else:
            sample.parts[ending] = name, offset, length
    if sample is not None:
        yield sample


@dataclass(slots=True)
class _Samples:
    root: Path
    shards: list[str]
    skip: Skip
    classes: list[str] = field(default_factory=list)
    labels: dict[int | str, int] = field(default_factory=dict)
    objects: bool = False  # whether any sample describes some

    def first_pass(self) -> None:
        """Find the classes, and whether there are objects. What is wrong is told when its row is due."""
        whole: set[str] = set()
        boxed: set[str] = set()
        for shard in self.shards:
            path = self.root / shard
            with _opened(path) as file:
                for sample in samples_of(path, lambda one: None):
                    try:
                        said = _said(file, sample)
                        if (label := _whole_label(said)) is not None:
                            whole.add(label)
                        if has_objects(said):
                            self.objects = True
                            boxed |= {o["label"] for o in described_objects(said) if o["label"] is not None}
                    except DataError:
                        continue
        self.classes = sorted(boxed if self.objects else whole, key=class_order)
        self.labels = {name: k for k, name in enumerate(self.classes)}

    def units(self) -> Iterator[Unit]:
        """The units of all samples with an image."""
        others: Counter[str] = Counter()
        for shard in self.shards:
            for sample in samples_of(self.root / shard, self.skip):
                image = sample.image()
                for one in sample.parts:
                    if one not in (image, "json", "cls"):
                        others[one] += 1
                if image is None:
                    self.skip(Unread(f"{self.root / shard}, {sample.key}", "samples without an image"))
                else:
                    yield partial(self._row, shard, sample, image)
        for ending, count in sorted(others.items()):
            self.skip(Unread(str(self.root), f".{ending} members", count))

    def _row(self, shard: str, sample: ShardSample, image: str) -> ImageObjects | None:
        name, offset, length = sample.parts[image]
        member = Member(shard, offset, length, name)
        address = resolve(self.root, member.address)
        try:
            with _opened(self.root / shard) as file:
                said = _said(file, sample)
        except DataError as error:
            self.skip(Skipped(address, str(error)))
            return None
        named = annotations_of(said, address, bool(self.labels), self.skip) if self.objects else []
        stated = stated_size(said.get("width"), said.get("height"))
        size = usable_size(
            address,
            self.skip,
            annotated=stated if named and all(stated) else None,
            objects=[called for called, _ in named],
            boxes=lambda: boxes_of(named),
        )
        if size is None:
            return None
        if self.objects:
            return ImageObjects(member.address, *size, read_objects(named, size, self.labels, self.skip))
        label = _whole_label(said)
        box = (0.0, 0.0, float(size[0]), float(size[1]))
        whole = Object(box, label=None if label is None else self.labels.get(label))
        return ImageObjects(member.address, *size, (whole,))


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _said(file: BinaryIO, sample: ShardSample) -> dict[str, Any]:
    """What the JSON and the class of a sample say, the class as `cls`.

    Raises:
        DataError: They cannot be read.
    """
    said: dict[str, Any] = {}
    try:
        if "json" in sample.parts:
            _, offset, length = sample.parts["json"]
            if length > _MOST_JSON:
                raise DataError(f"its json has {counted(length, 'byte')}; at most {_MOST_JSON:,} are read")
            file.seek(offset)
            found = orjson.loads(file.read(length))
            if not isinstance(found, dict):
                raise DataError("its json is no JSON object")
            said = found
        if "cls" in sample.parts:
            _, offset, length = sample.parts["cls"]
            file.seek(offset)
            said["cls"] = decode(file.read(min(length, 1000))).text.strip()
    except orjson.JSONDecodeError as error:
        raise DataError(f"its json is not JSON that can be read ({error})") from error
    except (OSError, ValueError) as error:
        raise DataError(f"its json or cls cannot be read ({error})") from error
    return said


def _whole_label(said: dict[str, Any]) -> str | None:
    own = label_text(said.get("cls"))
    return label_text(first_of(said, WHOLE_LABELS)) if own is None else own
