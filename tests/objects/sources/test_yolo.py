import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from odis.errors import DataError
from odis.objects import rle
from odis.objects.build import Summary, build_index
from odis.objects.clean import Mended, SkippedObject, Unread
from odis.objects.index import ObjectIndex
from odis.objects.sources import text, yolo
from odis.types import ImageObjects, Object, Skipped

YAML = """\
# the first lines of a published file
path: . # dataset root dir
train: images/train # train images (relative to 'path')
val: images/val
test: # test images (optional)

names:
  0: person
  1: bicycle
  2: traffic light

download: |
  raise SystemExit
"""

SQUARE = (
    "2 0.125 0.16666666666666666 0.625 0.16666666666666666 0.625 0.6666666666666666 0.125 0.6666666666666666"
)


def save(path: Path, width: int = 8, height: int = 6, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height)).save(path, exif=exif)


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images to train on: boxes, a polygon and boxes, an empty label file, none; and one for
    validation.
    """
    root = tmp_path / "coco8"
    for name in ("train/a.jpg", "train/b.c.jpg", "train/more/d.png", "train/more/e.png", "val/f.jpg"):
        save(root / "images" / name)
    write(root / "data.yaml", YAML)
    write(root / "labels/train/a.txt", "1 0.5 0.5 0.5 0.5\n0 0.25 0.5 0.5 1\n")
    write(root / "labels/train/b.c.txt", f"\n{SQUARE}  \r\n0 0.5 0.5 1 1\t\n \n0 0.5 0.5 0.25 0.5 0.75")
    write(root / "labels/train/more/d.txt", "")
    write(root / "labels/val/f.txt", "2 0.5 0.5 1 1\n")
    return root


def build(root: Path, **options: Any) -> tuple[ObjectIndex, Summary, list[Skipped]]:
    skipped: list[Skipped] = []
    summary = build_index("yolo", root, root / "i.parquet", **{"report": skipped.append, **options})
    return ObjectIndex.open(root / "i.parquet"), summary, skipped


def never(skipped: Skipped) -> None:
    pytest.fail(f"{skipped.what}: {skipped.why}")


def names(root: Path, split: str | None = None) -> list[str]:
    return [row.image for row in yolo.read(root, split, never).rows]


def test_boxes_confidences_and_polygons(root: Path) -> None:
    index, summary, skipped = build(root)
    a, b, *without = index
    assert a == ImageObjects(
        "images/train/a.jpg", 8, 6, (Object((2, 1.5, 6, 4.5), label=1), Object((0, 0, 4, 6), label=0))
    )
    polygon, whole, scored = b.objects
    assert (polygon.box, polygon.label, polygon.score) == ((1, 1, 5, 4), 2, None)
    square = np.zeros((6, 8))
    square[1:4, 1:5] = 1
    assert polygon.mask is not None
    assert np.array_equal(rle.decode(polygon.mask, 8, 6), square)
    assert (whole, scored) == (Object((0, 0, 8, 6), label=0), Object((3, 1.5, 5, 4.5), None, 0, 0.75))
    assert without == [ImageObjects(f"images/train/more/{name}.png", 8, 6) for name in "de"]
    assert (index.classes, index.provenance, index.root) == (
        ["person", "bicycle", "traffic light"],
        "annotated",
        root,
    )
    assert (summary.images, summary.written, summary.objects, summary.kept, skipped) == (4, 4, 5, 5, [])
    (row,) = build(root, split="val")[0]
    assert row == ImageObjects("images/val/f.jpg", 8, 6, (Object((0, 0, 8, 6), label=2),))


def test_shares_are_of_the_image_as_it_is_shown(root: Path) -> None:
    save(root / "images/val/f.jpg", 8, 6, orientation=6)
    write(root / "labels/val/f.txt", "0 0.5 0.25 1 0.5\n0 0 0 1 0 1 0.5 0 0.5\n")
    (row,) = build(root, split="val")[0]
    assert (row.width, row.height) == (6, 8)
    assert [o.box for o in row.objects] == [(0, 0, 6, 4)] * 2
    upper = np.zeros((8, 6))
    upper[:4] = 1
    assert np.array_equal(rle.decode(row.objects[1].mask or b"", 6, 8), upper)


ALL = [
    "images/train/a.jpg",
    "images/train/b.c.jpg",
    "images/train/more/d.png",
    "images/train/more/e.png",
    "images/val/f.jpg",
]


@pytest.mark.parametrize(
    ("path", "train", "expected"),
    [
        (None, "images/train", ALL[:4]),
        ("images", "val", ALL[4:]),
        ("./images/", "./train/more/", ALL[2:4]),
        ("{root}/images", "train/../val", ALL[4:]),
        (".", "{root}/images/val", ALL[4:]),
        ("../coco8", "images/val", ALL[4:]),  # leads out and in again
        (None, ".", ALL),
        (None, ["images/val", "images/train/more"], [ALL[4], *ALL[2:4]]),
        (None, "lists/some.txt", [ALL[4], ALL[0]]),
        (None, ["lists/some.txt", "images/train/more"], [ALL[4], ALL[0], *ALL[2:4]]),
        ("images", "../lists/more.TXT", [ALL[2], ALL[1]]),
    ],
)
def test_where_images_may_be_listed(root: Path, path: str | None, train: Any, expected: list[str]) -> None:
    write(root / "lists/some.txt", f"\ufeff./../images/val/f.jpg\r\n\n  {root}/images/train/a.jpg  \n")
    write(root / "lists/more.TXT", "train/more/d.png\ntrain/b.c.jpg")
    content = {"path": path, "train": train, "names": ["x", "y", "z"]}
    write(
        root / "data.yaml",
        yaml.safe_dump({k: v.format(root=root) if isinstance(v, str) else v for k, v in content.items()}),
    )
    assert names(root) == expected


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a.png", "labels/a.txt"),
        ("train/images/a.b.png", "train/labels/a.b.txt"),
        ("images/images/x/a.png", "images/labels/x/a.txt"),
        ("images/x/images.png", "labels/x/images.txt"),
        ("my images/a.png", "my images/a.txt"),
        ("a.png", "a.txt"),
    ],
)
def test_where_the_labels_of_an_image_are(tmp_path: Path, image: str, label: str) -> None:
    save(tmp_path / image)
    write(tmp_path / label, "0 0.5 0.5 1 1")
    write(tmp_path / "any.yml", "train: .\nnames: [one]\nnc: 1\n")
    (row,) = yolo.read(tmp_path, None, never).rows
    assert row == ImageObjects(image, 8, 6, (Object((0, 0, 8, 6), label=0),))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("0 0.5 0.5 0.5", "has 4 numbers, must have 5 (class and box), 6 (and confidence) or 7, 9, ..."),
        ("0 .1 .1 .5 .1 .5 .5 .9", "has 8 numbers"),
        ("0 0.5 0.5 0.5 x", "is '0 0.5 0.5 0.5 x', must be numbers"),
        ("0 0.5 0.5 0.5 é", "is '0 0.5 0.5 0.5 é', must be numbers"),
        ("0,0.5,0.5,0.5,0.5", "has 1 number, must have 5"),
        ("0 0.5 0.5 0_5 0.5", "must be numbers"),
        ("0.5 0.5 0.5 0.5 0.5", "has class 0.5, must be a whole number"),
        ("nan 0.5 0.5 0.5 0.5", "has class nan"),
        ("0 nan 0.5 0.5 0.5", "has nan, must be a share"),
        ("0 0.5 inf 0.5 0.5", "has inf, must be a share"),
        ("0 4 3 4 3", "has 4, must be a share of the image's width or height, from 0 to 1"),
        ("0 0.5 0.5 -0.5 0.5", "is inverted"),
        ("0 0.5 0.5 0 0.5", "is empty"),
        ("0 0.5 0.5 -0.005 0.5", "is inverted"),
        ("0 1.5 0.5 0.5 0.5", "is outside the image of 8 x 6 pixels"),
        ("0 .1 .1 .5 .1 .5 2.5", "has 2.5, must be a share"),
        ("0 .5 .1 .5 .2 .5 .3", "is empty"),
    ],
)
def test_an_unusable_line_is_named(root: Path, line: str, text: str) -> None:
    write(root / "labels/train/a.txt", f"\n{line}\n0 0.5 0.5 1 1\n")
    index, summary, (skipped,) = build(root)
    assert skipped.what == f"{root}/labels/train/a.txt, line 2"
    assert text in skipped.why
    assert [o.box for o in index[0].objects] == [(0, 0, 8, 6)]
    assert (summary.images, summary.written, summary.objects, summary.kept, summary.objects_skipped) == (
        4,
        4,
        5,
        4,
        1,
    )
    with pytest.raises(DataError) as error:
        build(root, strict=True)
    assert str(error.value) == f"{skipped.what}: {skipped.why}"


@pytest.mark.parametrize(
    ("line", "expected", "text"),
    [
        ("bicycle 0.5 0.5 0.5 0.5", Object((2, 1.5, 6, 4.5), label=1), None),
        ("person 0.5 0.5 0.5 0.5 0.25", Object((2, 1.5, 6, 4.5), label=0, score=0.25), None),
        ("2.0 0.5 0.5 0.5 0.5", Object((2, 1.5, 6, 4.5), label=2), None),
        ("cat 0.5 0.5 0.5 0.5", Object((2, 1.5, 6, 4.5)), "has class 'cat', which the class list has not"),
        ("3 0.5 0.5 0.5 0.5", Object((2, 1.5, 6, 4.5)), "has class '3', which the class list has not"),
        ("-1 0.5 0.5 0.5 0.5", Object((2, 1.5, 6, 4.5)), "has class '-1'"),
        ("1e300 0.5 0.5 0.5 0.5", Object((2, 1.5, 6, 4.5)), "has class '1e300'"),
        ("0 0.5 0.5 0.5 0.5 1.5", Object((2, 1.5, 6, 4.5), label=0), "has confidence 1.5, which must be"),
        ("0 0.5 0.5 0.5 0.5 nan", Object((2, 1.5, 6, 4.5), label=0), "has confidence nan"),
        ("0 0.5 0.5 1.02 1", Object((0, 0, 8, 6), label=0), None),  # 0.08 pixels: rounding
        ("0 0.5 0.5 1.5 0.5", Object((0, 1.5, 8, 4.5), label=0), "reaches 2.0 pixels over the edge: clipped"),
        ("1 0.9 0.5 0.5 0.5", Object((5.2, 1.5, 8, 4.5), label=1), "reaches 1.2 pixels over the edge"),
        ("0 1.01 0.5 1 1", Object((4.08, 0, 12.08, 6), label=0), None),  # as far as is no carelessness
        (
            "0 .9 .9 .901 .9 .901 .901",
            Object((7.2, 5.4, 7.208, 5.406), label=0),
            "has a polygon that covers no pixel: kept without mask",
        ),
    ],
)
def test_what_is_odd_about_an_object_does_not_cost_it(
    root: Path, line: str, expected: Object, text: str | None
) -> None:
    write(root / "labels/train/a.txt", f"{line}\n")
    index, summary, mended = build(root)
    (found,) = index[0].objects
    np.testing.assert_allclose(found.box, expected.box, atol=1e-6)
    assert (found.mask, found.label, found.score) == (None, expected.label, expected.score)
    assert [type(one) for one in mended] == ([] if text is None else [Mended])
    assert (summary.objects, summary.kept, summary.mended) == (4, 4, len(mended))
    if text is not None:
        assert mended[0].what == f"{root}/labels/train/a.txt, line 1"
        assert text in mended[0].why
        with pytest.raises(DataError) as error:
            build(root, strict=True)
        assert str(error.value) == f"{mended[0].what}: {mended[0].why}"


def test_a_polygon_over_the_edge_keeps_the_part_inside(root: Path) -> None:
    write(root / "labels/train/a.txt", "0 0.5 0.5 1.5 0.5 1.5 1.5 0.5 1.5\n")
    index, _, (mended,) = build(root)
    (found,) = index[0].objects
    inside = np.zeros((6, 8))
    inside[3:, 4:] = 1
    assert found.mask is not None
    assert np.array_equal(rle.decode(found.mask, 8, 6), inside)
    assert found.box == (4, 3, 8, 6)
    assert "reaches 4.0 pixels over the edge: clipped" in mended.why


def test_the_same_line_twice_is_one_object(root: Path) -> None:
    write(root / "labels/train/a.txt", "1 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.5 0.5\n1 .5 .50 0.5 0.500\n")
    index, summary, (skipped,) = build(root)
    assert [o.label for o in index[0].objects] == [1, 0]
    assert type(skipped) is SkippedObject
    assert skipped.what == f"{root}/labels/train/a.txt, line 3"
    assert skipped.why == "is the same as line 1"
    assert (summary.objects, summary.kept, summary.objects_skipped) == (6, 5, 1)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "ascii"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_label_files_of_any_editor_are_read(root: Path, encoding: str, end: str) -> None:
    lines = end.join(["1 0.5 0.5 0.5 0.5", "", "0 0.25 0.5 0.5 1", ""])
    write(root / "labels/train/a.txt", lines.encode(encoding))
    index, _, skipped = build(root)
    assert index[0].objects == (Object((2, 1.5, 6, 4.5), label=1), Object((0, 0, 4, 6), label=0))
    assert skipped == []


def test_unusable_images_take_their_objects_along(root: Path) -> None:
    write(root / "images/train/b.c.jpg", b"")
    (root / "labels/train/more/d.txt").unlink()
    (root / "labels/train/more/d.txt").mkdir()
    index, summary, skipped = build(root)
    assert [row.image for row in index] == ["images/train/a.jpg", "images/train/more/e.png"]
    label = f"{root}/labels/train/more/d.txt"
    assert [(s.what.removeprefix(f"{root}/"), s.why) for s in skipped] == [
        ("images/train/b.c.jpg", "is empty (0 bytes)"),
        *((f"labels/train/b.c.txt, line {k}", "its image cannot be used") for k in (2, 3, 5)),
        (
            "images/train/more/d.png",
            f"its label file cannot be used: {label}: cannot be read (Is a directory)",
        ),
    ]
    assert (summary.images, summary.written, summary.images_skipped) == (4, 2, 2)
    assert (summary.objects, summary.kept, summary.objects_skipped) == (5, 2, 3)


def test_a_label_file_without_its_image_is_an_image_left_out(root: Path) -> None:
    write(root / "labels/train/x.txt", "0 0.5 0.5 1 1\n\n1 0.5 0.5 1 1\n")
    write(root / "labels/train/gone/y.txt", "0 0.5 0.5 1 1\n")
    write(root / "labels/train/z.txt", "")
    write(root / "images/train/z.svg", "<svg/>")
    write(root / "labels/train/classes.txt", "person\n")
    index, summary, skipped = build(root)
    assert summary.unread == {".svg files": 1}
    told = [s for s in skipped if not isinstance(s, Unread)]
    assert [(s.what.removeprefix(f"{root}/labels/train/"), s.why) for s in told] == [
        ("gone/y.txt", "has no image"),
        ("gone/y.txt, line 1", "its image cannot be used"),
        ("x.txt", "has no image"),
        ("x.txt, line 1", "its image cannot be used"),
        ("x.txt, line 3", "its image cannot be used"),
        ("z.txt", "has no image: z.svg is of a kind that is not read"),
    ]
    assert (len(index), summary.images, summary.images_skipped) == (4, 7, 3)
    assert (summary.objects, summary.kept, summary.objects_skipped) == (8, 5, 3)


def test_images_that_share_a_label_file_both_have_its_objects_and_are_named(root: Path) -> None:
    save(root / "images/train/a.png", 4, 6)
    index, summary, (mended,) = build(root)
    assert [(row.image, [o.box for o in row.objects]) for row in list(index)[:2]] == [
        ("images/train/a.jpg", [(2, 1.5, 6, 4.5), (0, 0, 4, 6)]),
        ("images/train/a.png", [(1, 1.5, 3, 4.5), (0, 0, 2, 6)]),
    ]
    assert mended == Mended(
        f"{root}/images/train/a.png", "shares its label file a.txt with another image of this name"
    )
    assert summary.mended == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"../secret.png", "'../secret.png' leads out of {root}, and there is no such image below it"),
        (b"./../../secret.png", "'./../../secret.png' leads out of {root}"),
        (b"images/../../secret.png", "'images/../../secret.png' leads out of {root}"),
        (b"..\\secret.png", "leads out of {root}"),
        (b"/secret.png", "'/secret.png' leads out of {root}"),
        (b"C:/images/f.jpg", "leads out of {root}"),
        (b"images/\0.jpg", "has control characters"),
        (b"images/\xe9.jpg", "is not UTF-8"),
    ],
)
def test_a_listed_path_that_may_not_be_used_is_named(root: Path, line: bytes, why: str) -> None:
    save(root.parent / "secret.png")
    write(root / "train.txt", b"./images/train/a.jpg\n" + line + b"\nimages/val/f.jpg\n")
    write(root / "data.yaml", YAML.replace("images/train", "train.txt"))
    index, summary, (skipped,) = build(root)
    assert skipped.what == f"{root}/train.txt, line 2"
    assert why.format(root=root) in skipped.why
    assert [row.image for row in index] == ["images/train/a.jpg", "images/val/f.jpg"]
    assert (summary.images, summary.images_skipped, summary.objects, summary.kept) == (3, 1, 3, 3)


def test_an_image_listed_again_is_left_out(root: Path) -> None:
    write(root / "train.txt", "images/val/f.jpg\nimages/train/a.jpg\n./images/train/../val/f.jpg\n")
    write(root / "data.yaml", YAML.replace("images/train ", "[train.txt, images/val] "))
    index, summary, skipped = build(root)
    assert [row.image for row in index] == ["images/val/f.jpg", "images/train/a.jpg"]
    assert skipped == [Skipped(str(root / "images/val/f.jpg"), "was listed before")] * 2
    assert (summary.images, summary.images_skipped, summary.objects) == (4, 2, 3)


def test_rows_come_as_they_are_asked_for(root: Path) -> None:
    skipped: list[Skipped] = []
    rows = yolo.read(root, None, skipped.append).rows
    assert next(rows).image == ALL[0]
    (root / ALL[1]).unlink()
    assert next(rows).image == ALL[2]
    assert [s.why for s in skipped[:1]] == ["no such file"]


def polygon(data: st.DataObject, width: int, height: int) -> list[tuple[float, float]]:
    x, y = data.draw(st.integers(0, width - 4)), data.draw(st.integers(0, height - 4))
    return [
        (x, y),
        (x + 3.25, y),
        (x + 3.25, y + 4),
        (x + 1, y + 3.25),
    ]  # no corner where rounding decides about a pixel


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_what_is_written_is_read_back(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(5, 90)), data.draw(st.integers(5, 90))
    name = st.text(min_size=1).filter(lambda s: s.strip() and s.isprintable())
    classes = data.draw(st.lists(name, min_size=1, max_size=4, unique=True))
    lines, expected = [], []
    for _ in range(data.draw(st.integers(0, 5))):
        k = data.draw(st.integers(0, len(classes) - 1))
        if data.draw(st.booleans()):
            (x0, x1), (y0, y1) = (
                sorted(data.draw(st.lists(st.integers(0, 4 * n), min_size=2, max_size=2, unique=True)))
                for n in (width, height)
            )
            score = data.draw(st.none() | st.floats(0, 1, width=32))
            shares = (
                (x0 + x1) / 8 / width,
                (y0 + y1) / 8 / height,
                (x1 - x0) / 4 / width,
                (y1 - y0) / 4 / height,
            )
            line = " ".join(map(repr, (k, *shares, *([] if score is None else [score]))))
            one = ((x0 / 4, y0 / 4, x1 / 4, y1 / 4), None, k, score)
        else:
            points = polygon(data, width, height)
            line = " ".join([str(k), *(f"{x / width!r} {y / height!r}" for x, y in points)])
            mask = coco_mask.frPyObjects([[v for point in points for v in point]], height, width)[0]["counts"]
            one = ((*points[0], *points[2]), mask, k, None)
        if one not in expected:  # the same object again is left out
            lines.append(line)
            expected.append(one)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        save(root / "images/a.png", width, height)
        write(root / "labels/a.txt", "\n".join(lines))
        write(
            root / "data.yaml",
            yaml.safe_dump({"train": "images", "names": dict(enumerate(classes))}, allow_unicode=True),
        )
        source = yolo.read(root, None, never)
        (row,) = source.rows
    assert source.classes == classes
    assert (row.width, row.height, len(row.objects)) == (width, height, len(expected))
    for item, (box, mask, k, score) in zip(row.objects, expected):
        np.testing.assert_allclose(np.float32(item.box), np.float32(box), rtol=2e-7, atol=1e-6)
        assert (item.mask, item.label, item.score) == (mask, k, score)


WORD = st.sampled_from(["0", "1", ".5", "-1", "nan", "1e400", "x", "é", "\t"])


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60) | st.lists(WORD).map(lambda words: " ".join(words).encode()))
def test_no_label_file_is_a_crash_or_a_silent_loss(content: bytes) -> None:
    skipped: list[Skipped] = []
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "a.png")
        write(Path(folder) / "a.txt", content)
        write(Path(folder) / "data.yaml", "train: .\nnames: [a, b]\n")
        rows = list(yolo.read(Path(folder), None, skipped.append).rows)
    assert len(rows) == 1
    assert len(rows[0].objects) + len([s for s in skipped if not isinstance(s, Mended)]) == len(
        text.decode(content).lines
    )


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="names:train 0123[]{},-!&*<'\"\n\t#?|>\\.", max_size=60))
def test_no_yaml_is_a_crash(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "a.png")
        write(Path(folder) / "data.yaml", text)
        with suppress(DataError):
            list(yolo.read(Path(folder), None, lambda skipped: None).rows)
