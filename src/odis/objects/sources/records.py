"""Tables as records, one after the other: CSV of any common delimiter, Parquet, and JSON lines."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.sources.text import decode, short

ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")

_DELIMITERS = ",;\t|"

_HEAD = 2**16  # bytes that show the encoding and the delimiter

Refuse = Any
"""Called with the number of a line and why it cannot be read."""


@dataclass(frozen=True, slots=True)
class Records:
    """The columns of a table, and its rows behind their numbers: those of lines of a text from 1 (the
    header's), of rows of a Parquet file from 1. Of JSON lines the columns are those of the first.
    """

    columns: list[str]
    rows: Iterator[tuple[int, dict[str, Any]]]


def read_records(path: Path, refuse: Refuse) -> Records:
    """Open a table.

    Args:
        path: Its name says what it is.
        refuse: Called with each line that is no row, by its number, and why.

    Raises:
        DataError: It cannot be read, is of another kind, or is empty. So may the rows, when they are asked
            for.
    """
    suffix = path.suffix.lower()
    if suffix not in ENDINGS:
        raise DataError(f"{path}: is of another kind; a table is one of {', '.join(ENDINGS)}")
    try:
        if not os.path.getsize(path):
            raise DataError(f"{path}: is empty")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if suffix == ".parquet":
        return _parquet(path)
    rows = _json_lines(path, refuse) if suffix == ".jsonl" else None
    if rows is None:
        return _csv(path, refuse)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: has no line that is a JSON object")
    return Records(list(first[1]), chain([first], rows))


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty: nothing, blank, or NaN, as pandas writes what is missing."""
    if isinstance(value, str):
        return not value.strip() or value.strip().lower() in ("nan", "none", "null")
    return value is None or (isinstance(value, float) and math.isnan(value))


def _parquet(path: Path) -> Records:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        columns = file.schema_arrow.names
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: is no Parquet file that can be read ({_line(error)})") from error

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        try:
            for batch in file.iter_batches(8192):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read behind row {number} ({_line(error)})") from error

    if len(set(columns)) < len(columns):
        raise DataError(f"{path}: has two columns of one name")
    return Records(columns, rows())


def _json_lines(path: Path, refuse: Refuse) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            refuse(number, f"is not JSON that can be read ({error})")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            refuse(number, f"is {short(row)}, must be a JSON object")


def _csv(path: Path, refuse: Refuse) -> Records:
    lines = _lines(path)
    first = next(lines, (1, ""))[1]
    delimiter = max(_DELIMITERS, key=first.count) if path.suffix.lower() == ".csv" else "\t"
    columns = [name.strip() for name in next(_rows(iter([first]), delimiter), [])]
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise DataError(f"{path}: has two columns called {short(twice)}")

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        at = 1

        def numbered() -> Iterator[str]:
            nonlocal at
            for number, line in lines:
                at = number
                yield line

        found = _rows(numbered(), delimiter)
        while True:
            try:
                values = next(found, None)
            except csv.Error as error:
                refuse(at, f"is not CSV ({error})")
                continue
            if values is None:
                return
            if not values:
                continue
            if len(values) != len(columns):
                refuse(
                    at,
                    f"has {counted(len(values), 'column')}, must have the {len(columns)} of the first line",
                )
            else:
                yield at, dict(zip(columns, values))

    return Records(columns, rows())


def _rows(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text behind their numbers, in whichever encoding its beginning shows."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        encoding = decode(head[: len(head) // 2 * 2]).encoding if len(head) < _HEAD else _of_head(head)
        with path.open(encoding=encoding, newline="") as text:
            for number, line in enumerate(text, start=1):
                yield number, line.removeprefix("\ufeff") if number == 1 else line
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeError as error:
        raise DataError(
            f"{path}: is not {encoding} ({getattr(error, 'reason', error)}); save it as UTF-8"
        ) from error


def _of_head(head: bytes) -> str:
    """The encoding of a text by its first bytes, which may end within a character."""
    return decode(head[: head.rfind(b"\n") + 1] or head).encoding


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
