"""The object index as Arrow data: its schema, and rows read straight from the buffers.

Parquet cannot be read row by row, so a large index is copied once to an uncompressed Arrow file in the user's
cache folder, and that is memory-mapped: opening costs no memory that grows with the rows, and all workers and
ranks share the same pages.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from odis.errors import DataError, OdisWarning
from odis.machine.checksums import DamagedError, verify_parquet
from odis.machine.files import written_whole
from odis.objects.columns import Columns, ObjectSlice
from odis.objects.storage.columns import columns_in, join_columns, split_columns
from odis.types import ImageObjects, Object

SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4)), nullable=False),
        pa.field("masks", pa.list_(pa.binary())),
        pa.field("labels", pa.list_(pa.int32())),
        pa.field("scores", pa.list_(pa.float32())),
    ]
)

MAP_ABOVE = 16 * 2**20  # bytes of Parquet from which an index is memory-mapped instead of held in memory

_BATCH_ROWS = 8192


def to_batch(rows: list[ImageObjects], schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    """One Arrow batch of `rows`. A column of masks, labels or scores is null in rows where no object has
    any.
    """
    counts = np.fromiter([len(row.objects) for row in rows], np.int32, len(rows))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    boxes, masks, labels, scores = _gathered(rows)
    with np.errstate(over="ignore"):  # what float32 does not hold is infinite in the index
        flat = boxes.astype(np.float32).ravel()
    images = [row.image for row in rows]
    image, *shards = split_columns(images) if "shard" in schema.names else [pa.array(images, pa.string())]
    columns = [
        image,
        pa.array([row.width for row in rows], pa.int32()),
        pa.array([row.height for row in rows], pa.int32()),
        pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(pa.array(flat), 4)),
        _optional(masks, counts, offsets, pa.binary()),
        _optional(labels, counts, offsets, pa.int32()),
        _optional(scores, counts, offsets, pa.float32()),
    ]
    return pa.record_batch(
        [c if c.type.equals(f.type) else c.cast(f.type) for c, f in zip([*columns, *shards], schema)],
        schema=schema,
    )


def boxes_of(rows: Sequence[ImageObjects]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of all objects, float64 (n, 4), and how many each row has, int64 (rows,)."""
    counts = np.fromiter([len(row.objects) for row in rows], np.int64, len(rows))
    boxes: list[np.ndarray] = [np.zeros((0, 4))]
    for columns, group in groupby([row.objects for row in rows], key=_columns_of):
        if columns is None:
            corners = [item.box for objects in group for item in objects]
            boxes.append(np.array(list(chain.from_iterable(corners)), np.float64).reshape(-1, 4))
        else:
            boxes += [columns.boxes[part] for part in _stretches(group)]
    return np.concatenate(boxes), counts


def _gathered(rows: list[ImageObjects]) -> tuple[np.ndarray, list[Any], list[Any], list[Any]]:
    """Boxes, float64 (n, 4), masks, labels and scores of all objects; rows whose objects lie in the same
    columns are taken together.
    """
    boxes: list[np.ndarray] = [np.zeros((0, 4))]
    masks: list[bytes | None] = []
    labels: list[int | None] = []
    scores: list[float | None] = []
    for columns, group in groupby([row.objects for row in rows], key=_columns_of):
        if columns is None:
            objects = list(chain.from_iterable(group))
            corners = [item.box for item in objects]
            if not set(map(len, corners)) <= {4}:
                raise ValueError("a box has four numbers")
            boxes.append(np.array(list(chain.from_iterable(corners)), np.float64).reshape(-1, 4))
            masks += [item.mask for item in objects]
            labels += [item.label for item in objects]
            scores += [item.score for item in objects]
            continue
        for part in _stretches(group):
            boxes.append(columns.boxes[part])
            masks += columns.masks[part] if columns.masks is not None else [None] * len(boxes[-1])
            labels += columns.labels[part].tolist()
            scores += [None] * len(boxes[-1])
    return np.concatenate(boxes), masks, labels, scores


def _columns_of(objects: Any) -> Columns | None:
    return objects.columns if isinstance(objects, ObjectSlice) else None


def _stretches(group: Iterable[Any]) -> Iterator[slice]:
    """The parts of columns that stretches of them cover, those that follow on each other as one."""
    start = stop = 0
    for objects in group:
        if objects.start != stop:
            yield slice(start, stop)
            start = objects.start
        stop = objects.stop
    yield slice(start, stop)


def _optional(values: list[Any], counts: np.ndarray, offsets: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    """A list of the objects' values for each row, null where none of a row's objects has one."""
    given = np.fromiter([value is not None for value in values], bool, len(values))
    some = np.concatenate([[0], np.cumsum(given)])
    null = some[offsets[1:]] == some[offsets[:-1]]
    if null.all():
        return pa.nulls(len(counts), pa.list_(kind))
    if not given.all():
        values = [value for value, kept in zip(values, np.repeat(~null, counts).tolist()) if kept]
        offsets = np.concatenate([[0], np.cumsum(np.where(null, 0, counts))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, kind), mask=pa.array(null))


class Block:
    """A batch of rows, read through views of its buffers: no Python object exists for a row until it is asked
    for.
    """

    def __init__(self, batch: pa.RecordBatch, path: str) -> None:
        """Raises `DataError` if a value that must be there is null, or an object has a mask or label but no
        box.
        """
        self._image, self._path = batch.column("image"), path
        self._width, self._height = (
            batch.column(name).to_numpy(zero_copy_only=False) for name in ("width", "height")
        )
        boxes = batch.column("boxes")
        self._box_at = boxes.offsets.to_numpy()
        inner = boxes.values
        flat = inner.values.slice(4 * inner.offset, 4 * len(inner))
        if any(
            a.null_count
            for a in (self._image, batch.column("width"), batch.column("height"), boxes, inner, flat)
        ):
            raise DataError(f"{path}: image, width, height and boxes must not be null")
        self._boxes = flat.to_numpy().reshape(-1, 4)
        self._masks, self._mask_at = self._optional(batch, "masks")
        self._labels, self._label_at = self._optional(batch, "labels")
        self._scores, self._score_at = self._optional(batch, "scores")

    def _optional(self, batch: pa.RecordBatch, name: str) -> tuple[pa.Array | None, np.ndarray]:
        column = batch.column(name)
        if column.null_count == len(column):
            return None, self._box_at
        offsets = column.offsets.to_numpy()
        wrong = column.is_valid().to_numpy(zero_copy_only=False) & (np.diff(offsets) != np.diff(self._box_at))
        if wrong.any():
            image = self._image[int(wrong.argmax())]
            raise DataError(f"{self._path}: image {image} has not as many {name} as boxes")
        return column.values, offsets

    def row(self, i: int) -> ImageObjects:
        start, stop = self._box_at[i], self._box_at[i + 1]
        boxes = self._boxes[start:stop].tolist()
        n = len(boxes)
        objects = tuple(
            Object(tuple(box), mask, label, score)
            for box, mask, label, score in zip(
                boxes,
                _slice(self._masks, self._mask_at, i, n),
                _slice(self._labels, self._label_at, i, n),
                _slice(self._scores, self._score_at, i, n),
            )
        )
        return ImageObjects(self._image[i].as_py(), int(self._width[i]), int(self._height[i]), objects)

    def image(self, i: int) -> str:
        name: str = self._image[i].as_py()
        return name


def _slice(values: pa.Array | None, offsets: np.ndarray, i: int, n: int) -> list[Any]:
    if values is None or n == 0 or offsets[i + 1] == offsets[i]:
        return [None] * n
    items: list[Any] = values.slice(offsets[i], n).to_pylist()
    return items


def read_schema(path: str | Path) -> pa.Schema:
    """The schema of a Parquet file.

    Raises:
        DataError: It is missing, not Parquet, or lacks columns of an object index.
    """
    try:
        verify_parquet(Path(path), rows=False)
        schema = pq.read_schema(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: is not a Parquet file that can be read ({str(error).splitlines()[0]})"
        ) from error
    missing = [name for name in SCHEMA.names if name not in schema.names]
    if missing:
        raise DataError(f"{path}: is not an object index: it has no column {', '.join(missing)}")
    return schema


def read_batches(files: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of Parquet files in order, in the index's types.

    Raises:
        DataError: A file cannot be read or is damaged, or a column has a type that does not fit.
    """
    for path in files:
        try:
            verify_parquet(Path(path))
            with pq.ParquetFile(path) as file:
                columns = [*SCHEMA.names, *columns_in(file.schema_arrow, path)]
                for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                    yield _conform(join_columns(batch, path), path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def _conform(batch: pa.RecordBatch, path: str) -> pa.RecordBatch:
    """The batch in the schema's types; other writers have wider lists and numbers for the same thing."""
    columns = []
    for field in SCHEMA:
        column = batch.column(field.name)
        try:
            columns.append(column if column.type.equals(field.type) else column.cast(field.type))
        except (pa.ArrowException, NotImplementedError) as error:
            raise DataError(f"{path}: column {field.name} is {column.type}, must be {field.type}") from error
    return pa.record_batch(columns, schema=SCHEMA)


def load_batches(files: list[str]) -> list[pa.RecordBatch]:
    """All rows of Parquet files: held in memory if they are small, else memory-mapped from a copy in the
    cache folder.
    """
    if sum(os.path.getsize(f) for f in files) < MAP_ABOVE:
        return [batch for batch in read_batches(files) if len(batch)]
    try:
        mapped = _mapped_copy(files)
    except DamagedError:
        raise
    except (OSError, DataError):  # no folder can be written, or none to the end: memory is what is left
        return [batch for batch in read_batches(files) if len(batch)]
    try:
        return _read_copy(mapped)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = str(error).splitlines()[0]
        warnings.warn(f"{mapped}: the copy of an index is damaged ({why}); it is made anew", OdisWarning, 2)
        mapped.unlink(missing_ok=True)
    return _read_copy(_mapped_copy(files))


def _read_copy(path: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    if not reader.schema.equals(SCHEMA):
        raise pa.ArrowInvalid("it has other columns")
    return [batch for i in range(reader.num_record_batches) if len(batch := reader.get_batch(i))]


def _mapped_copy(files: list[str]) -> Path:
    """The Arrow copy of `files`, made if there is none of their present state; copies of an earlier state are
    removed.
    """
    folder = _cache_folder()
    name = hashlib.sha256("\n".join(os.path.abspath(f) for f in files).encode()).hexdigest()[:16]
    states = [(s.st_size, s.st_mtime_ns) for s in map(os.stat, files)]
    target = folder / f"{name}-{hashlib.sha256(repr(states).encode()).hexdigest()[:16]}.arrow"
    if not target.exists():
        earlier = list(folder.glob(f"{name}-*.arrow"))
        with (
            written_whole(target) as beside,
            pa.OSFile(str(beside), "wb") as sink,
            pa.ipc.new_file(sink, SCHEMA) as writer,
        ):
            for batch in read_batches(files):
                writer.write_batch(batch)
        for copy in earlier:
            copy.unlink(missing_ok=True)
    return target


def _cache_folder() -> Path:
    candidates = [
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"),
        Path(tempfile.gettempdir()),
    ]
    for base in candidates:
        folder = base / "odis" / "index"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise OSError("no cache folder can be written")
