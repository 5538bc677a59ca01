"""Parquet and Arrow files that hold images, a group of rows at a time, with the places where the bytes lie:
so the images are read in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from odis.errors import DataError
from odis.objects.storage.parquet_pages import Span, spans_of

_BYTES_ALONE = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes")
"""Names of columns of plain bytes that are taken for images."""

_ERRORS = (pa.ArrowException, OSError, ValueError, LookupError, MemoryError)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A cell of a column of images."""

    content: bytes | None
    path: str | None  # what it was called; where it is, if its bytes are not here
    span: Span | None  # None without content, or if that is not in one piece


def image_columns(schema: pa.Schema) -> list[str]:
    """The columns that hold images: structs of `bytes` and `path`, or bytes that are called as images are."""
    found = []
    for field in schema:
        kind = field.type
        names = {kind.field(k).name for k in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
        alone = _is_binary(kind) and field.name.lower() in _BYTES_ALONE
        if alone or (names == {"bytes", "path"} and _is_binary(kind.field("bytes").type)):
            found.append(field.name)
    return found


def open_table(path: Path) -> ImageTable:
    """Open a file by its ending.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return _ParquetTable(path) if path.suffix.lower() == ".parquet" else _ArrowTable(path)
    except _ERRORS as error:
        raise _unreadable(path, error) from error


class ImageTable:
    """A file whose rows come in groups.

    Args:
        path: The file.
        schema: Its columns.
        groups: Rows of each group.
    """

    def __init__(self, path: Path, schema: pa.Schema, groups: list[int]) -> None:
        self.path, self.schema, self.groups = path, schema, groups

    def rows(self, group: int, names: Sequence[str]) -> list[dict[str, Any]]:
        """The cells of some columns, which are not images.

        Raises:
            DataError: They cannot be read.
        """
        if not names:
            return [{} for _ in range(self.groups[group])]
        try:
            rows: list[dict[str, Any]] = self._table(group, list(names)).to_pylist()
        except _ERRORS as error:
            raise _unreadable(self.path, error) from error
        return rows

    def images(self, group: int, column: str) -> list[StoredImage]:
        """The cells of a column of images.

        Raises:
            DataError: They cannot be read.
        """
        try:
            chunks = self._table(group, [column]).column(column).chunks
            contents = [_contents(chunk) for chunk in chunks]
            values = [value for part in contents for value in part.to_pylist()]
            paths = [path for chunk in chunks for path in _paths(chunk)]
            spans = self._spans(group, column, contents, values)
        except _ERRORS as error:
            raise _unreadable(self.path, error) from error
        return [StoredImage(*cell) for cell in zip(values, paths, spans)]

    def _table(self, group: int, names: list[str]) -> pa.Table:
        raise NotImplementedError

    def _spans(
        self, group: int, column: str, contents: list[pa.Array], values: list[bytes | None]
    ) -> list[Span | None]:
        raise NotImplementedError


class _ParquetTable(ImageTable):
    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        meta = self._file.metadata
        groups = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
        super().__init__(path, self._file.schema_arrow, groups)

    def _table(self, group: int, names: list[str]) -> pa.Table:
        return self._file.read_row_group(group, columns=names).select(names)

    def _spans(
        self, group: int, column: str, contents: list[pa.Array], values: list[bytes | None]
    ) -> list[Span | None]:
        meta = self._file.metadata.row_group(group)
        leaf = column if _is_binary(self.schema.field(column).type) else f"{column}.bytes"
        chunks = [c for c in map(meta.column, range(meta.num_columns)) if c.path_in_schema == leaf]
        return spans_of(self.path, chunks[0], values)


class _ArrowTable(ImageTable):
    """Of either of Arrow's formats, a stream (which Hugging Face's `datasets` writes) or a file."""

    def __init__(self, path: Path) -> None:
        self._memory = pa.memory_map(str(path)).read_buffer()
        if bytes(self._memory[:6]) == b"ARROW1":
            file = pa.ipc.open_file(self._memory)
            self._batches = [file.get_batch(k) for k in range(file.num_record_batches)]
            schema = file.schema
        else:
            stream = pa.ipc.open_stream(self._memory)
            self._batches, schema = list(stream), stream.schema
        super().__init__(path, schema, [len(batch) for batch in self._batches])

    def _table(self, group: int, names: list[str]) -> pa.Table:
        return pa.Table.from_batches([self._batches[group]]).select(names)

    def _spans(
        self, group: int, column: str, contents: list[pa.Array], values: list[bytes | None]
    ) -> list[Span | None]:
        return [span for part in contents for span in self._of_array(part)]

    def _of_array(self, part: pa.Array) -> Iterator[Span | None]:
        """A buffer without compression is a part of the file that is mapped into memory."""
        _, offsets, data = part.buffers()
        start = 0 if data is None else data.address - self._memory.address
        kind = "<i8" if pa.types.is_large_binary(part.type) else "<i4"
        places = memoryview(offsets).cast("B") if offsets is not None else memoryview(b"")
        width = int(kind[2])
        for k in range(part.offset, part.offset + len(part)):
            first, last = (int.from_bytes(places[width * i : width * (i + 1)], "little") for i in (k, k + 1))
            inside = data is not None and 0 <= start + first < start + last <= self._memory.size
            yield Span(start + first, last - first) if inside and part[k - part.offset].is_valid else None


def _contents(cells: pa.Array) -> pa.Array:
    return cells if _is_binary(cells.type) else pc.struct_field(cells, "bytes")


def _paths(cells: pa.Array) -> list[str | None]:
    if _is_binary(cells.type):
        return [None] * len(cells)
    paths: list[str | None] = pc.struct_field(cells, "path").cast(pa.string()).to_pylist()
    return paths


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _unreadable(path: Path, error: BaseException) -> DataError:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{path}: cannot be read ({why})")
