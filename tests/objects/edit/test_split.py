"""An index in parts: every image once, no group in two, shares met as well as groups allow."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.cli import main
from odis.commands.index.split import parse_shares
from odis.errors import ConfigError, DataError
from odis.objects.edit.split import _assign, group_keys, split_index
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object


def make(path: Path, names: list[str]) -> ObjectIndex:
    rows = (
        ImageObjects(name, 8, 6, tuple(Object((0, 0, 2, 2), label=k % 3) for _ in range(k % 4)))
        for k, name in enumerate(names)
    )
    write_index(path, rows, root=path.parent, provenance="annotated", classes=["a", "b", "c"])
    return ObjectIndex.open(path)


NAMES = [f"{video}/{k:02d}_cam{k % 2}.jpg" for video in ("v1", "v2", "v3", "v4", "v5") for k in range(8)]


@settings(max_examples=100, deadline=None)
@given(
    keys=st.lists(st.integers(0, 6), min_size=1, max_size=60),
    shares=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    seed=st.integers(0, 3),
)
def test_no_group_is_in_two_parts_and_shares_are_met(keys: list[int], shares: list[int], seed: int) -> None:
    parts = [share / sum(shares) for share in shares]
    found = _assign(keys, parts, seed).tolist()
    assert len({(key, part) for key, part in zip(keys, found)}) == len(set(keys))
    largest = max(Counter(keys).values())
    for k, share in enumerate(parts):  # a part is never further ahead than by the group that it just got
        assert found.count(k) - share * len(keys) <= largest
    assert found == _assign(keys, parts, seed).tolist()


def test_without_groups_the_counts_are_those_of_the_shares(tmp_path: Path) -> None:
    index = make(tmp_path / "i.parquet", NAMES)
    parts = split_index(index, tmp_path / "parts", {"train": 0.7, "val": 0.2, "test": 0.1}, seed=3)
    assert [part.images for part in parts] == [28, 8, 4]
    opened = [ObjectIndex.open(part.path) for part in parts]
    rows = [row for one in opened for row in one]
    assert sorted(row.image for row in rows) == sorted(NAMES)
    by_name = {row.image: row for row in index}
    assert all(row == by_name[row.image] for row in rows)
    assert [row.image for row in opened[0]] == sorted(row.image for row in opened[0])  # the index's order
    assert [part.objects for part in parts] == [one.count_objects() for one in opened]
    assert sum(sum(part.classes.values()) for part in parts) == index.count_objects()
    assert {(one.provenance, tuple(one.classes), one.root) for one in opened} == {
        ("annotated", ("a", "b", "c"), tmp_path)
    }
    again = split_index(index, tmp_path / "again", {"train": 0.7, "val": 0.2, "test": 0.1}, seed=4)
    assert list(ObjectIndex.open(again[0].path)) != list(opened[0])


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("folder", ["x/v1", "x/v2"]),
        ("folder:1", ["x", "x"]),
        ("folder:9", ["x/v1", "x/v2"]),
        (r"pattern:cam\d", ["cam0", "cam1"]),
        (r"pattern:_(c)am", ["c", "c"]),
        ("column:image", ["x/v1/0_cam0.jpg", "x/v2/1_cam1.jpg"]),
        (None, [0, 1]),
    ],
)
def test_groups(tmp_path: Path, group: str | None, expected: list[object]) -> None:
    index = make(tmp_path / "i.parquet", ["x/v1/0_cam0.jpg", "x/v2/1_cam1.jpg"])
    assert group_keys(index, group) == expected


def test_a_column_of_ones_own(tmp_path: Path) -> None:
    make(tmp_path / "plain.parquet", NAMES)
    table = pq.read_table(tmp_path / "plain.parquet")
    patients = pa.array([name[-5] for name in NAMES])
    pq.write_table(table.append_column("patient", patients), tmp_path / "i.parquet")
    index = ObjectIndex.open(tmp_path / "i.parquet")
    parts = split_index(index, tmp_path / "parts", {"a": 0.5, "b": 0.5}, group="column:patient")
    assert [(part.images, part.groups) for part in parts] == [(20, 1), (20, 1)]
    with pytest.raises(DataError, match="has no column 'age'; it has image, width, "):
        split_index(index, tmp_path / "parts", {"a": 0.5, "b": 0.5}, group="column:age")


@pytest.mark.parametrize(
    ("shares", "group", "why"),
    [
        ({"a": 0.5}, None, "two or more parts are needed"),
        ({"a": 0.5, "b": 0.6}, None, "make up 1.1, must make up 1"),
        ({"a": 1.5, "b": -0.5}, None, "a is 1.5, must be between 0 and 1"),
        ({"../a": 0.5, "b": 0.5}, None, "'../a' is no name of a file"),
        (
            {"a": 0.5, "b": 0.5},
            "day",
            "group: is 'day', must be folder, folder:N, pattern:REGEX or column:NAME",
        ),
        ({"a": 0.5, "b": 0.5}, "folder:0", "group: is 'folder:0'"),
        ({"a": 0.5, "b": 0.5}, "pattern:(", "is no regular expression"),
        (
            {"a": 0.5, "b": 0.5},
            "pattern:zzz",
            r"v1/00_cam0.jpg: the pattern 'zzz' finds nothing in this path",
        ),
        (
            {"a": 0.5, "b": 0.3, "c": 0.2},
            r"pattern:cam\d",
            "would be empty: 40 images in 2 groups do not make 3",
        ),
    ],
)
def test_what_is_none_is_refused_and_nothing_is_written(
    tmp_path: Path, shares: dict[str, float], group: str | None, why: str
) -> None:
    index = make(tmp_path / "i.parquet", NAMES)
    with pytest.raises((ConfigError, DataError)) as error:
        split_index(index, tmp_path / "parts", shares, group=group)
    assert why in str(error.value)
    assert not (tmp_path / "parts").exists()


def test_what_is_read_is_not_overwritten_and_half_a_split_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make(tmp_path / "val.parquet", NAMES)
    with pytest.raises(DataError, match=r"is what is read; give another folder with --out"):
        split_index(index, tmp_path, {"train": 0.5, "val": 0.5})
    (tmp_path / "parts/val.parquet").mkdir(parents=True)  # cannot be written
    with pytest.raises(DataError):
        split_index(index, tmp_path / "parts", {"train": 0.5, "val": 0.5})
    assert not (tmp_path / "parts/train.parquet").exists()


def test_the_command_prints_what_is_in_each_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "i.parquet", NAMES)
    words = [
        "index",
        "split",
        str(tmp_path / "i.parquet"),
        "--out",
        str(tmp_path / "parts"),
        "--group",
        "folder",
    ]
    main([*words, "--shares", "train=0.6,val=0.4"])
    said = capsys.readouterr()
    lines = [" ".join(line.replace("│", " ").replace("┃", " ").split()) for line in said.out.splitlines()]
    assert "images 24 16" in lines
    assert "groups 3 2" in lines
    assert any(line.startswith("objects ") for line in lines)
    assert [line.split()[0] for line in lines if line[:2] in ("a ", "b ", "c ")] == ["a", "b", "c"]
    assert lines[-2:] == [f"{tmp_path}/parts/train.parquet", f"{tmp_path}/parts/val.parquet"]


@pytest.mark.parametrize("text", ["train", "train=x,val=0.2", "a=0.5,a=0.5", "", "a=-1,b=2"])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="must be NAME=SHARE of each part"):
        parse_shares(text)
