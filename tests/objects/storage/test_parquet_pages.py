"""Headers of Parquet pages that are broken: the bytes that are found are the value, or one line is said."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from odis.objects.storage.address import MOST_PAGE
from odis.objects.storage.parquet_pages import spans_of

VALUE = b"abcdefgh" * 20


def varint(value: int) -> bytes:
    """A number as Thrift's compact protocol has it, zigzag first."""
    value, found = (value << 1) ^ (value >> 80), bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def header(size: int, length: int, *more: bytes) -> bytes:
    """type 3 (a data page of version 2), its size unpacked and as it is stored, and further fields."""
    return b"\x15\x06\x15" + varint(size) + b"\x15" + varint(length) + b"".join(more) + b"\0"


def found_in(path: Path, raw: bytes, codec: str) -> str:
    """What is said of a chunk that is these bytes; empty if its values were found."""
    path.write_bytes(raw)
    chunk: Any = SimpleNamespace(
        compression=codec, data_page_offset=0, dictionary_page_offset=None, total_compressed_size=len(raw)
    )
    try:
        (span,) = spans_of(path, chunk, [VALUE])
    except (ValueError, OSError, pa.ArrowException) as error:
        return str(error).splitlines()[0]
    if span is not None:
        stored = raw[span.offset : span.offset + span.length]
        if span.page is not None:
            whole = pa.Codec(span.page.codec).decompress(stored, span.page.size).to_pybytes()
            stored = whole[span.page.start : span.page.start + span.page.length]
        assert stored == VALUE
    return ""


def packed(codec: str) -> bytes:
    return VALUE if codec == "UNCOMPRESSED" else pa.compress(VALUE, codec.lower(), asbytes=True)


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (header(MOST_PAGE + 1, 10), "says that it unpacks to"),
        (header(2**62, 10), "says that it unpacks to"),
        (header(-1, 10), "no page header at 0"),
        (header(9, 10, b"\x19" * 3000), "too deep"),
        (header(9, 10, b"\x19" + b"\x19" * 3000), "too deep"),
        (header(9, 10, b"\x5c\x5b\0\0"), "has a field of type 11"),
        (header(9, 10, b"\x5c\x58\x00\x00"), "no page header at 0"),  # a text for the length of levels
        (header(9, 10, b"\x5c\x55\x03\x00"), "no page header at 0"),  # a negative one
        (header(9, 10, b"\x5c\x55\x16\x00"), "no page header at 0"),  # longer than the page unpacks to
        (header(9, 10, b"\x59\xf7" + b"\xff\xff\xff\x7f"), "is cut off"),  # doubles beyond the end
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_is_one_line(tmp_path: Path, head: bytes, why: str) -> None:
    assert why in found_in(tmp_path / "a", head + packed("SNAPPY"), "SNAPPY")


@settings(max_examples=150)
@given(
    st.sampled_from(["UNCOMPRESSED", "SNAPPY", "ZSTD"]),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), max_size=3),
    st.binary(max_size=12),
    st.integers(0, 40),
)
@example("SNAPPY", [], b"", 0)
def test_a_mutated_header_gives_the_value_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, codec: str, changes: list[tuple[int, int]], more: bytes, at: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    table = pa.table({"image": pa.array([VALUE])})
    pq.write_table(
        table, folder / "whole", compression=codec if codec != "UNCOMPRESSED" else "none",
        use_dictionary=False, data_page_version="2.0",
    )  # fmt: skip
    meta = pq.ParquetFile(folder / "whole").metadata.row_group(0).column(0)
    start = meta.data_page_offset
    raw = bytearray((folder / "whole").read_bytes()[start : start + meta.total_compressed_size])
    for place, value in changes:
        raw[place] = value
    raw[at:at] = more
    said = found_in(folder / "mutated", bytes(raw), codec)
    if not changes and not more:
        assert said == ""
