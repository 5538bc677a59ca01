"""SA-1B's files become masks with scores; whatever is left out is named and counted."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_mask

from odis.errors import DataError
from odis.objects import rle
from odis.objects.build import Summary, build_index
from odis.objects.clean import Mended, SkippedObject
from odis.objects.index import ObjectIndex
from odis.objects.sources import sa1b
from odis.types import ImageObjects, Skipped

WIDTH, HEIGHT = 8, 6

# Run lengths 7 3 3 3 3 3 3 3 20 of columns of 6 pixels, compressed by hand: from the fourth on as differences
# to the run two before.
SQUARE = "73300000a0"


def annotation(number: int = 1, **change: Any) -> dict[str, Any]:
    """Columns 1 to 4 and rows 1 to 3, as SAM's own code writes it: the width and height of the box are one
    short.
    """
    return {
        "bbox": [1.0, 1.0, 3.0, 2.0],
        "area": 12,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": SQUARE},
        "predicted_iou": 0.9558961391448975,
        "point_coords": [[2.25, 1.1875]],
        "crop_box": [0.0, 0.0, 8.0, 6.0],
        "id": number,
        "stability_score": 0.9862385392189026,
        **change,
    }


def content(name: str, *annotations: Any, **change: Any) -> dict[str, Any]:
    image = {"image_id": 1, "width": WIDTH, "height": HEIGHT, "file_name": f"{name}.jpg", **change}
    return {"image": image, "annotations": list(annotations)}


def write(folder: Path, name: str, *annotations: Any, **change: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{name}.jpg")
    (folder / f"{name}.json").write_text(json.dumps(content(name, *annotations, **change)))


def read(root: Path, split: str | None = None) -> tuple[list[ImageObjects], list[Skipped]]:
    skipped: list[Skipped] = []
    source = sa1b.read(root, split, skipped.append)
    assert (source.root, source.provenance, source.classes) == (root, "detected:SAM", [])
    return list(source.rows), skipped


def built(root: Path, **options: Any) -> tuple[ObjectIndex, Summary, list[Skipped]]:
    skipped: list[Skipped] = []
    summary = build_index(
        "sa-1b", root, root / "i.parquet", **{"report": skipped.append, "max_skipped": 1, **options}
    )
    return ObjectIndex.open(root / "i.parquet"), summary, skipped


def test_folders_and_flat_files(tmp_path: Path) -> None:
    write(tmp_path / "sa_000001", "sa_12", annotation(7))
    write(tmp_path / "sa_000000", "sa_9")
    write(tmp_path / "sa_000000", "sa_10", annotation(8), annotation(3, predicted_iou=1))
    write(tmp_path, "sa_1", annotation(1))
    (tmp_path / "sa_000000/notes.txt").write_text("no image")
    index, summary, skipped = built(tmp_path)
    assert skipped == []
    names = ["sa_1.jpg", "sa_000000/sa_10.jpg", "sa_000000/sa_9.jpg", "sa_000001/sa_12.jpg"]
    assert [(row.image, row.width, row.height) for row in index] == [(name, WIDTH, HEIGHT) for name in names]
    assert [len(row.objects) for row in index] == [1, 2, 0, 1]
    item = index[0].objects[0]
    assert (item.box, item.label, item.score) == ((1, 1, 5, 4), None, pytest.approx(0.9558961, abs=1e-7))
    square = np.zeros((HEIGHT, WIDTH))
    square[1:4, 1:5] = 1
    assert item.mask is not None
    assert np.array_equal(rle.decode(item.mask, WIDTH, HEIGHT), square)
    assert index[1].objects[1].score == 1
    assert (index.provenance, index.classes) == ("detected:SAM", [])
    assert (summary.images, summary.written, summary.objects, summary.kept) == (4, 4, 4, 4)
    rows, _ = read(tmp_path, "sa_000000")
    assert [row.image for row in rows] == names[1:3]


masks = hnp.arrays(bool, (11, 13)).filter(lambda mask: mask.any())


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(masks, st.floats(0, 1.25, width=32), st.booleans()),
        max_size=4,
        unique_by=lambda item: item[0].tobytes(),  # repeats are left out
    )
)
def test_any_masks_are_read_as_they_were_written(items: list[tuple[np.ndarray, float, bool]]) -> None:
    annotations, boxes = [], []
    for k, (mask, score, without_runs_of_zero) in enumerate(items):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x0, y0, x1, y1 = (int(v) for v in (columns[0], rows[0], columns[-1], rows[-1]))
        boxes.append((x0, y0, x1 + 1, y1 + 1))
        counts = rle.encode(mask) if without_runs_of_zero else padded(mask)
        segmentation = {"size": [11, 13], "counts": counts.decode()}
        annotations.append(
            annotation(k, bbox=[x0, y0, x1 - x0, y1 - y0], segmentation=segmentation, predicted_iou=score)
        )
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), "sa_1", *annotations, width=13, height=11)
        Image.new("RGB", (13, 11)).save(Path(folder, "sa_1.jpg"))
        ((row,), skipped) = read(Path(folder))
    assert skipped == []
    assert [o.box for o in row.objects] == boxes
    assert [o.score for o in row.objects] == [score for _, score, _ in items]
    for item, (mask, _, _) in zip(row.objects, items):
        assert item.mask is not None
        assert np.array_equal(rle.decode(item.mask, 13, 11), mask)


def padded(mask: np.ndarray) -> bytes:
    """Run lengths of a mask with two runs of length zero before the others: valid, and no pixels."""
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    runs = [0, 0, *np.diff([0, *edges, flat.size]).tolist()]
    return coco_mask.frPyObjects({"size": list(mask.shape), "counts": runs}, *mask.shape)["counts"]


def test_a_box_is_that_of_the_pixels_whatever_the_file_says(tmp_path: Path) -> None:
    write(
        tmp_path,
        "sa_1",
        annotation(1, bbox=[1, 1, 4, 3]),
        annotation(2, bbox=[0, 0, 8, 6], predicted_iou=0.5),
        annotation(3, bbox=[7, 0, 0, 0], predicted_iou=0.25),
    )
    ((row,), skipped) = read(tmp_path)
    assert skipped == []
    assert [o.box for o in row.objects] == [(1, 1, 5, 4)] * 3


OTHER = {"predicted_iou": 0.5}  # else it were the same as the first
RUNS = [7, 3, 3, 3, 3, 3, 3, 3, 20]


@pytest.mark.parametrize(
    ("change", "text", "score"),
    [
        ({"bbox": None}, "bbox is None, must be four numbers", 0.5),
        ({"bbox": [1, 1, 3]}, "must be four numbers", 0.5),
        ({"bbox": [1, 1, True, 2]}, "must be four numbers", 0.5),
        ({"bbox": [1, 1, float("nan"), 2]}, "must be in the image of 8 x 6 pixels", 0.5),
        ({"bbox": [1, 1, -3, 2]}, "must be in the image", 0.5),
        ({"bbox": [1, 1, 10**400, 2]}, "which is not finite", 0.5),
        ({"predicted_iou": None}, "predicted_iou is None; it has no score", None),
        ({"predicted_iou": "high"}, "predicted_iou is 'high'; it has no score", None),
        ({"predicted_iou": float("nan")}, "predicted_iou is nan; it has no score", None),
        ({"predicted_iou": float("inf")}, "it has no score", None),
        ({"predicted_iou": 10**400}, "it has no score", None),
    ],
)
def test_a_good_mask_is_used_whatever_is_beside_it(
    tmp_path: Path, change: dict, text: str, score: float | None
) -> None:
    write(tmp_path, "sa_1", annotation(5), annotation(6, **{**OTHER, **change}))
    index, summary, (mended,) = built(tmp_path)
    assert type(mended) is Mended
    assert mended.what == f"{tmp_path}/sa_1.json, annotation 6"
    assert text in mended.why
    assert "\n" not in mended.why
    first, second = index[0].objects
    assert (second.box, second.mask, second.score) == (first.box, first.mask, score)
    assert (summary.objects, summary.kept, summary.mended) == (2, 2, 1)
    with pytest.raises(DataError) as error:
        built(tmp_path, strict=True)
    assert str(error.value) == f"{mended.what}: {mended.why}"


def compressed(counts: Any, size: Any = (6, 8)) -> dict[str, Any]:
    return {"segmentation": {"size": size and list(size), "counts": counts}}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"segmentation": None}, "has no mask"),
        ({"segmentation": {"size": [6, 8]}}, "must be polygons or run lengths"),
        ({"segmentation": [[1, 1, 5, 1]]}, "must be three or more points"),
        (compressed(SQUARE, (6, 9)), "image of size [6, 9] (height, width), but the image has [6, 8]"),
        (compressed("73"), "mask has 10 pixels, but the image has 8 x 6 = 48"),
        (compressed(""), "not COCO compressed"),
        (compressed("7330000 a0"), "not COCO compressed"),
        (compressed("§§"), "not COCO compressed"),
        (compressed("\ud800"), "mask has 15 pixels"),
        (compressed("`1"), "its mask is empty"),
    ],
)
def test_an_object_whose_mask_is_bad_keeps_its_box(tmp_path: Path, change: dict, text: str) -> None:
    write(tmp_path, "sa_1", annotation(5), annotation(6, **OTHER, **change))
    index, summary, (mended,) = built(tmp_path)
    assert type(mended) is Mended
    assert text in mended.why
    item = index[0].objects[1]
    assert (item.box, item.mask, item.score) == ((1, 1, 5, 4), None, 0.5)
    assert (summary.objects, summary.kept, summary.mended) == (2, 2, 1)
    write(tmp_path, "sa_1", annotation(5), annotation(6, **{**OTHER, **change, "bbox": None}))
    index, summary, (skipped,) = built(tmp_path)
    assert type(skipped) is SkippedObject
    assert text in skipped.why
    assert skipped.why.endswith("bbox is None, must be four numbers (x, y, width, height)")
    assert (summary.objects, summary.kept, summary.objects_skipped) == (2, 1, 1)


@pytest.mark.parametrize(
    "change",
    [
        compressed(RUNS),
        compressed([float(run) for run in RUNS]),
        compressed(repr(SQUARE.encode())),
        compressed(SQUARE, (6.0, 8.0)),
        compressed(SQUARE, (8, 6)),  # its pixels are where its box is
        compressed(SQUARE, None),
        {"bbox": ["1", "1", "3.0", 2]},
        {"predicted_iou": "0.5"},
        {"id": None},
        {"id": "6"},
        {"id": 5},  # a number that another one has
    ],
)
def test_what_is_beyond_doubt_is_read(tmp_path: Path, change: dict) -> None:
    write(tmp_path, "sa_1", annotation(5), annotation(6, **{**OTHER, **change}))
    index, _, skipped = built(tmp_path)
    assert skipped == []
    first, second = index[0].objects
    assert (second.box, second.mask, second.score) == (first.box, first.mask, 0.5)


def test_what_is_no_annotation_and_what_is_listed_twice(tmp_path: Path) -> None:
    write(tmp_path, "sa_1", annotation(5), "text", annotation(7), {}, [])
    index, summary, skipped = built(tmp_path)
    path, why = f"{tmp_path}/sa_1.json", "must be an object with segmentation and bbox"
    assert skipped == [
        SkippedObject(f"{path}, entry 1 of annotations", f"is 'text', {why}"),
        SkippedObject(f"{path}, entry 4 of annotations", f"is [], {why}"),
        SkippedObject(
            f"{path}, entry 3 of annotations",
            "has no mask; bbox is None, must be four numbers (x, y, width, height)",
        ),
        SkippedObject(f"{path}, annotation 7", "is the same as annotation 5"),
    ]
    assert len(index[0].objects) == 1
    assert (summary.objects, summary.kept, summary.objects_skipped) == (5, 1, 4)


@pytest.mark.parametrize(
    "change",
    [
        *({"width": side} for side in (-1, 0, None, "wide", "8", 8.0)),
        {"height": float("nan")},
        {"file_name": None},
        {"file_name": "sa_000000/sa_1.jpg"},
        {"file_name": "images\\sa_1.jpg"},
        {"file_name": "/sa_1.jpg"},
        {"file_name": "sa_1.JPG"},
    ],
)
def test_a_size_or_name_that_is_not_stated_or_spelled_otherwise(tmp_path: Path, change: dict) -> None:
    write(tmp_path, "sa_1", annotation(4), **change)
    for trust in (False, True):
        index, summary, skipped = built(tmp_path, trust=trust)
        assert [(row.image, row.width, row.height) for row in index] == [("sa_1.jpg", 8, 6)]
        assert (summary.kept, skipped) == (1, [])


NO_FILE = "is not a file of SA-1B: that has an image and a list of annotations"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "is not JSON that can be read"),
        (b"{", "is not JSON that can be read"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "is not JSON that can be read"),
        (b"\xff\xfe{}", "is not UTF-8 text"),
        (b"[]", NO_FILE),
        (b"{}", NO_FILE),
        (b'{"image": {}, "annotations": {}}', NO_FILE),
        (b'{"image": [], "annotations": []}', NO_FILE),
    ],
)
def test_a_file_that_is_not_sa1b_is_named(tmp_path: Path, text: bytes, why: str) -> None:
    write(tmp_path, "sa_1", annotation())
    write(tmp_path, "sa_2", annotation())
    (tmp_path / "sa_1.json").write_bytes(text)
    index, summary, (skipped,) = built(tmp_path)
    assert skipped.what == f"{tmp_path}/sa_1.json"
    assert why in skipped.why
    assert "\n" not in skipped.why
    assert [row.image for row in index] == ["sa_2.jpg"]
    assert (summary.images, summary.written, summary.images_skipped) == (
        2,
        1,
        1,
    )  # a file and its image are one
    with pytest.raises(DataError) as error:
        built(tmp_path, strict=True)
    assert str(error.value) == f"{skipped.what}: {skipped.why}"


NAME = "must be that of the image beside it, such as sa_1.jpg"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"width": 9}, "is 8 x 6 pixels, but annotated as 9 x 6"),
        ({"width": 6, "height": 8}, "is 8 x 6 pixels, but annotated as 6 x 8"),
        ({"width": -8}, "is 8 x 6 pixels, but annotated as -8 x 6"),
        ({"file_name": 7}, NAME),
        ({"file_name": "sa_2.jpg"}, NAME),
        ({"file_name": "../sa_1.jpg"}, NAME),
        ({"file_name": "..\\sa_1.jpg"}, NAME),
        ({"file_name": "C:sa_1.jpg"}, NAME),
        ({"file_name": "sa_1.json"}, NAME),
        ({"file_name": "\ud800.jpg"}, NAME),
    ],
)
def test_an_image_that_is_not_as_annotated_takes_its_masks_along(
    tmp_path: Path, change: dict, why: str
) -> None:
    write(tmp_path, "sa_1", annotation(4), annotation(5), **change)
    write(tmp_path, "sa_2", annotation(6))
    index, summary, skipped = built(tmp_path)
    assert why in skipped[0].why
    assert skipped[0].what == f"{tmp_path}/sa_1.{'jpg' if 'annotated' in why else 'json'}"
    assert skipped[1:] == [
        SkippedObject(f"{tmp_path}/sa_1.json, annotation {k}", "its image cannot be used") for k in (4, 5)
    ]
    assert [row.image for row in index] == ["sa_2.jpg"]
    assert (summary.images, summary.written, summary.images_skipped) == (2, 1, 1)
    assert (summary.objects, summary.kept, summary.objects_skipped) == (3, 1, 2)


def test_a_file_and_an_image_without_each_other_are_named(tmp_path: Path) -> None:
    for name in ("sa_1", "sa_2", "sa_3", "sa_4"):
        write(tmp_path, name, annotation())
    (tmp_path / "sa_1.jpg").unlink()
    (tmp_path / "sa_2.json").unlink()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "sa_3.png")
    index, summary, skipped = built(tmp_path)
    assert [row.image for row in index] == ["sa_3.jpg", "sa_4.jpg"]
    assert [(s.what.removeprefix(f"{tmp_path}/"), s.why) for s in skipped] == [
        ("sa_1.jpg", "no such file"),
        ("sa_1.json, annotation 1", "its image cannot be used"),
        ("sa_2.jpg", "has no sa_2.json beside it"),
        ("sa_3.png", "is not the image that sa_3.json names"),
    ]
    assert (summary.images, summary.written, summary.images_skipped) == (5, 2, 3)
    assert (summary.objects, summary.kept, summary.objects_skipped) == (3, 2, 1)


def test_a_turned_photo_fits_its_masks_turned_or_not(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    write(tmp_path, "sa_1", annotation())
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "sa_1.jpg", exif=tags)
    write(tmp_path, "sa_2", annotation())
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "sa_2.jpg", exif=tags)
    rows, skipped = read(tmp_path)
    assert skipped == []
    assert [(row.width, row.height, len(row.objects)) for row in rows] == [(WIDTH, HEIGHT, 1)] * 2


def test_files_are_read_as_their_rows_are_asked_for(tmp_path: Path) -> None:
    for name in ("sa_1", "sa_2"):
        write(tmp_path, name, annotation())
    skipped: list[Skipped] = []
    rows = sa1b.read(tmp_path, None, skipped.append).rows
    assert next(rows).image == "sa_1.jpg"
    (tmp_path / "sa_2.json").write_text("{")
    assert skipped == []
    assert list(rows) == []
    assert len(skipped) == 1


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no JSON file in this folder or those in it"):
        read(tmp_path)
    write(tmp_path / "sa_000000", "sa_1")
    for split in ("sa_000001", "..", "../x", "/"):
        with pytest.raises(DataError, match=r"no such folder; in .* there are sa_000000"):
            read(tmp_path, split)


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_a_name_that_is_not_utf8_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    write(tmp_path, "sa_1")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/sa_\xff.json")).write_text("{}")
    except OSError:
        pytest.skip("this file system has no such names")
    rows, skipped = read(tmp_path)
    assert [row.image for row in rows] == ["sa_1.jpg"]
    assert [one.why for one in skipped] == ["its name is not UTF-8; rename it"]
