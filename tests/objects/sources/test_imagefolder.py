"""Hugging Face's imagefolder, as the guides of `datasets` and AutoTrain lay it out."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.errors import DataError
from odis.objects.build import build_index
from odis.objects.index import ObjectIndex
from odis.objects.sources import imagefolder
from odis.types import Skipped

WIDTH, HEIGHT = 40, 30


def save(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def built(root: Path, split: str | None = None, **options: Any) -> tuple[ObjectIndex, list[Skipped]]:
    skipped: list[Skipped] = []
    out = root.parent / "i.parquet"
    build_index("imagefolder", root, out, split, report=skipped.append, max_skipped=1, **options)
    return ObjectIndex.open(out), skipped


def found(index: ObjectIndex) -> dict[str, list[tuple[Any, ...]]]:
    return {
        row.image: [(o.box, None if o.label is None else index.classes[o.label]) for o in row.objects]
        for row in index
    }


def lines(*rows: Any) -> str:
    return "\n".join(map(json.dumps, rows)) + "\n"


OBJECTS = {"bbox": [[2.0, 3.0, 10.0, 6.0], [1, 1, 5, 5]], "category": [10, 9]}
ROWS = [
    {"file_name": "0001.png", "objects": OBJECTS},
    {"file_name": "0002.png", "objects": {"bbox": [], "category": []}},
]
EXPECTED = {"0001.png": [((2, 3, 12, 9), "10"), ((1, 1, 6, 6), "9")], "0002.png": []}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        held = io.StringIO()
        table = csv.DictWriter(held, list(rows[0]))
        table.writeheader()
        table.writerows(
            [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]
        )
        path.write_text(held.getvalue())
    else:
        path.write_text(lines(*rows))


@pytest.mark.parametrize("name", imagefolder.METADATA)
def test_every_kind_of_metadata_says_the_same(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    for image in EXPECTED:
        save(root / image)
    write(root / name, ROWS)
    index, skipped = built(root)
    assert found(index) == EXPECTED
    assert index.classes == ["9", "10"]
    assert skipped == []


@pytest.mark.parametrize(
    "row",
    [
        {"objects": {"bbox": [[2, 3, 10, 6]], "categories": ["cat"]}},
        {"objects": {"bboxes": [[2, 3, 10, 6]], "labels": ["cat"], "id": [5], "area": [60]}},
        {"objects": [{"bbox": [2, 3, 10, 6], "category": "cat", "id": 5}]},
        {"objects": {"bbox": [2, 3, 10, 6], "category": "cat"}},
        {"bbox": [[2, 3, 10, 6]], "label": ["cat"], "width": WIDTH, "height": HEIGHT},
        {"objects": "{'bbox': [[2, 3, 10, 6]], 'category': ['cat'], 'area': [None]}"},
    ],
)
def test_objects_in_every_form(tmp_path: Path, row: dict[str, Any]) -> None:
    root = tmp_path / "data"
    save(root / "a.png")
    write(root / "metadata.jsonl", [{"file_name": "a.png", **row}])
    index, skipped = built(root)
    assert found(index) == {"a.png": [((2, 3, 12, 9), "cat")]}
    assert skipped == []


def test_scores_masks_and_objects_without_a_class(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save(root / "a.png")
    square = [[2, 3, 12, 3, 12, 9, 2, 9]]
    objects = {"bbox": [[2, 3, 10, 6], [1, 1, 5, 5]], "segmentation": [square, []], "score": [0.5, None]}
    write(root / "metadata.jsonl", [{"file_name": "a.png", "objects": objects}])
    index, _ = built(root)
    assert [(o.mask is not None, o.score, o.label) for o in index[0].objects] == [
        (True, 0.5, None),
        (False, None, None),
    ]


def test_without_objects_images_are_objects(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in "abc":
        save(root / f"{name}.png")
    write(
        root / "metadata.jsonl", [{"file_name": "b.png", "label": "dog"}, {"file_name": "a.png", "text": "x"}]
    )
    index, skipped = built(root)
    whole = (0, 0, WIDTH, HEIGHT)
    assert found(index) == {"b.png": [(whole, "dog")], "a.png": [(whole, None)]}
    assert index.provenance == "whole-image"
    assert [(one.what, one.why) for one in skipped] == [(f"{root}/c.png", "images that no row names")]


@pytest.mark.parametrize("data", ["", "data/"])
def test_splits_with_metadata_of_their_own(tmp_path: Path, data: str) -> None:
    root = tmp_path / "data"
    for split in ("train", "validation"):
        save(root / f"{data}{split}/a.png")
        write(root / f"{data}{split}/metadata.jsonl", [{"file_name": "a.png", "objects": OBJECTS}])
    assert list(found(built(root, "val")[0])) == [f"{data}validation/a.png"]
    with pytest.raises(DataError, match="a split must be named; there are train, validation"):
        built(root)
    with pytest.raises(DataError, match="no split 'test'; there are train, validation"):
        built(root, "test")


def test_one_file_of_metadata_over_all_splits(tmp_path: Path) -> None:
    root = tmp_path / "data"
    rows = []
    for split in ("train", "test"):
        save(root / split / "a.png")
        rows.append({"file_name": f"{split}/a.png", "objects": OBJECTS})
    save(root / "test/b.png")
    write(root / "metadata.jsonl", rows)
    index, skipped = built(root, "test")
    assert list(found(index)) == ["test/a.png"]
    assert [one.what for one in skipped] == [f"{root}/test/b.png"]
    with pytest.raises(DataError, match="a split must be named; there are test, train"):
        built(root)
    with pytest.raises(DataError, match="no split 'val'; there are test, train"):
        built(root, "val")


def test_rows_that_cannot_be_used_are_named_by_their_lines(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save(root / "a.png")
    rows = [
        {
            "file_name": "a.png",
            "objects": {"bbox": [[2, 3, 10, 6], [5, 5, 0, 3], "x"], "category": [1, 1, 1]},
        },
        {"file_name": None, "objects": OBJECTS},
        {"file_name": "gone.png", "objects": {"bbox": [[2, 3, 10, 6]], "category": [1]}},
        {"file_name": "../a.png", "objects": {"bbox": [], "category": []}},
        {"file_name": "a.png", "objects": {"bbox": [[2, 3, 10, 6]], "category": [1, 2]}},
        {"file_name": "a.png", "objects": "x"},
        {"file_name": "a.png", "objects": [7]},
    ]
    (root / "metadata.jsonl").write_text(lines(*rows) + "{\n7\n")
    index, skipped = built(root)
    assert found(index) == {"a.png": [((2, 3, 12, 9), "1")]}
    told = [(one.what.removeprefix(f"{root}/"), one.why) for one in skipped]
    assert ("metadata.jsonl, line 2", "has file_name None, no name") in told
    assert ("metadata.jsonl, line 5", "has 1 box, but 2 of category") in told
    assert (
        "metadata.jsonl, line 6",
        "objects are 'x', must be lists of one length, or a list of objects",
    ) in told
    assert ("metadata.jsonl, line 7", "object 1 is 7, must be an object with bbox and category") in told
    assert ("metadata.jsonl, line 9", "is 7, must be a JSON object") in told
    assert ("a.png, object 2", "box (5, 5, 5, 8) is empty") in told
    assert ("a.png, object 3", "bbox is 'x', must be four numbers (x, y, width, height)") in told
    assert ("gone.png", "no such file") in told
    assert any("a.png is another image that is listed" in why for _, why in told)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save(root / "a.png")
    with pytest.raises(DataError, match=r"none of metadata.jsonl, metadata.csv, metadata.parquet here"):
        built(root)
    (root / "metadata.csv").write_text("image,text\na.png,x\n")
    with pytest.raises(DataError, match=r"has the columns image, text; imagefolder's metadata name"):
        built(root)
    (root / "other.jsonl").write_text(lines(*ROWS))
    with pytest.raises(DataError, match="none of the first images"):
        built(root, annotations="other.jsonl")


@settings(max_examples=40, deadline=None)
@given(
    junk=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["bbox", "category", "score", "segmentation"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    ),
    key=st.sampled_from(["objects", "bbox", "label", "width", "file_name"]),
)
def test_what_stands_in_a_row_harms_no_other(
    tmp_path_factory: pytest.TempPathFactory, junk: Any, key: str
) -> None:
    root = tmp_path_factory.mktemp("one")
    save(root / "a.png")
    save(root / "b.png")
    rows = [{"file_name": "a.png", key: junk}, {"file_name": "b.png", "objects": OBJECTS}]
    (root / "metadata.jsonl").write_text(lines(*rows))
    read = imagefolder.read(root, None, lambda skipped: None)
    boxes = [(row.image, o.box) for row in read.rows for o in row.objects if o.label is not None]
    assert ("b.png", (2, 3, 12, 9)) in boxes
