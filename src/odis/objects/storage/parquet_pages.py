"""Where the values of a Parquet column lie in its file.

Without compression a value is a range of bytes of the file; with it, one of what its page unpacks to. Each is
looked for with the value in hand, so what is found is it, whatever the encoding: plain, a dictionary, or
lengths first.

Page headers are those of the Parquet format (`PageHeader` in parquet.thrift), in Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from odis.config.wording import counted
from odis.objects.storage.address import MOST_PAGE, Page

_CODECS = {"SNAPPY": "snappy", "GZIP": "gzip", "BROTLI": "brotli", "ZSTD": "zstd", "LZ4": "lz4_raw"}
"""Compressions of Parquet, as pyarrow names them where it unpacks a page alone."""

_DEEPEST = 16  # structs and lists in each other of a page header


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value lies in its file: `length` bytes from `offset` on, or within the page that they are."""

    offset: int
    length: int
    page: Page | None = None


@dataclass(slots=True)
class _PageContent:
    """What a page unpacks to."""

    offset: int  # in the file, of the page's values
    length: int
    codec: str | None  # None if they are stored as they are
    data: bytes


def spans_of(path: Path, chunk: Any, values: Sequence[bytes | None]) -> list[Span | None]:
    """The places of the values of a column chunk; None for one that is missing, empty, or not in one piece.

    Args:
        path: The file.
        chunk: Its `pyarrow.parquet.ColumnChunkMetaData`.
        values: All values of the chunk, in their order.

    Raises:
        ValueError: A page header cannot be read, or the compression is none that is known.
    """
    if not any(values):
        return [None] * len(values)
    codec = chunk.compression
    if codec != "UNCOMPRESSED" and codec not in _CODECS:
        raise ValueError(f"images are compressed by {codec}; {', '.join(sorted(_CODECS))} can be read")
    start = chunk.data_page_offset
    if chunk.dictionary_page_offset:
        start = min(start, chunk.dictionary_page_offset)
    with path.open("rb") as file:
        file.seek(start)
        raw = file.read(chunk.total_compressed_size)
    pages = list(_pages(raw, start, _CODECS.get(codec)))
    found: dict[bytes, Span | None] = {}
    place = [0, 0]  # page, and position in it
    spans: list[Span | None] = []
    for value in values:
        if value and value not in found:
            found[value] = _find(value, pages, place)
        spans.append(found[value] if value else None)
    return spans


def _find(value: bytes, pages: list[_PageContent], place: list[int]) -> Span | None:
    """Look from the last value on, then from the beginning; `place` moves behind what is found."""
    for number in [*range(place[0], len(pages)), *range(place[0] + 1)]:
        page = pages[number]
        at = page.data.find(value, place[1] if number == place[0] else 0)
        if at < 0 and number == place[0]:
            at = page.data.find(value)
        if at >= 0:
            place[:] = [number, at + len(value)]
            if page.codec is None:
                return Span(page.offset + at, len(value))
            within = Page(page.codec, len(page.data), at, len(value))
            return Span(page.offset, page.length, within)
    return None


def _pages(raw: bytes, start: int, codec: str | None) -> Iterator[_PageContent]:
    """The pages of a chunk that begins at `start` of its file."""
    at = 0
    while at < len(raw):
        where = f"{start + at:,}"
        header, at = _struct(raw, at)
        size, length = header.get(2), header.get(3)
        if not (isinstance(size, int) and isinstance(length, int) and 0 <= length <= len(raw) - at):
            raise ValueError(f"no page header at {where}")
        if size > MOST_PAGE:
            raise ValueError(f"a page says that it unpacks to {counted(size, 'byte')}")
        levels, packed = 0, codec is not None
        if isinstance(second := header.get(8), dict):  # of a page of version 2, levels are never compressed
            for part in (second.get(5, 0), second.get(6, 0)):
                levels += part if isinstance(part, int) and 0 <= part <= length else MOST_PAGE
            packed = packed and second.get(7) is not False
        first, last = at + levels, at + length
        if first > last or levels > size:
            raise ValueError(f"no page header at {where}")
        data = raw[first:last]
        if packed and codec is not None and data:
            data = bytes(pa.Codec(codec).decompress(data, size - levels))
        yield _PageContent(start + first, last - first, codec if packed else None, data)
        at = last


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol by the numbers of its fields, and where it ends."""
    found: dict[int, Any] = {}
    number = 0
    while True:
        head = _byte(data, at)
        at += 1
        if not head:
            return found, at
        if head >> 4:
            number += head >> 4
        else:
            number, at = _zigzag(data, at)
        found[number], at = _value(data, at, head & 15, depth)


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise ValueError("a page header is too deep")
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return _byte(data, at), at + 1
    if kind in (4, 5, 6):
        return _zigzag(data, at)
    if kind == 7:
        _byte(data, at + 7)
        return None, at + 8
    if kind == 8:
        length, at = _varint(data, at)
        if length > len(data) - at:
            raise ValueError("a page header is cut off")
        return None, at + length  # a text or bytes, of which nothing is needed
    if kind in (9, 10):
        head = _byte(data, at)
        count, at = _varint(data, at + 1) if head >> 4 == 15 else (head >> 4, at + 1)
        for _ in range(count):  # each takes a byte at least, so the end of the data stops it
            # A boolean in a list takes a byte, in a struct none.
            _, at = _value(data, at, 3 if head & 15 in (1, 2) else head & 15, depth + 1)
        return None, at
    if kind == 12:
        return _struct(data, at, depth + 1)
    raise ValueError(f"a page header has a field of type {kind}")


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        one = _byte(data, at)
        at += 1
        value |= (one & 127) << shift
        if one < 128:
            return value, at
    raise ValueError("a page header has a number that is too long")


def _byte(data: bytes, at: int) -> int:
    if at >= len(data):
        raise ValueError("a page header is cut off")
    return data[at]
