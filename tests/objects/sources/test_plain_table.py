"""A table of one's own: columns by their names, in CSV, TSV, Parquet and JSON lines."""

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
from odis.objects import rle
from odis.objects.build import build_index
from odis.objects.index import ObjectIndex
from odis.objects.sources import plain_table
from odis.objects.sources.plain_table import TableColumns
from odis.types import Skipped

WIDTH, HEIGHT = 40, 30


def save(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def built(root: Path, split: str | None = None, **options: Any) -> tuple[ObjectIndex, list[Skipped]]:
    skipped: list[Skipped] = []
    out = (root if root.is_dir() else root.parent).parent / "i.parquet"
    build_index("table", root, out, split, report=skipped.append, max_skipped=1, **options)
    return ObjectIndex.open(out), skipped


def found(index: ObjectIndex) -> dict[str, list[tuple[Any, ...]]]:
    return {
        row.image: [
            (o.box, None if o.label is None else index.classes[o.label], o.score) for o in row.objects
        ]
        for row in index
    }


ROWS = [
    {"image": "a.png", "x0": 1, "y0": 2, "x1": 9.5, "y1": 12, "label": "dog", "score": 0.5},
    {"image": "b.png", "x0": 0, "y0": 0, "x1": 40, "y1": 30, "label": "cat", "score": None},
    {"image": "a.png", "x0": 3, "y0": 3, "x1": 8, "y1": 8, "label": None, "score": None},
    {"image": "c.png", "x0": None, "y0": None, "x1": None, "y1": None, "label": None, "score": None},
]

EXPECTED = {
    "a.png": [((1, 2, 9.5, 12), "dog", 0.5), ((3, 3, 8, 8), None, None)],
    "b.png": [((0, 0, 40, 30), "cat", None)],
    "c.png": [],
}


def text(delimiter: str, rows: list[dict[str, Any]] = ROWS) -> str:
    lines = [list(rows[0]), *(["" if v is None else str(v) for v in row.values()] for row in rows)]
    return "\r\n".join(delimiter.join(line) for line in lines)


def write(path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    else:
        path.write_bytes(text("\t" if path.suffix == ".tsv" else ",").encode("utf-8-sig"))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet", "t.jsonl"])
def test_every_kind_of_table_says_the_same(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    for image in EXPECTED:
        save(root / image)
    write(root / name)
    for place in (root, root / name):
        index, skipped = built(place)
        assert found(index) == EXPECTED
        assert index.classes == ["cat", "dog"]
        assert index.provenance == "annotated"
        assert [(one.what, one.why) for one in skipped] == [
            (f"{root}/a.png, line {3 if name in ('t.parquet', 't.jsonl') else 4}", _NO_LABEL)
        ]


_NO_LABEL = "category '(no label)' is not listed; it has no label"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_and_encodings(tmp_path: Path, encoding: str, delimiter: str) -> None:
    root = tmp_path / "data"
    save(root / "ä.png")
    rows = [{"File_Name": "ä.png", "XMin": 1, "YMin": 2, "XMax": 9, "YMax": 8, "class": "Käfer"}]
    (root / "t.csv").write_bytes(text(delimiter, rows).encode(encoding))
    assert found(built(root)[0]) == {"ä.png": [((1, 2, 9, 8), "Käfer", None)]}


@pytest.mark.parametrize(
    ("names", "box", "size", "unread"),
    [
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "xmin,ymin,xmax,ymax", "width,height", ""),
        ("path,x,y,width,height,note", "x,y,width,height", "", "note"),
        ("img,x,y,w,h,width,height", "x,y,w,h", "width,height", ""),
        ("Image,X1,Y1,X2,Y2,conf,image_width,image_height", "X1,Y1,X2,Y2", "image_width,image_height", ""),
        ("image_id,bbox,width,height,source", "bbox", "width,height", "source"),
        ("image,left,top,width,height", "left,top,width,height", "", ""),
        ("image,class", "", "", ""),
    ],
)
def test_columns_are_told_by_their_names(names: str, box: str, size: str, unread: str) -> None:
    columns = TableColumns.of(Path("t.csv"), names.split(","))
    assert columns.box == (tuple(box.split(",")) if box else None)
    assert columns.size == (tuple(size.split(",")) if size else None)
    assert columns.unread == (unread.split(",") if unread else [])
    assert columns.sized == (box.split(",")[-1] in ("h", "height", "bbox", ""))


def test_a_table_that_names_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has the columns name, x0, of which none names the image"):
        TableColumns.of(Path("t.csv"), ["name", "x0"])


def test_masks_and_boxes_as_lists(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save(root / "a.png")
    (root / "t.csv").write_text(
        "image,bbox,segmentation,label\n"
        'a.png,"[2, 3, 10, 6]","[[2, 3, 12, 3, 12, 9, 2, 9]]",7\n'
        'a.png,"(1, 1, 5, 5)",,10\n'
        'a.png,,"[[20, 3, 24, 3, 24, 9, 20, 9]]",7\n'
        "a.png,x,,7\n"
    )
    index, skipped = built(root)
    assert index.classes == ["7", "10"]
    first, second, third = index[0].objects
    assert (first.box, second.box, third.box) == ((2, 3, 12, 9), (1, 1, 6, 6), (20, 3, 24, 9))
    assert first.mask is not None
    assert rle.area(first.mask) == 60
    assert [one.why for one in skipped] == [
        "bbox is 'x', must be four numbers (x, y, width, height)",
        "has no bbox; that of its mask is taken",
    ]


def test_without_boxes_images_are_objects(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("images/a.png", "images/b.png", "images/c.png"):
        save(root / name)
    (root / "t.csv").write_text("path,label,hand\na.png,2,x\nb.png,10,x\nc.png,,x\na.png,3,x\ngone.png,2,x\n")
    index, skipped = built(root)
    whole = (0, 0, WIDTH, HEIGHT)
    assert found(index) == {
        "images/a.png": [(whole, "2", None)],
        "images/b.png": [(whole, "10", None)],
        "images/c.png": [(whole, None, None)],
    }
    assert index.provenance == "whole-image"
    assert sorted(one.why for one in skipped) == [
        "'a.png' was listed before",
        "columns without a meaning",
        "no such file",
    ]


def test_rows_that_cannot_be_used_are_named_by_their_lines(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save(root / "a.png")
    (root / "t.csv").write_text(
        "image,x0,y0,x1,y1,score\na.png,1,2,9,8,0.5\na.png,one,2,9,8,\n,1,2,9,8,\na.png,1,2,9\n"
        "a.png,5,5,5,9,\ngone.png,1,2,9,8,\na.png,1,2,9,9,high\n"
    )
    index, skipped = built(root)
    assert found(index) == {"a.png": [((1, 2, 9, 8), None, 0.5), ((1, 2, 9, 9), None, None)]}
    assert sorted((one.what.removeprefix(f"{root}/"), one.why) for one in skipped) == [
        ("a.png, line 6", "box (5, 5, 5, 9) is empty"),
        ("a.png, line 8", "score is 'high', must be a number; it has no score"),
        ("gone.png", "no such file"),
        ("gone.png, line 7", "its image cannot be used"),
        ("t.csv, line 3", "has x0 'one', must be a number of pixels"),
        ("t.csv, line 4", "has image '', no name"),
        ("t.csv, line 5", "has 4 columns, must have the 6 of the first line"),
    ]


def test_which_table_and_where_the_images_are(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save(tmp_path / "photos/sub/a.png")
    for name in ("train", "val"):
        root.mkdir(exist_ok=True)
        (root / f"{name}.csv").write_text("image,x0,y0,x1,y1\nsub/a.png,1,2,9,8\n")
    with pytest.raises(DataError, match=r"several tables; there are train.csv, val.csv"):
        built(root)
    with pytest.raises(DataError, match=r"no such table; there are train.csv, val.csv"):
        built(root, "test")
    for where in ({"split": "val"}, {"annotations": "val.csv"}):
        index, _ = built(root, images=str(tmp_path / "photos"), **where)
        assert (list(found(index)), index.root) == (["sub/a.png"], tmp_path / "photos")
    with pytest.raises(
        DataError, match=r"none of the first images .*: odis index table .*train.csv --images DIR"
    ):
        built(root / "train.csv")
    with pytest.raises(DataError, match=r"no table here .*; name it: odis index table FILE"):
        built(tmp_path / "photos")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"image,x0,y0,x1,y1\n", "has no row"),
        ("t.csv", b"image,image\na,b\n", "has two columns called 'image'"),
        ("t.csv", b"image,x0,y0,x1,y1\n\xe4\xff\xfe,1,2,3,4\n", "is not utf-8"),
        ("t.parquet", b"PAR1", "is no Parquet file that can be read"),
        ("t.jsonl", b"[]\n{\n", "has no line that is a JSON object"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        built(root)
    assert why in str(error.value)


@settings(max_examples=40, deadline=None)
@given(
    cells=st.lists(st.tuples(*[st.text(max_size=4) | st.integers(-5, 50).map(str)] * 5), max_size=5),
    name=st.sampled_from(["t.csv", "t.tsv", "t.jsonl"]),
)
def test_what_stands_in_a_row_harms_no_other(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, ...]], name: str
) -> None:
    root = tmp_path_factory.mktemp("one")
    save(root / "a.png")
    names = ["x0", "y0", "x1", "y1", "label"]
    if name == "t.jsonl":
        rows = [{"image": "a.png", **dict(zip(names, row))} for row in [*cells, ("1", "2", "9", "8", "good")]]
        (root / name).write_text("\n".join(map(json.dumps, rows)))
    else:
        quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in ("a.png", *row)] for row in cells]
        lines = [["image", *names], *quoted, ["a.png", "1", "2", "9", "8", "good"]]
        mark = "\t" if name == "t.tsv" else ","
        (root / name).write_bytes("\n".join(mark.join(line) for line in lines).encode(errors="replace"))
    read = plain_table.read(root, None, lambda skipped: None)
    boxes = [(o.box, read.classes[o.label]) for row in read.rows for o in row.objects if o.label is not None]
    assert ((1, 2, 9, 8), "good") in boxes
