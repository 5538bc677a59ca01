"""Hugging Face's image data sets: Parquet files of the Hub, or Arrow files of `save_to_disk`, with the bytes
of the images in them. They are read in place.

A column of images is a struct of `bytes` and `path`; a row without bytes names a file. Objects are described
in `objects`, as `described.py` says. Where no row has any, every image is one object, labelled by the first
column of the type `ClassLabel`, or by `label`. Names of classes are in the files' metadata.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.errors import DataError, OdisWarning
from odis.objects.clean import Skip, Unread, usable_size
from odis.objects.sources.coco_entries import stated_size
from odis.objects.sources.coco_rows import CocoAnnotation, read_objects
from odis.objects.sources.described import (
    BOXES,
    CROWDS,
    LABELS,
    MASKS,
    OBJECTS,
    SCORES,
    annotations_of,
    boxes_of,
    described_objects,
    has_objects,
    label_text,
)
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, Unit
from odis.objects.sources.shard_files import files_of_split
from odis.objects.sources.text import class_order
from odis.objects.storage.address import Member, is_elsewhere, resolve
from odis.types import ImageObjects, Object, Skipped

if TYPE_CHECKING:
    import pyarrow as pa

    from odis.objects.storage.image_tables import ImageTable, StoredImage

ENDINGS = (".parquet", ".arrow")

_SIZES = ("width", "height")

_WHOLE_LABELS = ("label", "labels", "class", "category")

_MAGIC = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"GI": ".gif", b"BM": ".bmp"}

_FAR_MORE = 4  # times the bytes of an image that its page may have, before it is said

_LARGE = 2**20  # bytes of a page


def read(root: Path, split: str | None, skip: Skip) -> AnnotationReader:
    """Every row with an image, in the order of the files.

    Args:
        root: Folder that holds the files, such as a copy of the Hub's repository.
        split: `train`, `validation`, `test`, or another word of the files' names; needed where there are
            several.
        skip: Called with every image and object that cannot be used, and every column that is not read.

    Raises:
        DataError: There are no such files, or of several splits and none is named, or no column of images.
    """
    rows = _StoredRows(root, files_of_split(root, ENDINGS, split, "Parquet or Arrow files"), skip)
    rows.first_pass()
    provenance = "annotated" if rows.boxed else "whole-image"
    return AnnotationReader(rows.units(), root, provenance, rows.classes)


FORMAT = AnnotationFormat(
    name="huggingface",
    title="Hugging Face image data sets (Parquet, Arrow), read in place: boxes or labels",
    layout="*.parquet as on the Hub, or *.arrow of save_to_disk, with a column of images",
    splits="train, validation, test: a word of the files' names (needed if there are several)",
    read=read,
)


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """The features that `datasets` writes into a file's metadata; empty if there are none."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def class_names(feature: Any, depth: int = 0) -> list[str] | None:
    """The names of the first `ClassLabel` in a feature; None if it has none."""
    if isinstance(feature, list):
        feature = dict(enumerate(feature))
    if not isinstance(feature, dict) or depth > 8:
        return None
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        sound = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return list(names) if sound and names else None
    first = [feature[name] for name in ("category", "categories", "label", "labels") if name in feature]
    for part in [*first, *feature.values()]:
        if (names := class_names(part, depth + 1)) is not None:
            return names
    return None


@dataclass(slots=True)
class _Columns:
    """Which columns of the files are read."""

    image: str
    label: str | None
    described: list[str]  # all that may describe objects, and the image's size
    names: list[str] | None  # of classes, if the metadata have them

    @classmethod
    def of(cls, path: Path, schema: pa.Schema) -> _Columns:
        from odis.objects.storage.image_tables import image_columns  # pyarrow: not for the help of a command

        images = image_columns(schema)
        if not images:
            raise DataError(
                f"{path}: has the columns {', '.join(schema.names) or '(none)'}, of which none holds images "
                f"(a struct of bytes and path)"
            )
        features, others = features_of(schema), [name for name in schema.names if name not in images]
        objects = [name for name in others if name in (*OBJECTS, *BOXES)]
        of_boxes = (*LABELS, *MASKS, *SCORES, *CROWDS) if set(objects) & set(BOXES) else ()
        beside = [name for name in others if objects and name in (*_SIZES, *of_boxes)]
        typed = [one for one in others if _is_class(features.get(one))]
        named = [name for name in _WHOLE_LABELS if name in others]
        label = next((name for name in [*(n for n in named if n in typed), *typed, *named]), None)
        of = [features.get(name or "") for name in ([*objects, *beside] if objects else [label])]
        names = next((found for one in of if (found := class_names(one)) is not None), None)
        return cls(images[0], None if objects else label, [*objects, *beside], names)

    def read(self) -> list[str]:
        return [*self.described, *([self.label] if self.label else [])]


def _is_class(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "ClassLabel"


@dataclass(slots=True)
class _StoredRows:
    root: Path
    files: list[str]
    skip: Skip
    columns: _Columns = field(init=False)
    boxed: bool = False
    classes: list[str] = field(default_factory=list)
    labels: dict[int | str, int] = field(default_factory=dict)
    _told: bool = False
    _held: tuple[str, ImageTable] | None = None
    _group: tuple[str, int, list[StoredImage], list[dict[str, Any]]] | None = None

    def first_pass(self) -> None:
        """Find the classes and whether there are objects, without the images."""
        from odis.objects.storage.image_tables import image_columns

        self.columns = _Columns.of(self.root / self.files[0], self._table(self.files[0]).schema)
        found: set[str] = set()
        for file in self.files:
            table = self._table(file)
            if self.columns.image not in image_columns(table.schema):
                raise DataError(f"{table.path}: has no images in {self.columns.image}")
            for group in range(len(table.groups)):
                for row in table.rows(group, self._read_of(table)):
                    self.boxed |= has_objects(row)
                    found |= self._classes_in(row)
        self.classes = self.columns.names or sorted(found, key=class_order)
        for k, name in enumerate(self.classes):  # a cell holds the number of a class that metadata name
            self.labels[str(k) if self.columns.names else name] = k

    def _classes_in(self, row: dict[str, Any]) -> set[str]:
        label = None if self.columns.label is None else label_text(row.get(self.columns.label))
        try:
            of = [one["label"] for one in described_objects(row)] if self.columns.described else [label]
        except DataError:
            return set()
        return {one for one in of if one is not None}

    def _read_of(self, table: ImageTable) -> list[str]:
        return [name for name in self.columns.read() if name in table.schema.names]

    def _table(self, file: str) -> ImageTable:
        from odis.objects.storage.image_tables import open_table

        if self._held is None or self._held[0] != file:
            self._held = file, open_table(self.root / file)
        return self._held[1]

    def _cells(self, file: str, group: int) -> tuple[list[StoredImage], list[dict[str, Any]]]:
        """The rows of a group, of which the last one is held."""
        if self._group is None or self._group[:2] != (file, group):
            table = self._table(file)
            images = table.images(group, self.columns.image)
            self._tell_large_pages(file, images)
            self._group = file, group, images, table.rows(group, self._read_of(table))
        return self._group[2:]

    def units(self) -> Iterator[Unit]:
        """The units of all rows."""
        for name in self._table(self.files[0]).schema.names:
            if name not in (self.columns.image, *self.columns.read()):
                self.skip(Unread(f"{self.root}, column {name}", "columns without a meaning"))
        for file in self.files:
            number = 0
            for group, count in enumerate(self._table(file).groups):
                for k in range(count):
                    yield partial(self._row, file, group, k, number + k)
                number += count

    def _tell_large_pages(self, file: str, images: list[StoredImage]) -> None:
        """Say so, once, if an image costs far more to read than it has bytes."""
        spans = [one.span for one in images if one.span is not None and one.span.page]
        pages = sum(span.length for span in spans) / max(1, len(spans))
        own = sum(span.page.length for span in spans if span.page) / max(1, len(spans))
        if pages > max(_LARGE, _FAR_MORE * own) and not self._told:
            self._told = True
            warnings.warn(
                f"{self.root / file}: an image of {own / 1e3:,.0f} kB lies in a compressed page of "
                f"{pages / 1e6:,.1f} MB, which is read for it; odis index pack writes shards without that",
                OdisWarning,
                stacklevel=2,
            )

    def _row(self, file: str, group: int, k: int, number: int) -> ImageObjects | None:
        images, rows = self._cells(file, group)
        stored, row = images[k], rows[k]
        where = f"{self.root / file}, row {number}"
        image = self._address(file, number, stored, where)
        if image is None:
            return None
        address = resolve(self.root, image)
        named: list[tuple[str, CocoAnnotation]] = []
        if self.boxed:
            named = annotations_of(row, where, bool(self.labels), self.skip)
        stated = stated_size(*(row.get(name) for name in _SIZES))
        size = usable_size(
            address,
            self.skip,
            annotated=stated if named and all(stated) else None,
            objects=[called for called, _ in named],
            boxes=lambda: boxes_of(named),
            data=stored.content if stored.span is not None else None,
        )
        if size is None:
            return None
        if self.boxed:
            return ImageObjects(image, *size, read_objects(named, size, self.labels, self.skip))
        label = None if self.columns.label is None else label_text(row.get(self.columns.label))
        box = (0.0, 0.0, float(size[0]), float(size[1]))
        return ImageObjects(image, *size, (Object(box, label=self.labels.get(label or "")),))

    def _address(self, file: str, number: int, stored: StoredImage, where: str) -> str | None:
        """What the index calls the image; None if there is none, which is told."""
        if stored.span is not None:
            magic = (stored.content or b"")[:2]
            name = (stored.path or "").rpartition("/")[2]
            if not name:
                stem = os.path.splitext(file)[0]
                name = f"{stem}/{number:06d}{_MAGIC.get(magic, '')}"
            span = stored.span
            return Member(file, span.offset, span.length, name, span.page).address
        if stored.content:
            self.skip(Skipped(where, "its bytes are not in one piece in the file"))
        elif stored.path and (is_elsewhere(stored.path) or os.path.isabs(stored.path)):
            return stored.path
        elif stored.path:
            return (Path(file).parent / stored.path).as_posix()
        else:
            self.skip(Skipped(where, f"has no image in {self.columns.image}"))
        return None
