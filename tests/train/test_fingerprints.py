"""The same data has one fingerprint however it is named and written; other data has another."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.config.training import ModelConfig, PretrainConfig
from odis.objects import rle
from odis.objects.index import ObjectIndex, write_index
from odis.train import fingerprints as module
from odis.train.fingerprints import fingerprints, index_fingerprint
from odis.types import ImageObjects, Object

MASK = rle.encode(np.eye(9, dtype=np.uint8))
ROWS = [
    ImageObjects("a.png", 9, 9, (Object((1, 1, 5, 5), MASK, 0, 0.5), Object((2, 2, 6, 6), None, 1))),
    ImageObjects("b.png", 9, 9, ()),
    ImageObjects("c é.png", 9, 9, (Object((0, 0, 9, 9)),)),
]


def index(path: Path, rows: list[ImageObjects], provenance: str = "annotated") -> ObjectIndex:
    write_index(path, rows, root=path.parent, provenance=provenance, classes=["cat", "dog"])
    return ObjectIndex.open(path)


def test_a_file_has_one_fingerprint_wherever_it_lies_and_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    expected = index_fingerprint(index(tmp_path / "data" / "i.parquet", ROWS))
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    for path in ("data/i.parquet", "./data/../data/i.parquet", "link/i.parquet"):
        assert index_fingerprint(ObjectIndex.open(path)) == expected
    os.rename("data", "moved")
    assert index_fingerprint(ObjectIndex.open("moved/i.parquet")) == expected


def test_how_the_file_was_written_makes_no_difference(tmp_path: Path) -> None:
    rows = [replace(ROWS[i % 3], image=f"{i}.png") for i in range(50)]
    expected = index_fingerprint(index(tmp_path / "i.parquet", rows))
    table = pq.read_table(tmp_path / "i.parquet")
    pq.write_table(table, tmp_path / "groups.parquet", row_group_size=7, compression="none")
    wide = table.set_column(1, "width", table["width"].cast(pa.int64()))
    pq.write_table(wide, tmp_path / "wide.parquet")
    (tmp_path / "parts").mkdir()
    for number, part in enumerate((table.slice(0, 20), table.slice(20)), start=1):
        pq.write_table(part, tmp_path / "parts" / f"{number:06}-of-000002.parquet")
    for name in ("groups.parquet", "wide.parquet", "parts"):
        found = ObjectIndex.open(tmp_path / name, root=tmp_path)
        assert index_fingerprint(found) == expected, name


def changed(change: Callable[[Object], Object]) -> list[ImageObjects]:
    first, *rest = ROWS
    return [replace(first, objects=(change(first.objects[0]), *first.objects[1:])), *rest]


@pytest.mark.parametrize(
    "rows",
    [
        changed(lambda o: replace(o, box=(1, 1, 5, 5.001))),
        changed(lambda o: replace(o, mask=None)),
        changed(lambda o: replace(o, mask=rle.encode(1 - np.eye(9, dtype=np.uint8)))),
        [replace(ROWS[0], objects=ROWS[0].objects[::-1]), *ROWS[1:]],
        [ROWS[1], ROWS[0], ROWS[2]],
        ROWS[:2],
        [replace(ROWS[0], image="aa.png"), *ROWS[1:]],
        [replace(ROWS[0], width=10), *ROWS[1:]],
        [replace(ROWS[0], objects=()), replace(ROWS[1], objects=ROWS[0].objects), ROWS[2]],
    ],
)
def test_what_training_reads_makes_a_difference(tmp_path: Path, rows: list[ImageObjects]) -> None:
    assert index_fingerprint(index(tmp_path / "a.parquet", ROWS)) != index_fingerprint(
        index(tmp_path / "b.parquet", rows)
    )


def test_what_training_does_not_read_makes_none(tmp_path: Path) -> None:
    expected = index_fingerprint(index(tmp_path / "a.parquet", ROWS))
    other = changed(lambda o: replace(o, label=1, score=None))
    assert index_fingerprint(index(tmp_path / "b.parquet", other)) == expected
    assert index_fingerprint(index(tmp_path / "c.parquet", ROWS, "detected:x")) != expected


names = st.text("ab\0é", min_size=1, max_size=3)
masks = st.none() | st.sampled_from([MASK, rle.encode(np.ones((9, 9), np.uint8)), b""])
rows_of = st.lists(
    st.builds(
        lambda name, given: ImageObjects(name, 9, 9, tuple(Object((0, 0, x, 9), m) for x, m in given)),
        names,
        st.lists(st.tuples(st.integers(1, 3), masks), max_size=3),
    ),
    min_size=1,
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows_of, rows_of)
def test_two_indexes_have_one_fingerprint_only_if_they_hold_the_same(
    tmp_path: Path, one: list[ImageObjects], other: list[ImageObjects]
) -> None:
    found = [index(tmp_path / f"{k}.parquet", rows) for k, rows in enumerate((one, other))]
    held = [[(r.image, [(o.box, o.mask) for o in r.objects]) for r in of] for of in found]
    assert (index_fingerprint(found[0]) == index_fingerprint(found[1])) == (held[0] == held[1])


def test_a_folder_is_its_names_and_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (9, 9), (40 * i, 0, 0)).save(folder / f"{i}.png")

    def now() -> str:
        return index_fingerprint(ObjectIndex.open(folder))

    before = now()
    os.utime(folder / "0.png", (1, 1))
    assert now() == before, "a copy has another time, and is the same"
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole + b"0")
    assert now() != before
    monkeypatch.setattr(module, "MOST_SIZES", 2)  # of the first and the last
    few = now()
    (folder / "3.png").write_bytes(whole)
    assert now() == few, "as documented, not noticed"
    (folder / "3.png").rename(folder / "33.png")
    assert now() != few
    (folder / "33.png").unlink()
    (folder / "5.png").unlink()
    assert now() != few


def test_a_run_has_those_of_data_val_and_a_file_of_weights(tmp_path: Path) -> None:
    data, val = index(tmp_path / "data.parquet", ROWS), index(tmp_path / "val.parquet", ROWS[:1])
    config = PretrainConfig(data=data.path)
    assert fingerprints(config, data) == {"data": index_fingerprint(data)}
    (tmp_path / "w.pth").write_bytes(b"weights")
    config = PretrainConfig(data=data.path, val=val.path, model=ModelConfig(weights=str(tmp_path / "w.pth")))
    first = fingerprints(config, data)
    assert first.keys() == {"data", "val", "model.weights"}
    assert first["val"] == index_fingerprint(val)
    (tmp_path / "w.pth").write_bytes(b"Weights")
    assert fingerprints(config, data)["model.weights"] != first["model.weights"]
    assert "model.weights" not in fingerprints(replace(config, model=ModelConfig(weights="timm")), data)
