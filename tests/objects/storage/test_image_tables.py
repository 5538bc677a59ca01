"""Where bytes lie in Parquet and Arrow files: what is at the place is the image, however it was written."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.errors import DataError
from odis.objects.storage.address import Member
from odis.objects.storage.image_tables import image_columns, open_table
from odis.objects.storage.reading import read_bytes

contents = st.lists(
    st.one_of(st.none(), st.binary(max_size=40), st.sampled_from([b"a" * 3000, b"ab"])), max_size=12
)


def read_back(path: Path, column: str = "image") -> list[bytes | None]:
    """The bytes at the places that the file's table gives; None where there is none."""
    table, found = open_table(path), []
    for group in range(len(table.groups)):
        for one in table.images(group, column):
            at = one.span
            member = None if at is None else Member(str(path), at.offset, at.length, "x", at.page)
            found.append(None if member is None else read_bytes(member.address))
            assert found[-1] == (one.content or None)
    return found


def table_of(values: list[bytes | None], alone: bool = False, large: bool = False) -> pa.Table:
    kind = pa.large_binary() if large else pa.binary()
    if alone:
        return pa.table({"image": pa.array(values, kind)})
    cells = [None if v is None else {"bytes": v, "path": f"{k}"} for k, v in enumerate(values)]
    shape = pa.struct([("bytes", kind), ("path", pa.string())])
    return pa.table({"n": pa.array(range(len(values))), "image": pa.array(cells, shape)})


@settings(max_examples=50)
@given(
    contents,
    st.sampled_from(["none", "snappy", "zstd", "gzip", "brotli", "lz4"]),
    st.booleans(),
    st.sampled_from(["1.0", "2.0"]),
    st.sampled_from([64, 2**20]),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
def test_every_value_of_a_parquet_file_is_found(
    tmp_path_factory: pytest.TempPathFactory, values: list[bytes | None], compression: str, dictionary: bool,
    version: str, page: int, group: int, alone: bool, large: bool,
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("tables") / "0.parquet"
    pq.write_table(
        table_of(values, alone, large), path, row_group_size=group, compression=compression,
        use_dictionary=dictionary, data_page_version=version, data_page_size=page, write_batch_size=2,
    )  # fmt: skip
    assert read_back(path) == [value or None for value in values]


def test_lengths_in_front_of_the_values_are_no_hindrance(tmp_path: Path) -> None:
    values = [b"first", b"second", None, b"third" * 100]
    pq.write_table(
        table_of(values, alone=True), tmp_path / "0.parquet", use_dictionary=False,
        column_encoding={"image": "DELTA_LENGTH_BYTE_ARRAY"},
    )  # fmt: skip
    assert read_back(tmp_path / "0.parquet") == values


def test_a_value_in_several_pieces_has_no_place(tmp_path: Path) -> None:
    values = [b"a" * 50 + b"1", b"a" * 50 + b"2"]
    pq.write_table(
        table_of(values, alone=True), tmp_path / "0.parquet", use_dictionary=False,
        column_encoding={"image": "DELTA_BYTE_ARRAY"},
    )  # fmt: skip
    first, second = open_table(tmp_path / "0.parquet").images(0, "image")
    assert first.span is not None
    assert (second.span, second.content) == (None, values[1])


@settings(max_examples=30)
@given(contents, st.booleans(), st.integers(1, 5), st.booleans(), st.booleans())
def test_every_value_of_an_arrow_file_is_found(
    tmp_path_factory: pytest.TempPathFactory, values: list[bytes | None], stream: bool, group: int,
    alone: bool, large: bool,
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("tables") / "0.arrow"
    write_arrow(path, table_of(values, alone, large), stream, group)
    assert read_back(path) == [value or None for value in values]


def write_arrow(path: Path, table: pa.Table, stream: bool = True, group: int = 2, **options: Any) -> None:
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(str(path), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=group)


def test_a_compressed_arrow_file_gives_no_places(tmp_path: Path) -> None:
    write_arrow(tmp_path / "0.arrow", table_of([bytes(2000)]), compression="zstd")
    (one,) = open_table(tmp_path / "0.arrow").images(0, "image")
    assert (one.span, one.content) == (None, bytes(2000))


def test_columns_of_images_are_told_from_others() -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("a", image), ("b", pa.binary()), ("jpg", pa.binary()), ("c", pa.string())])
    assert image_columns(schema) == ["a", "jpg"]


@settings(max_examples=40)
@given(st.data())
def test_a_damaged_file_gives_its_values_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    path = folder / data.draw(st.sampled_from(["0.parquet", "0.arrow"]))
    table = table_of([b"abc" * 50, None, b"d" * 300])
    if path.suffix == ".arrow":
        write_arrow(path, table)
    else:
        pq.write_table(table, path)
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    said = ""
    try:
        read_back(path)
    except DataError as error:
        said = str(error)
    assert "\n" not in said


def test_a_page_that_is_not_what_the_address_says_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "0.parquet"
    pq.write_table(table_of([b"abc" * 500]), path)
    (one,) = open_table(path).images(0, "image")
    assert one.span is not None
    assert one.span.page is not None
    wrong = path.read_bytes()
    path.write_bytes(
        wrong[: one.span.offset] + bytes(one.span.length) + wrong[one.span.offset + one.span.length :]
    )
    with pytest.raises(DataError, match=r"0\.parquet.*its page cannot be unpacked \(snappy"):
        read_bytes(Member(str(path), one.span.offset, one.span.length, "x", one.span.page).address)
