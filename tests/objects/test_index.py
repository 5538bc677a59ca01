import json
import os
import pickle
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from odis import __version__
from odis.errors import DataError, OdisWarning
from odis.objects import table
from odis.objects.index import ObjectIndex, made_with, write_index
from odis.types import ImageObjects, Object

floats = st.floats(width=32, allow_nan=False)
boxes = st.tuples(floats, floats, floats, floats)
labels = st.none() | st.integers(-(2**31), 2**31 - 1)
objects = st.builds(Object, boxes, st.none() | st.binary(max_size=20), labels, st.none() | floats)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: "\0" not in name)
rows = st.builds(
    ImageObjects,
    names,
    st.integers(1, 2**31 - 1),
    st.integers(1, 2**31 - 1),
    st.lists(objects, max_size=5).map(tuple),
)

ROW = ImageObjects(
    "a/1.png", 8, 6, (Object((0.0, 1.0, 2.5, 3.0), b"abc", 1, 0.5), Object((4.0, 4.0, 5.0, 5.0)))
)
BARE = ImageObjects("a/2.png", 8, 6)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(path: Path, content: list[ImageObjects], **changes) -> Path:
    write_index(
        path,
        content,
        **{"root": path.parent, "provenance": "annotated", "classes": ["cat", "dog"], **changes},
    )
    return path


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(rows, max_size=12), st.booleans(), st.integers(1, 5))
def test_rows_come_back_as_they_were_written(
    tmp_path: Path, content: list[ImageObjects], mapped: bool, size: int
) -> None:
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # files and batches of every size, in memory and memory-mapped
        patch.setattr("odis.objects.index._ROW_GROUP", size)
        patch.setattr(table, "_BATCH_ROWS", 4)
        patch.setattr(table, "MAP_ABOVE", 0 if mapped else 2**40)
        index = ObjectIndex.open(write(tmp_path / "i.parquet", content))
        assert list(index) == content
        assert list(pickle.loads(pickle.dumps(index))) == content


def test_the_schema_is_the_documented_one(tmp_path: Path) -> None:
    schema = pq.read_schema(write(tmp_path / "i.parquet", [ROW], classes=["Katze", "Käfer"]))
    assert {field.name: str(field.type).replace("item", "element") for field in schema} == {
        "image": "string",
        "width": "int32",
        "height": "int32",
        "boxes": "list<element: fixed_size_list<element: float>[4]>",
        "masks": "list<element: binary>",
        "labels": "list<element: int32>",
        "scores": "list<element: float>",
    }
    metadata = {k.decode(): v.decode() for k, v in schema.metadata.items()}
    assert json.loads(metadata["classes"]) == ["Katze", "Käfer"]
    assert (metadata["root"], metadata["provenance"], metadata["odis_version"]) == (
        str(tmp_path),
        "annotated",
        __version__,
    )


def test_rows_by_position(tmp_path: Path) -> None:
    index = ObjectIndex.open(write(tmp_path / "i.parquet", [ROW, BARE]))
    assert (len(index), index[0], index[-1], index[np.int64(1)]) == (2, ROW, BARE, BARE)
    assert index.image_path(1) == str(tmp_path / "a/2.png")
    assert (index.provenance, index.classes, index.is_folder) == ("annotated", ["cat", "dog"], False)
    for i in (2, -3):
        with pytest.raises(IndexError):
            index[i]


def test_paths_that_are_whole_stay_whole(tmp_path: Path) -> None:
    content = [ImageObjects("/data/1.png", 1, 1), ImageObjects("s3://bucket/1.png", 1, 1)]
    index = ObjectIndex.open(write(tmp_path / "i.parquet", content))
    assert [index.image_path(i) for i in range(2)] == ["/data/1.png", "s3://bucket/1.png"]


def test_a_row_is_read_fast_and_pickled_small(tmp_path: Path) -> None:
    item = Object((1.0, 2.0, 3.0, 4.0), b"x" * 50, 1)
    index = ObjectIndex.open(
        write(tmp_path / "i.parquet", [ImageObjects(f"{i:06d}.png", 8, 6, (item,) * 4) for i in range(5000)])
    )
    assert len(pickle.dumps(index)) < 10_000
    order = np.random.default_rng(0).permutation(5000).tolist()
    index[0]
    start = time.process_time()
    for i in order:
        index[i]
    assert (time.process_time() - start) / 5000 < 100e-6  # about 12 us on an idle core


def test_a_large_index_is_mapped_from_one_copy_that_follows_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MAP_ABOVE", 0)
    path = write(tmp_path / "i.parquet", [ROW] * 20_000)
    copies = tmp_path / "cache" / "odis" / "index"
    before = pa.total_allocated_bytes()
    index = ObjectIndex.open(path)
    assert index[19_999] == ROW
    assert pa.total_allocated_bytes() - before < 100_000
    (first,) = copies.iterdir()
    assert ObjectIndex.open(path)[0] == ROW
    assert list(copies.iterdir()) == [first]
    write(path, [BARE])
    assert list(ObjectIndex.open(path)) == [BARE]
    (second,) = copies.iterdir()
    assert second != first
    assert index[5] == ROW  # an index that is open keeps what it opened


def test_without_a_cache_folder_rows_are_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MAP_ABOVE", 0)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(table.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    assert list(ObjectIndex.open(write(tmp_path / "i.parquet", [ROW]))) == [ROW]


def test_a_copy_that_fills_the_disk_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "i.parquet", [ROW] * 5000)
    monkeypatch.setattr(table, "MAP_ABOVE", 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # writing fails half-way, as on a full disk
    try:
        assert list(ObjectIndex.open(path)) == [ROW] * 5000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cache" / "odis" / "index").iterdir()) == []


def test_a_folder_of_parquet_files_is_one_index(tmp_path: Path) -> None:
    for name, content in (("part=1/b", [BARE]), ("part=0/a", [ROW, BARE]), ("part=2/c", [])):
        write(tmp_path / "index" / f"{name}.parquet", content, root=tmp_path)
    index = ObjectIndex.open(tmp_path / "index")
    assert list(index) == [ROW, BARE, BARE]
    assert index.image_path(2) == str(tmp_path / "a/2.png")
    write(tmp_path / "index/d.parquet", [ROW], root=tmp_path, provenance="detected:x")
    with pytest.raises(DataError, match="provenance differs"):
        ObjectIndex.open(tmp_path / "index")


def test_failing_rows_leave_the_old_index_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "i.parquet", [ROW])

    def failing():
        yield BARE
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, failing())
    assert list(ObjectIndex.open(path)) == [ROW]
    assert os.listdir(tmp_path) == ["i.parquet"]


def test_an_index_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "file" / "i.parquet", [ROW])


def test_images_are_found_where_they_were_moved_with_the_index(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "images").mkdir(parents=True)
    path = write(old / "indices" / "i.parquet", [ROW], root=old / "images")
    assert ObjectIndex.open(path).root == old / "images"
    old.rename(new)
    assert ObjectIndex.open(new / "indices" / "i.parquet").root == new / "images"
    assert ObjectIndex.open(new / "indices" / "i.parquet", root=tmp_path).root == tmp_path
    (new / "images").rmdir()
    with pytest.raises(DataError, match="no folder; give the folder they are in with --root"):
        ObjectIndex.open(new / "indices" / "i.parquet")


def parquet(path: Path, columns: dict, metadata: dict | None = None) -> Path:
    good = {"root": str(path.parent), "provenance": "annotated", "classes": "[]"}
    pq.write_table(pa.table(columns).replace_schema_metadata(good if metadata is None else metadata), path)
    return path


GOOD = {
    "image": ["1.png", "2.png"], "width": [8, 8], "height": [6, 6], "boxes": [[[0.0, 1.0, 2.0, 3.0]], []],
    "masks": [None, None], "labels": [[1], []], "scores": [None, []],
}  # fmt: skip


def test_an_index_of_another_writer_is_read(tmp_path: Path) -> None:
    index = ObjectIndex.open(parquet(tmp_path / "i.parquet", GOOD))  # int64, double, plain lists
    assert list(index) == [
        ImageObjects("1.png", 8, 6, (Object((0, 1, 2, 3), label=1),)),
        ImageObjects("2.png", 8, 6),
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"boxes": [[[0.0, 1.0, 2.0]], []]}, "column boxes is .*, must be list<"),
        ({"width": ["wide", "wide"]}, "column width is string, must be int32"),
        ({"labels": [["cat"], []]}, "column labels is"),
        ({"labels": [[1, 2], []]}, "image 1.png has not as many labels as boxes"),
        ({"labels": [[1], [1]]}, "image 2.png has not as many labels as boxes"),
        ({"scores": [[], []]}, "image 1.png has not as many scores as boxes"),
        ({"width": [8, None]}, "must not be null"),
        ({"boxes": [[[0.0, 1.0, 2.0, None]], []]}, "must not be null"),
        ({"boxes": [[[0.0, 1.0, 2.0, 3.0]], None]}, "must not be null"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, change: dict, text: str) -> None:
    path = parquet(tmp_path / "i.parquet", GOOD | change)
    with pytest.raises(DataError, match=text) as error:
        list(ObjectIndex.open(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_parquet_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    good = {"root": str(tmp_path), "provenance": "annotated", "classes": "[]"}
    with pytest.raises(DataError, match="not an object index: it has no column width, boxes"):
        ObjectIndex.open(
            parquet(tmp_path / "i.parquet", {k: v for k, v in GOOD.items() if k not in ("width", "boxes")})
        )
    for key in good:
        with pytest.raises(DataError, match=f"its schema metadata has no {key}"):
            ObjectIndex.open(
                parquet(tmp_path / "i.parquet", GOOD, {k: v for k, v in good.items() if k != key})
            )
    for classes in ("{}", "[1]", "no JSON"):
        with pytest.raises(DataError, match="classes are not a JSON list"):
            ObjectIndex.open(parquet(tmp_path / "i.parquet", GOOD, good | {"classes": classes}))


def test_files_that_are_no_index_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("not Parquet")
    with pytest.raises(DataError, match=r"text\.parquet: is not a Parquet file"):
        ObjectIndex.open(tmp_path / "text.parquet")
    with pytest.raises(DataError, match="no such file or folder"):
        ObjectIndex.open(tmp_path / "missing.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image and no object index"):
        ObjectIndex.open(tmp_path / "empty")


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "i.parquet", [ROW] * 1000)
    content = bytearray(path.read_bytes())
    content[4:80] = bytes(76)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"i\.parquet: is damaged"):
        len(ObjectIndex.open(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size in (("cat/2.png", (8, 6)), ("cat/1.png", (5, 7)), ("dog/3.png", (4, 4))):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(tmp_path / "images" / name)
    return tmp_path / "images"


def test_a_folder_of_images_needs_no_index(folder: Path) -> None:
    index = ObjectIndex.open(folder)
    expected = [
        ImageObjects("cat/1.png", 5, 7, (Object((0, 0, 5, 7), label=0),)),
        ImageObjects("cat/2.png", 8, 6, (Object((0, 0, 8, 6), label=0),)),
        ImageObjects("dog/3.png", 4, 4, (Object((0, 0, 4, 4), label=1),)),
    ]
    assert list(index) == list(pickle.loads(pickle.dumps(index))) == expected
    assert (index.provenance, index.classes, index.root, index.is_folder) == (
        "whole-image",
        ["cat", "dog"],
        folder,
        True,
    )
    assert index.image_path(-1) == str(folder / "dog/3.png")


def test_a_broken_image_of_a_folder_fails_when_its_row_is_asked_for(folder: Path) -> None:
    (folder / "cat/0.jpg").touch()
    index = ObjectIndex.open(folder)
    assert index[1].image == "cat/1.png"
    with pytest.raises(DataError, match=r"cat/0\.jpg: is empty"):
        index[0]
    with pytest.raises(DataError, match=r"cat/0\.jpg: is empty"):
        ObjectIndex.open(folder, strict=True)


def test_images_and_indices_in_one_folder_are_ambiguous(folder: Path) -> None:
    path = write(folder / "i.parquet", [ROW])
    with pytest.raises(DataError, match="holds images and Parquet files; name the index"):
        ObjectIndex.open(folder)
    assert list(ObjectIndex.open(path)) == [ROW]
    with pytest.raises(DataError, match=r"a/1\.png: no such file"):
        ObjectIndex.open(path, strict=True)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "of another time"])
def test_a_damaged_copy_of_a_large_index_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(table, "MAP_ABOVE", 0)
    path = write(tmp_path / "i.parquet", [ROW] * 3000)
    assert ObjectIndex.open(path)[0] == ROW
    (copy,) = (tmp_path / "cache" / "odis" / "index").iterdir()
    if damage == "of another time":
        schema = pa.schema([pa.field("image", pa.string())])
        with pa.ipc.new_file(str(copy), schema) as file:
            file.write_batch(pa.record_batch([["a.jpg"]], schema=schema))
    else:
        whole = copy.read_bytes()
        copy.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"nothing"}[damage])
    with pytest.warns(OdisWarning, match="the copy of an index is damaged .*; it is made anew"):
        assert list(ObjectIndex.open(path)) == [ROW] * 3000
    assert list(ObjectIndex.open(path)) == [ROW] * 3000


def test_metadata_that_is_no_settings_is_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "i.parquet", [ROW])
    for text in (b"[1]", b"{", b"[" * 10**5, b"3"):
        whole = pq.read_table(path)
        metadata = {**whole.schema.metadata, b"made_with": text}
        pq.write_table(whole.replace_schema_metadata(metadata), tmp_path / "other.parquet")
        assert made_with(tmp_path / "other.parquet") is None


@given(st.lists(rows, max_size=6))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_labelled_objects_are_those_of_the_rows(tmp_path: Path, written: list[ImageObjects]) -> None:
    write_index(tmp_path / "i.parquet", written, root=tmp_path, provenance="annotated", classes=[])
    index = ObjectIndex.open(tmp_path / "i.parquet")
    found = list(zip(*(column.tolist() for column in index.labelled())))
    assert found == [(k, o.label) for k, row in enumerate(index) for o in row.objects if o.label is not None]
