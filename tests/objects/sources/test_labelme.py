"""labelme's JSON files, as labelme 3 to 5 and X-AnyLabeling write them; what cannot be used is named."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from odis.errors import DataError
from odis.objects import rle
from odis.objects.build import build_index
from odis.objects.index import ObjectIndex
from odis.objects.sources import labelme
from odis.types import Object, Skipped

WIDTH, HEIGHT = 40, 30


def png(mask: np.ndarray) -> str:
    held = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).convert("1").save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()


def shape(label: Any, kind: Any, *points: tuple[float, float], **more: Any) -> dict[str, Any]:
    return {
        "label": label,
        "points": [list(point) for point in points],
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
        **more,
    }


def write(path: Path, *shapes: Any, **change: Any) -> None:
    """A file, and its image beside it unless it names another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": f"{path.stem}.jpg",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **change,
    }
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")


def save(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **more)


def built(root: Path, split: str | None = None, **options: Any) -> tuple[ObjectIndex, list[Skipped]]:
    skipped: list[Skipped] = []
    out = root.parent / "i.parquet"
    build_index("labelme", root, out, split, report=skipped.append, **{"max_skipped": 1, **options})
    return ObjectIndex.open(out), skipped


def pixels(item: Object) -> np.ndarray:
    assert item.mask is not None
    return rle.decode(item.mask, WIDTH, HEIGHT)


BOX = shape("cat", "rectangle", (4, 5), (20, 25))


def test_every_shape_is_what_was_drawn(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save(root / "a.jpg")
    patch = np.zeros((4, 6), bool)
    patch[1:, 2:] = True
    write(
        root / "a.json",
        shape("dog", "polygon", (2, 3), (12, 3), (12, 9), (2, 9)),
        shape("cat", "rectangle", (20, 25), (4.5, 5)),  # drawn from below on the right
        shape("ball", "circle", (20, 15), (23, 19)),
        shape("dog", "mask", (30, 20), (35, 23), mask=png(patch)),
        shape("cat", "oriented_rectangle", (10, 10), (14, 14), (12, 16), (8, 12)),
        shape("cat", "rectangle", (1, 1), (9, 1), (9, 8), (1, 8), score=0.75),  # X-AnyLabeling
        shape("cat", "line", (1, 1), (9, 9)),
        shape("cat", "points", (1, 1)),
        shape("__ignore__", "polygon", (0, 0), (9, 0), (9, 9)),
    )
    index, skipped = built(root)
    assert index.classes == ["ball", "cat", "dog"]
    (row,) = index
    assert (row.image, row.width, row.height) == ("a.jpg", WIDTH, HEIGHT)
    found = [(index.classes[o.label or 0], o.box, o.mask is not None, o.score) for o in row.objects]
    assert found == [
        ("dog", (2, 3, 12, 9), True, None),
        ("cat", (4.5, 5, 20, 25), False, None),
        ("ball", (15, 10, 25, 20), True, None),
        ("dog", (32, 21, 36, 24), True, None),
        ("cat", (8, 10, 14, 16), True, None),
        ("cat", (1, 1, 9, 8), False, 0.75),
    ]
    square = np.zeros((HEIGHT, WIDTH))
    square[3:9, 2:12] = 1
    assert np.array_equal(pixels(row.objects[0]), square)
    down, across = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    disc = (across - 20) ** 2 + (down - 15) ** 2 <= 25
    assert (pixels(row.objects[2]) != disc).sum() <= 8  # pixels that its edge runs through
    expected = np.zeros((HEIGHT, WIDTH))
    expected[21:24, 32:36] = 1
    assert np.array_equal(pixels(row.objects[3]), expected)
    assert [(one.what.rpartition("/")[2], one.why) for one in skipped] == [
        ("a.json, shape 7", "lines and points, which are no objects"),
        ("a.json, shape 8", "lines and points, which are no objects"),
    ]


def test_a_file_of_an_old_version_and_an_image_turned_by_exif(tmp_path: Path) -> None:
    root = tmp_path / "data"
    tags = Image.Exif()
    tags[0x0112] = 6
    save(root / "a.jpg", (HEIGHT, WIDTH), exif=tags)
    old = {"label": "cat", "points": [[4, 5], [20, 5], [20, 25]], "line_color": None, "fill_color": None}
    for change in ({}, {"imageWidth": None, "imageHeight": None}):
        write(root / "a.json", old, **change)
        index, skipped = built(root)
        assert skipped == []
        (row,) = index
        assert (row.width, row.height, row.objects[0].box) == (WIDTH, HEIGHT, (4, 5, 20, 25))


@pytest.mark.parametrize(
    ("image", "note", "path", "options"),
    [
        ("a.jpg", "a.json", "a.jpg", {}),
        ("a.jpg", "a.json", "C:\\photos\\a.jpg", {}),
        ("b.JPG", "a.json", "b.JPG", {}),
        ("images/a.png", "labels/a.json", "..\\images\\a.png", {}),
        ("images/a.png", "labels/a.json", "a.png", {}),
        ("images/a.png", "labels/a.json", "", {"images": "images", "annotations": "labels"}),
        ("x/a.jpg", "x/a.json", "a.jpg", {}),
        ("a.jpg", "a.json", "../../etc/passwd", {}),
    ],
)
def test_the_image_is_found(
    tmp_path: Path, image: str, note: str, path: str, options: dict[str, str]
) -> None:
    root = tmp_path / "data"
    save(root / image)
    write(root / note, BOX, imagePath=path)
    index, skipped = built(root, **options)
    assert [row.image for row in index] == [image]
    assert skipped == []


def test_images_outside_of_the_root_are_rows_of_their_folder(tmp_path: Path) -> None:
    save(tmp_path / "photos/a.jpg")
    write(tmp_path / "data/a.json", BOX, imagePath="..\\photos\\a.jpg")
    index, _ = built(tmp_path / "data", images="../photos")
    assert [row.image for row in index] == ["a.jpg"]
    assert index.root == tmp_path / "photos"


def test_splits(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split in ("train", "valid"):
        save(root / split / f"{split}.jpg")
        write(root / split / f"{split}.json", BOX)
    assert [row.image for row in built(root, "val")[0]] == ["valid/valid.jpg"]
    with pytest.raises(DataError, match="a split must be named; there are train, valid"):
        built(root)
    with pytest.raises(DataError, match="no split 'test'; there are train, valid"):
        built(root, "test")


def test_a_group_is_one_object(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save(root / "a.jpg")
    left = shape("cat", "polygon", (2, 2), (6, 2), (6, 8), (2, 8), group_id=0)
    right = shape("cat", "polygon", (10, 2), (14, 2), (14, 8), (10, 8), group_id=0)
    write(root / "a.json", left, BOX, right)
    (row,) = built(root)[0]
    assert [o.box for o in row.objects] == [(2, 2, 14, 8), (4, 5, 20, 25)]
    assert pixels(row.objects[0]).sum() == 2 * 4 * 6


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("text", "is 'text', must be an object with label and points"),
        (shape("", "polygon", (1, 1), (2, 2), (3, 1)), "label is '', must be text"),
        (shape(7, "polygon", (1, 1), (2, 2), (3, 1)), "label is 7, must be text"),
        (shape("cat", "polygon", (1, 1), (2, 2)), "is a polygon of 2 points, must be of 3 or more"),
        (shape("cat", "polygon", (1, 1, 1), (2, 2), (3, 1)), "has the point [1, 1, 1], must be x and y in"),
        (shape("cat", "polygon"), "points are [], must be a list of x and y"),
        (shape("cat", "rectangle", (1, 1)), "is a rectangle of 1 point, must be of 2"),
        (shape("cat", "circle", (1, 1)), "is a circle of 1 point, must be of 2"),
        (shape("cat", "star", (1, 1), (2, 2), (3, 1)), "shape_type is 'star', which is not known"),
        (shape("cat", "mask", (1, 1), (2, 2)), "is a mask without pixels"),
        (shape("cat", "mask", (1, 1), (2, 2), mask="§"), "mask is not base64"),
        (shape("cat", "mask", (1, 1), (2, 2), mask="AAAA"), "mask cannot be decoded"),
        (
            shape("cat", "mask", (1, 1), (2, 2), mask=png(np.ones((90, 9)))),
            "mask is of 9 x 90 pixels, larger",
        ),
        (shape("cat", "mask", (50, 1), (52, 2), mask=png(np.ones((2, 3)))), "mask has no pixel in the image"),
        (shape("cat", "rectangle", (1e99, 1), (2, 2)), "has the point [1e+99, 1]"),
        (shape("cat", "rectangle", (3, 3), (3, 9)), "box (3, 3, 3, 9) is empty"),
    ],
)
def test_a_shape_that_cannot_be_used_is_named(tmp_path: Path, bad: Any, why: str) -> None:
    root = tmp_path / "data"
    save(root / "a.jpg")
    write(root / "a.json", BOX, bad)
    index, (skipped,) = built(root)
    assert [len(row.objects) for row in index] == [1]
    assert skipped.what.endswith(", shape 2")
    assert why in skipped.why


def test_files_that_are_none_and_images_without_one(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in "abc":
        save(root / f"{name}.jpg")
    write(root / "a.json", BOX)
    write(root / "gone.json", BOX)
    (root / "b.json").write_text("{")
    (root / "coco.json").write_text('{"images": []}')
    (root / "notes.txt").write_text("as seen in May")
    (root / "form.docx").write_text("")
    index, skipped = built(root)
    assert [row.image for row in index] == ["a.jpg"]
    told = sorted((one.what.removeprefix(f"{root}/"), one.why.partition(" (")[0]) for one in skipped)
    assert told == [
        (str(root), ".docx files"),
        ("b.jpg", "images without a JSON file"),
        ("b.json", "is not JSON that can be read"),
        ("c.jpg", "images without a JSON file"),
        ("coco.json", "JSON files without shapes"),
        ("gone.jpg", "no such file"),
        ("gone.jpg, shape 1", "its image cannot be used"),
    ]
    for name in ("a", "gone"):
        (root / f"{name}.json").unlink()
    with pytest.raises(DataError, match="none of the JSON files here or below is of labelme"):
        built(root)
    for path in root.glob("*.json"):
        path.unlink()
    with pytest.raises(DataError, match="no JSON files here or below; --annotations DIR names their folder"):
        built(root)


def test_a_mask_without_a_stated_size_and_two_files_of_one_image(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save(root / "a.jpg")
    write(root / "a.json", shape("cat", "mask", (1, 1), (2, 2), mask=png(np.ones((2, 2)))), imageWidth=None)
    write(root / "b.json", BOX, imagePath="a.jpg")
    index, skipped = built(root)
    assert [(row.image, len(row.objects)) for row in index] == [("a.jpg", 1)]
    assert "states no imageWidth and imageHeight" in skipped[0].why
    assert "listed under another id too" in skipped[1].why


@settings(max_examples=30, deadline=None)
@given(
    boxes=st.lists(
        st.tuples(st.integers(0, 38), st.integers(0, 28), st.integers(1, 40), st.integers(1, 30)), max_size=4
    ),
    junk=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.integers(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=6,
    ),
    key=st.sampled_from(["label", "points", "group_id", "shape_type", "mask", "score", "flags"]),
)
def test_what_stands_in_a_shape_harms_no_other(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[int, ...]], junk: Any, key: str
) -> None:
    root = tmp_path_factory.mktemp("one")
    save(root / "a.jpg")
    good = [shape(f"c{k}", "rectangle", (x, y), (x + w, y + h)) for k, (x, y, w, h) in enumerate(boxes)]
    write(root / "a.json", *good, {**BOX, key: junk}, BOX)
    kept = [o.box for row in labelme.read(root, None, lambda skipped: None).rows for o in row.objects]
    assert kept[: len(boxes)] == [(x, y, x + w, y + h) for x, y, w, h in boxes]
    assert (4, 5, 20, 25) in kept
