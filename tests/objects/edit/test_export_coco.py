"""An object index becomes COCO instances JSON that reads back the same, here and with pycocotools."""

import json
import os
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools.coco import COCO

from odis.errors import DataError
from odis.objects import rle
from odis.objects.clean import SkippedObject
from odis.objects.edit.export_coco import export_coco
from odis.objects.index import ObjectIndex, write_index
from odis.objects.sources import coco
from odis.types import ImageObjects, Object, Skipped

WHOLE = np.ones((6, 8), dtype=bool)
HALF = WHOLE.copy()
HALF[:, :5] = False


def indexed(
    root: Path, *rows: ImageObjects, classes: tuple[str, ...] = ("cat", "dog"), provenance: str = "annotated"
) -> ObjectIndex:
    write_index(root / "i.parquet", rows, root=root, provenance=provenance, classes=list(classes))
    return ObjectIndex.open(root / "i.parquet")


def exported(index: ObjectIndex, out: Path) -> dict[str, Any]:
    export_coco(index, out)
    return json.loads(out.read_text(encoding="ascii"))


def test_what_is_written(tmp_path: Path) -> None:
    rows = [
        ImageObjects(
            "a/b.png",
            8,
            6,
            (Object((4, 0, 8, 6), rle.encode(HALF), 1, 0.5), Object((0.5, 1.25, 4.5, 3.25), label=0)),
        ),
        ImageObjects("é.png", 8, 6),
        ImageObjects("c.png", 8, 6, (Object((0, 0, 2, 2)),)),
    ]
    content = exported(indexed(tmp_path, *rows, provenance="detected:x"), tmp_path / "new/out.json")
    info = content.pop("info")
    assert (info["provenance"], info["root"]) == ("detected:x", str(tmp_path))
    assert content == {
        "licenses": [],
        "images": [
            {"id": 1, "file_name": "a/b.png", "width": 8, "height": 6},
            {"id": 2, "file_name": "é.png", "width": 8, "height": 6},
            {"id": 3, "file_name": "c.png", "width": 8, "height": 6},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 2,
                "bbox": [4, 0, 4, 6],
                "area": 18,
                "iscrowd": 0,
                "score": 0.5,
                "segmentation": {"size": [6, 8], "counts": rle.encode(HALF).decode()},
            },
            {
                "id": 2,
                "image_id": 1,
                "category_id": 1,
                "bbox": [0.5, 1.25, 4, 2],
                "area": 8,
                "iscrowd": 0,
                "segmentation": [],
            },
            {
                "id": 3,
                "image_id": 3,
                "category_id": 3,
                "bbox": [0, 0, 2, 2],
                "area": 4,
                "iscrowd": 0,
                "segmentation": [],
            },
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "object"}],
    }


def test_pycocotools_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [
        ImageObjects(
            "a.png",
            8,
            6,
            (Object((5, 0, 8, 6), rle.encode(HALF), 1), Object((0, 0, 8, 6), rle.encode(WHOLE), 0)),
        )
    ]
    export_coco(indexed(tmp_path, *rows), tmp_path / "out.json")
    oracle = COCO(str(tmp_path / "out.json"))
    assert [c["name"] for c in oracle.loadCats(oracle.getCatIds())] == ["cat", "dog"]
    first, second = oracle.loadAnns(oracle.getAnnIds([1]))
    assert np.array_equal(oracle.annToMask(first), HALF)
    assert np.array_equal(oracle.annToMask(second), WHOLE)


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (("cat",), ["cat", "object"]),
        ((), ["object"]),
        (("object", "cat"), ["object", "cat", "object without a label"]),
    ],
)
def test_objects_without_a_label_have_a_category_of_their_own(
    tmp_path: Path, classes: tuple[str, ...], names: list[str]
) -> None:
    index = indexed(tmp_path, ImageObjects("a.png", 8, 6, (Object((0, 0, 2, 2)),)), classes=classes)
    content = exported(index, tmp_path / "out.json")
    assert [c["name"] for c in content["categories"]] == names
    assert [c["id"] for c in content["categories"]] == list(range(1, len(names) + 1))
    assert content["annotations"][0]["category_id"] == len(names)
    assert export_coco(index, tmp_path / "out.json").unlabelled == 1


CLASSES = ["cat", "dog", "eel"]

# Coordinates as images have them, to the last bit of a float32 but not below 2 ** -16: a bbox says x1 as x0 +
# width, and a sum of numbers whose sizes are further apart than a double is long is not exact.
coordinates = st.floats(-20, 60, width=32).map(lambda v: v if abs(v) >= 2**-16 else 0.0)


@st.composite
def rows_of_any_kind(draw: st.DrawFn) -> ImageObjects:
    width, height = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    objects = []
    for _ in range(draw(st.integers(0, 4))):
        x0, x1 = sorted(draw(st.lists(coordinates, min_size=2, max_size=2)))
        y0, y1 = sorted(draw(st.lists(coordinates, min_size=2, max_size=2)))
        if not (x0 < x1 and y0 < y1 and x0 < width and y0 < height and x1 > 0 and y1 > 0):
            x0, y0, x1, y1 = 0.0, 0.0, float(width), float(height)
        mask = draw(st.none() | hnp.arrays(bool, (height, width)).filter(lambda values: values.any()))
        score = draw(st.none() | st.floats(0, 1, width=32))
        objects.append(
            Object(
                (x0, y0, x1, y1), None if mask is None else rle.encode(mask), draw(st.integers(0, 2)), score
            )
        )
    once = {(item.box, item.mask, item.label): item for item in objects}  # repeats are not read back
    return ImageObjects("", width, height, tuple(once.values()))


@settings(max_examples=60, deadline=None)
@given(st.lists(rows_of_any_kind(), min_size=1, max_size=4))
def test_what_is_read_back_is_the_same(drawn: list[ImageObjects]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "val").mkdir()
        rows = []
        for k, row in enumerate(drawn):
            rows.append(ImageObjects(f"{k}.png", row.width, row.height, row.objects))
            Image.new("L", (row.width, row.height)).save(root / f"val/{k}.png")
        write_index(root / "i.parquet", rows, root=root / "val", provenance="annotated", classes=CLASSES)
        summary = export_coco(ObjectIndex.open(root / "i.parquet"), root / "annotations/instances_val.json")
        skipped: list[Skipped] = []
        source = coco.read(root, "val", skipped.append)
        back = list(source.rows)
        write_index(
            root / "back.parquet", back, root=root, provenance=source.provenance, classes=source.classes
        )
        again = list(ObjectIndex.open(root / "back.parquet"))
    assert skipped == []
    assert source.classes == CLASSES
    assert [(row.image, row.width, row.height) for row in again] == [
        (f"val/{row.image}", row.width, row.height) for row in rows
    ]
    count = sum(len(row.objects) for row in rows)
    assert (summary.images, summary.images_written, summary.images_skipped) == (len(rows), len(rows), 0)
    assert (summary.objects, summary.objects_written, summary.objects_skipped, summary.unlabelled) == (
        count,
        count,
        0,
        0,
    )
    for before, after in zip(rows, again):
        assert np.array_equal(before.boxes, after.boxes)
        assert [(o.mask, o.label) for o in before.objects] == [(o.mask, o.label) for o in after.objects]


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        ImageObjects(
            "a.png",
            8,
            6,
            (Object((5, 5, 4, 4)), Object((0, 0, 4, 4), label=2), Object((0, 0, 2, 2), label=1)),
        ),
        ImageObjects(
            "b.png", 8, 6, (Object((0, 0, 4, 4), rle.encode(WHOLE[:5])), Object((0, float("nan"), 4, 4)))
        ),
        ImageObjects(
            "c.png", 8, 6, (Object((0, 0, 3, 3), label=0, score=float("inf")), Object((1, 1, 3, 3), label=0))
        ),
    ]
    skipped: list[Skipped] = []
    summary = export_coco(indexed(tmp_path, *rows), tmp_path / "out.json", skipped.append)
    assert [(s.what.removeprefix(f"{tmp_path}/"), s.why) for s in skipped] == [
        ("a.png, object 0", "box (5, 5, 4, 4) is inverted"),
        ("b.png, object 0", "mask has 40 pixels, but the image has 8 x 6 = 48"),
        ("b.png, object 1", "box (0, nan, 4, 4) is not finite"),
        ("c.png, object 0", "box (0, 0, 3, 3) has score inf"),
    ]
    assert all(isinstance(s, SkippedObject) for s in skipped)
    assert (summary.images, summary.images_written, summary.images_skipped) == (3, 3, 0)
    assert (summary.objects, summary.objects_written, summary.objects_skipped) == (7, 3, 4)
    assert (
        str(summary)
        == f"{tmp_path}/out.json: 3 of 3 images (0 skipped), 3 of 7 objects (4 skipped, 1 without a label)"
    )
    content = json.loads((tmp_path / "out.json").read_text())
    assert [(a["id"], a["image_id"], a["category_id"]) for a in content["annotations"]] == [
        (1, 1, 3),  # its label is of no class
        (2, 1, 2),
        (3, 3, 1),
    ]
    assert len(content["images"]) == 3
    assert [c["name"] for c in content["categories"]] == ["cat", "dog", "object"]


def test_a_folder_of_images_is_exported_too(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(tmp_path / "images" / name)
    (tmp_path / "images/a/2.png").write_text("text")
    skipped: list[Skipped] = []
    summary = export_coco(ObjectIndex.open(tmp_path / "images"), tmp_path / "images/out.json", skipped.append)
    content = json.loads((tmp_path / "images/out.json").read_text())
    assert [(i["id"], i["file_name"]) for i in content["images"]] == [(1, "a/1.png"), (3, "b/3.png")]
    assert [(a["image_id"], a["category_id"], a["bbox"]) for a in content["annotations"]] == [
        (1, 1, [0, 0, 8, 6]),
        (3, 2, [0, 0, 8, 6]),
    ]
    assert skipped == [
        Skipped(f"{tmp_path}/images/a/2.png", "is not an image that can be read (unknown format)")
    ]
    assert (summary.images, summary.images_written, summary.images_skipped, summary.objects) == (3, 2, 1, 2)


def test_an_empty_index_makes_an_empty_file(tmp_path: Path) -> None:
    content = exported(indexed(tmp_path), tmp_path / "out.json")
    assert (content["images"], content["annotations"], len(content["categories"])) == ([], [], 2)


def test_the_index_is_not_written_over(tmp_path: Path) -> None:
    index = indexed(tmp_path, ImageObjects("a.png", 8, 6, (Object((0, 0, 2, 2)),)))
    before = (tmp_path / "i.parquet").read_bytes()
    (tmp_path / "link.json").symlink_to("i.parquet")
    os.link(tmp_path / "i.parquet", tmp_path / "hard.json")
    for name, text in (
        ("i.parquet", "is the index itself"),
        ("link.json", "is the index itself"),
        ("hard.json", "is the index itself"),
        ("other.parquet", "would be JSON under a name that ends in .parquet"),
        ("a.PNG", "would be JSON under a name that ends in .PNG"),
        (".", "is a folder"),
    ):
        with pytest.raises(DataError, match=text):
            export_coco(index, tmp_path / name)
    assert (tmp_path / "i.parquet").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["hard.json", "i.parquet", "link.json"]


def test_a_file_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = indexed(tmp_path, ImageObjects("a.png", 8, 6))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match=r"out\.json: cannot be written"):
        export_coco(index, tmp_path / "file/out.json")
    (tmp_path / "out.json").write_text("the one before")

    def stops(skipped: Skipped) -> None:
        raise KeyboardInterrupt

    bad = indexed(tmp_path, ImageObjects("a.png", 8, 6, (Object((0, 0, 2, 2)), Object((2, 2, 0, 0)))))
    with pytest.raises(KeyboardInterrupt):
        export_coco(bad, tmp_path / "out.json", stops)
    assert (tmp_path / "out.json").read_text() == "the one before"
    assert sorted(os.listdir(tmp_path)) == ["file", "i.parquet", "out.json"]
    export_coco(bad, tmp_path / "out.json")
    assert len(json.loads((tmp_path / "out.json").read_text())["annotations"]) == 1


def test_the_same_index_makes_the_same_file(tmp_path: Path) -> None:
    index = indexed(
        tmp_path, ImageObjects("a.png", 8, 6, (Object((0, 0, 2, 2), score=0.1), Object((1 / 3, 0, 2, 2))))
    )
    first, second = exported(index, tmp_path / "one.json"), exported(index, tmp_path / "two.json")
    assert first == second
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_memory_does_not_grow_with_the_objects(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mask = rle.encode(rng.random((120, 150)) < 0.5)

    def peak(rows: int) -> int:
        objects = (Object((0, 0, 150, 120), mask, 0),) * 4
        index = indexed(tmp_path, *(ImageObjects(f"{k}.png", 150, 120, objects) for k in range(rows)))
        len(index)  # reads the table
        tracemalloc.start()
        try:
            export_coco(index, tmp_path / "out.json")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak(5)
    many = peak(120)
    assert os.path.getsize(tmp_path / "out.json") > 4 * 2**20
    assert many < few + 2**20
