"""The object index: one table between annotations and training, one row an image.

Columns: `image` (path relative to `root`, or URI), `width`, `height`, `boxes`; `masks`, `labels`, `scores`
(null where no object has any); `shard`, `offset`, `length` of images in tar shards. Schema metadata: `root`,
`provenance`, `classes` (JSON list of names), `odis_version`; and `root_relative`, the way from the index to
its images, which finds them again when both were moved together.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from odis import __version__
from odis.config.renamed import translate
from odis.config.wording import counted
from odis.errors import DataError, OdisWarning
from odis.machine.checksums import seal_parquet
from odis.machine.files import check_readable, written_whole
from odis.objects.check import Statistics, problems, statistics
from odis.objects.images import image_size
from odis.objects.listing import folder_labels, list_files
from odis.objects.roots import find_root, moved_root, moved_to, root_metadata, uri_of
from odis.objects.storage.address import file_of, resolve
from odis.objects.storage.columns import refuse_secrets, with_shards
from odis.objects.table import SCHEMA, Block, load_batches, read_schema, to_batch
from odis.types import ImageObjects, Object

__all__ = ["ObjectIndex", "Statistics", "statistics", "write_index"]

WHOLE_IMAGE = "whole-image"

PART_NAME = re.compile(r"(\d{6,})-of-(\d{6,})\.parquet")
"""Name of a file of an index in several files: which part of how many, counted from 1."""

_ROW_GROUP = 4096


class ObjectIndex:
    """Images and their objects, read row by row. Picklable: a data loading process opens the files itself.

    Args:
        path: The Parquet file, the folder of Parquet files, or the folder of images.
        files: Its Parquet files; none for a folder of images.
        images: The images of a folder; None for Parquet files.
        labels: Class of each image of a folder, if it has one folder a class.
        root: Folder that image paths begin at.
        provenance: Where the objects came from.
        classes: Class names; a label is a position in it.
    """

    def __init__(
        self,
        path: str,
        *,
        root: Path,
        provenance: str,
        classes: list[str],
        files: list[str] | None = None,
        images: pa.Array | None = None,
        labels: pa.Array | None = None,
    ) -> None:
        self.path, self.root, self.provenance, self.classes = path, root, provenance, classes
        self.uri: str | None = None  # of the folder that image paths begin at, if it is behind one
        self._files, self._images, self._labels = files or [], images, labels
        self._batches: list[pa.RecordBatch] | None = None
        self._ends: list[int] = []
        self._blocks: dict[int, Block] = {}

    @staticmethod
    def open(path: str | Path, strict: bool = False, root: str | Path | None = None) -> ObjectIndex:
        """Open a Parquet index, a folder of Parquet files that make one, or a folder of images.

        In a folder of images every image is its own object, labelled if there is one folder a class; its
        sizes are read from the headers when a row is asked for.

        Args:
            path: The file or folder.
            strict: Look at every row now, and refuse the index if there are any `problems`.
            root: Folder that the images are in now, instead of the one written in the index: the folder that
                image paths begin at, or its URI, or one above it that still ends as the old one did. By
                default that of `roots.images_moved_to`. The images of a folder stay where they are.

        Raises:
            DataError: Neither an object index nor a folder with images; or, with `strict`, the first image or
                object that cannot be used.
        """
        index = _open_folder(Path(path)) if os.path.isdir(path) else _open_files(str(path), [str(path)])
        root = moved_to() if root is None else root
        if root is not None and not index.is_folder and (uri := uri_of(root)) is not None:
            index.uri = uri
        elif root is not None and not index.is_folder:
            image = file_of(index.image_name(0)) if len(index) else ""
            index.root, index.uri = moved_root(index.root, Path(root).absolute(), image), None
        if index.uri is None and not index.root.is_dir():
            raise DataError(
                f"{path}: its images should be in {index.root}, which is no folder; give the folder they are "
                f"in with --root"
            )
        if strict:
            for problem in problems(index):
                raise DataError(f"{problem.what}: {problem.why}")
        return index

    @property
    def is_folder(self) -> bool:
        """Whether this is a plain folder of images, whose headers are read as rows are asked for."""
        return self._images is not None

    def __len__(self) -> int:
        if self._images is not None:
            return len(self._images)
        self._load()
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, i: int) -> ImageObjects:
        """Row `i`.

        Raises:
            IndexError: There is no such row.
            DataError: In a folder of images: the image has no header that can be read.
        """
        i = self._position(i)
        if self._images is not None:
            name = self._images[i].as_py()
            width, height = image_size(os.path.join(self.root, name))
            label = None if self._labels is None else self._labels[i].as_py()
            whole = (0.0, 0.0, float(width), float(height))
            return ImageObjects(name, width, height, (Object(whole, label=label),))
        block, k = self._block(i)
        return block.row(k)

    def __iter__(self) -> Iterator[ImageObjects]:
        return (self[i] for i in range(len(self)))

    def image_path(self, i: int) -> str:
        """Path of the image of row `i`, or its address (`storage.address`), below the index's root."""
        return resolve(self.image_root, self.image_name(i))

    @property
    def image_root(self) -> str | Path:
        """Folder that image paths begin at, or its URI."""
        return self.uri or self.root

    def image_name(self, i: int) -> str:
        """The image of row `i` as the index names it; nothing is opened."""
        i = self._position(i)
        if self._images is not None:
            name: str = self._images[i].as_py()
            return name
        block, k = self._block(i)
        return block.image(k)

    def batches(self) -> list[pa.RecordBatch]:
        """The rows as they lie in the files, in the columns of `table.SCHEMA`; none for a folder of
        images.
        """
        return [] if self._images is not None else self._load()

    def count_objects(self) -> int:
        """Objects of all images together; no row is made for it."""
        if self._images is not None:
            return len(self._images)
        return sum(len(batch.column("boxes").flatten()) for batch in self._load())

    def labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and label of every object with a label, int64 each, in the order of rows; no row is made."""
        rows, labels = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        if self._labels is not None:
            rows.append(np.arange(len(self._labels), dtype=np.int64))
            labels.append(self._labels.to_numpy(zero_copy_only=False).astype(np.int64))
        for batch, end in zip(self.batches(), self._ends):
            column = batch.column("labels")
            of, values = pc.list_parent_indices(column), column.flatten()
            there = values.is_valid()
            rows.append(of.filter(there).to_numpy().astype(np.int64) + end - len(batch))
            labels.append(values.filter(there).to_numpy().astype(np.int64))
        return np.concatenate(rows), np.concatenate(labels)

    def fingerprint(self) -> str:
        """Sixteen characters that tell two indexes apart: of the content of the Parquet files, or of the
        names in a folder.
        """
        digest = hashlib.sha256()
        if self._images is not None:
            for name in self._images:
                digest.update(name.as_py().encode() + b"\0")
        for path in self._files:
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_batches": None, "_ends": [], "_blocks": {}}

    def _position(self, i: int) -> int:
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"row {i} of an index of {counted(n, 'image')}")
        return i % n

    def _load(self) -> list[pa.RecordBatch]:
        if self._batches is None:
            self._batches = load_batches(self._files)
            total = 0
            for batch in self._batches:
                refuse_secrets(batch.column("image"), self.path)
                total += len(batch)
                self._ends.append(total)
        return self._batches

    def _block(self, i: int) -> tuple[Block, int]:
        b = bisect_right(self._ends, i)
        block = self._blocks.get(b)
        if block is None:
            block = self._blocks[b] = Block(self._load()[b], self.path)
        return block, i - (self._ends[b - 1] if b else 0)


def write_index(
    path: str | Path, rows: Iterable[ImageObjects], *, root: str | Path, provenance: str, classes: list[str]
) -> None:
    """Write an object index, row by row as they come; nothing is left at `path` unless all were written.

    Args:
        path: The Parquet file; its folder is made.
        rows: Images and objects; written as they are (`clean.py` checks them).
        root: Folder that image paths begin at.
        provenance: `annotated`, `detected:NAME`, `discovered:NAME` or `whole-image`.
        classes: Class names; a label is a position in it.

    Raises:
        DataError: The file cannot be written.
    """
    path = Path(path).absolute()
    schema = index_schema(path, root=root, provenance=provenance, classes=classes)
    with (
        written_whole(path, errors=(pa.ArrowException,), seal=seal_parquet) as beside,
        contextlib.ExitStack() as stack,
    ):
        source = iter(rows)
        first = list(islice(source, _ROW_GROUP))
        schema = with_shards(schema, [row.image for row in first])
        writer = stack.enter_context(pq.ParquetWriter(beside, schema, compression="zstd"))
        for chunk in chain([first], iter(lambda: list(islice(source, _ROW_GROUP)), [])):
            writer.write_batch(to_batch(chunk, schema))


def index_schema(
    path: str | Path,
    *,
    root: str | Path,
    provenance: str,
    classes: list[str],
    made_with: dict[str, Any] | None = None,
) -> pa.Schema:
    """The schema of an index's file, with its metadata.

    Args:
        path: Where the file will be.
        root: Folder that image paths begin at.
        provenance: Where the objects came from.
        classes: Class names.
        made_with: Settings of what found the objects, kept as JSON: a call with the same ones has nothing
            left to do.
    """
    metadata = {
        **root_metadata(root, Path(path)),
        "provenance": provenance,
        "classes": json.dumps(classes, ensure_ascii=False),
        "odis_version": __version__,
    }
    if made_with is not None:
        metadata["made_with"] = json.dumps(made_with, sort_keys=True)
    # A path may have bytes that are no text; a class name that is none is written as Python writes it.
    encoded = {
        key: os.fsencode(value) if key.startswith("root") else value.encode(errors="backslashreplace")
        for key, value in metadata.items()
    }
    return SCHEMA.with_metadata(encoded)


def made_with(path: str | Path) -> dict[str, Any] | None:
    """The settings an index's file says it was made with, under their present names; None if it says none.

    Raises:
        DataError: The file cannot be read or is no index.
    """
    text = (read_schema(path).metadata or {}).get(b"made_with")
    try:
        found = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return translate(found)[0] if isinstance(found, dict) else None


def _open_folder(path: Path) -> ObjectIndex:
    listing = list_files(path)
    if listing.parquet and listing.images:
        raise DataError(
            f"{path}: holds images and Parquet files; name the index ({path / listing.parquet[0]}), or "
            f"move it out of the folder"
        )
    if listing.parquet:
        _check_whole(path, listing.parquet)
        return _open_files(str(path), [os.path.join(path, name) for name in listing.parquet])
    if not listing.images:
        raise DataError(
            f"{path}: no image and no object index (.parquet) in this folder or below ({listing.said()})"
        )
    for one in listing.skipped[:1]:
        more = f", and {len(listing.skipped) - 1:,} more like it" if len(listing.skipped) > 1 else ""
        warnings.warn(f"skipped {one.what}: {one.why}{more}", OdisWarning, stacklevel=3)
    if missed := listing.pictures():
        warnings.warn(f"{path}: not read: {missed}; convert them to JPEG or PNG", OdisWarning, stacklevel=3)
    labels = folder_labels(
        listing,
        lambda name: (
            f"give one of them ({path / name}), or make an index of all: odis index folder {path} --split ."
        ),
    )
    position = {name: k for k, name in enumerate(labels.classes)}
    return ObjectIndex(
        str(path),
        root=path.absolute(),
        provenance=WHOLE_IMAGE,
        classes=labels.classes,
        images=pa.array(listing.images, pa.string()),
        labels=pa.array([position[labels.names(name)] for name in listing.images], pa.int32())
        if position
        else None,
    )


def _check_whole(path: Path, names: list[str]) -> None:
    """Refuse a folder that lacks some of the parts its files' names speak of (`parts.py`)."""
    numbered = [(int(m[1]), int(m[2])) for name in names if (m := PART_NAME.fullmatch(name))]
    for total in sorted({total for _, total in numbered}):
        missing = sorted(set(range(1, total + 1)) - {k for k, t in numbered if t == total})
        if missing:
            raise DataError(
                f"{path}: the index is not whole: it lacks {len(missing)} of its {counted(total, 'part')}, "
                f"the first is number {missing[0]}; the shards that make them have not ended"
            )


def _open_files(path: str, files: list[str]) -> ObjectIndex:
    check_readable(path, "file or folder; an object index (.parquet) or a folder of images can be opened")
    first: dict[str, str] = {}
    for file in files:
        metadata = {
            key.decode(errors="replace"): os.fsdecode(value)
            for key, value in (read_schema(file).metadata or {}).items()
            if key != b"ARROW:schema"
        }
        if lost := [key for key in _NEEDED if key not in metadata]:
            raise DataError(f"{file}: {_lost(lost)}")
        for key in _NEEDED:
            if first and metadata[key] != first[key]:
                raise DataError(f"{file}: its {key} differs from that of {files[0]}; an index has one")
        first = first or metadata
    try:
        classes = json.loads(first["classes"])
    except (ValueError, RecursionError):
        classes = None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise DataError(f"{files[0]}: its classes are not a JSON list of names")
    index = ObjectIndex(
        path, root=find_root(files[0], first), provenance=first["provenance"], classes=classes, files=files
    )
    index.uri = uri_of(first["root"])
    return index


_NEEDED = ("root", "provenance", "classes")
"""Metadata that an index is nothing without."""


def _lost(names: list[str]) -> str:
    """That metadata are not there, and how they are kept."""
    return (
        f"is not an object index: its schema metadata has no {', '.join(names)}; a program that wrote it "
        f"again (pandas, DuckDB) did not keep them: copy them from the index it was made of, with pyarrow "
        f"table.replace_schema_metadata(pyarrow.parquet.read_schema(OLD).metadata)"
    )
