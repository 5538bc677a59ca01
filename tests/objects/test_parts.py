"""An index in parts: whole at the end, resumable before, never taken for whole in between."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.errors import DataError
from odis.objects.index import ObjectIndex, made_with
from odis.objects.parts import Parts, is_made
from odis.types import ImageObjects, Object

SETTINGS = {"with": "something", "size": [1, 2]}


def row(i: int, objects: int = 1) -> ImageObjects:
    return ImageObjects(
        f"{i}.png",
        10,
        20,
        tuple(Object((0.0, 0.0, 1.0 + k, 2.0), label=0, score=0.5) for k in range(objects)),
    )


def write(parts: Parts, k: int, rows: list[ImageObjects], provenance: str = "detected:x@1") -> None:
    parts.write(k, rows, {"written": len(rows)}, provenance=provenance, classes=["a"])


def begin(out: Path, tmp_path: Path, **changes) -> Parts:
    return Parts(out, **{"root": tmp_path, "settings": SETTINGS, **changes})


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=8), order=st.randoms(), file=st.booleans())
def test_parts_written_in_any_order_make_the_index_in_theirs(counts, order, file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    out = folder / ("index.parquet" if file else "index")
    wanted, pieces = [], []
    for count in counts:
        pieces.append([row(len(wanted) + j, objects=j % 3) for j in range(count)])
        wanted += pieces[-1]
    parts = begin(out, folder)
    numbers = list(range(len(pieces)))
    order.shuffle(numbers)
    for k in numbers:
        write(parts, k, pieces[k])
        assert k in parts.done()
        assert parts.account(k) == {"written": len(pieces[k])}
    parts.finish(len(pieces))
    index = ObjectIndex.open(out, root=folder)
    assert list(index) == wanted
    assert (index.provenance, index.classes) == ("detected:x@1", ["a"])
    assert is_made(out, SETTINGS)
    assert [p.name for p in folder.iterdir()] == [out.name]


def test_another_process_goes_on_where_one_ended(tmp_path: Path):
    out = tmp_path / "index.parquet"
    write(begin(out, tmp_path), 0, [row(0)])
    (tmp_path / ".index.parquet.parts" / "000001.parquet.77.tmp").write_bytes(b"half a part")
    again = begin(out, tmp_path)
    assert again.done() == {0}
    assert not out.exists()
    write(again, 1, [row(1)])
    again.finish(2)
    assert list(ObjectIndex.open(out)) == [row(0), row(1)]


def test_parts_of_other_settings_are_not_continued(tmp_path: Path):
    begin(tmp_path / "index.parquet", tmp_path)
    with pytest.raises(DataError, match=r"other settings \(with: something -> other\)"):
        begin(tmp_path / "index.parquet", tmp_path, settings={**SETTINGS, "with": "other"})


def test_parts_of_other_weights_in_the_same_place_are_not_continued(tmp_path: Path):
    parts = begin(tmp_path / "index.parquet", tmp_path)
    write(parts, 0, [row(0)], provenance="detected:x@1")
    with pytest.raises(DataError, match="have provenance detected:x@1, now it is detected:x@2"):
        write(begin(tmp_path / "index.parquet", tmp_path), 1, [row(1)], provenance="detected:x@2")


def test_shards_make_one_index_that_is_refused_until_all_have_ended(tmp_path: Path):
    out = tmp_path / "index"
    for shard in (2, 1, 3):
        parts = begin(out, tmp_path, shard=(shard, 3))
        for k in filter(parts.owns, range(5)):
            write(parts, k, [row(k)])
        parts.finish(5)
        if shard != 3:
            with pytest.raises(DataError, match=r"the index is not whole: it lacks \d of its 5 parts"):
                ObjectIndex.open(out)
    assert list(ObjectIndex.open(out)) == [row(k) for k in range(5)]


def test_a_run_that_ended_while_it_moved_its_parts_goes_on(tmp_path: Path):
    out = tmp_path / "index"
    parts = begin(out, tmp_path)
    for k in range(3):
        write(parts, k, [row(k)])
    out.mkdir()
    os.replace(parts.folder / "000001.parquet", out / "000002-of-000003.parquet")
    again = begin(out, tmp_path)
    assert again.done() == {0, 1, 2}
    again.finish(3)
    assert list(ObjectIndex.open(out)) == [row(k) for k in range(3)]


def test_what_is_there_is_not_written_over(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds a\.txt, which is no part of this index"):
        begin(tmp_path / "photos", tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        begin(tmp_path / "file", tmp_path)
    (tmp_path / "x.parquet").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        begin(tmp_path / "x.parquet", tmp_path)
    with pytest.raises(DataError, match="shards need a folder"):
        begin(tmp_path / "y.parquet", tmp_path, shard=(1, 2))


def test_an_index_knows_what_it_was_made_with(tmp_path: Path):
    out = tmp_path / "index.parquet"
    assert not is_made(out, SETTINGS)
    parts = begin(out, tmp_path)
    write(parts, 0, [row(0)])
    parts.finish(1)
    assert made_with(out) == SETTINGS
    with pytest.raises(DataError, match="was not made with these settings"):
        is_made(out, {})


def test_an_index_of_before_the_new_spelling_was_made_with_the_same_settings(tmp_path: Path):
    out = tmp_path / "index.parquet"
    parts = Parts(out, root=tmp_path, settings={"find": "discover", "discover": {"grey": True, "tau": 0.2}})
    write(parts, 0, [row(0)])
    parts.finish(1)
    assert is_made(out, {"find": "discover", "discover": {"grayscale": True, "tau": 0.2}})


def test_small_parts_do_not_make_small_row_groups(tmp_path: Path):
    out = tmp_path / "index.parquet"
    parts = begin(out, tmp_path)
    for k in range(30):
        write(parts, k, [row(k)])
    parts.finish(30)
    assert pq.ParquetFile(out).num_row_groups == 1


def test_damaged_work_is_named(tmp_path: Path):
    parts = begin(tmp_path / "index.parquet", tmp_path)
    write(parts, 0, [row(0)])
    (parts.folder / "000000.json").write_text("{")
    with pytest.raises(DataError, match=r"000000\.json: cannot be read .* remove"):
        parts.account(0)
    (parts.folder / "plan.json").write_text(json.dumps(SETTINGS)[:-3])
    with pytest.raises(DataError, match=r"plan\.json: cannot be read"):
        begin(tmp_path / "index.parquet", tmp_path)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"[" * 10**5, b"3"])
@pytest.mark.parametrize("name", ["plan.json", "source.json", "000000.json"])
def test_a_damaged_account_is_one_line(tmp_path: Path, name: str, content: bytes):
    parts = begin(tmp_path / "x.parquet", tmp_path)
    write(parts, 0, [row(0)])
    (parts.folder / name).write_bytes(content)

    def go_on() -> None:
        again = begin(tmp_path / "x.parquet", tmp_path)
        again.account(0)
        write(again, 1, [row(1)])

    with pytest.raises(DataError, match=rf"{name}: cannot be read .*; remove .* to begin again") as refused:
        go_on()
    assert "\n" not in str(refused.value)
