"""Boxes that cannot be right are noticed over the whole data set, whatever the format."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from odis.errors import DataError, OdisWarning
from odis.objects.build import Summary, build_index
from odis.objects.plausible import add, count_boxes, no_counts, verdicts
from odis.types import Box, ImageObjects, Object

WIDTH, HEIGHT = 96, 64


def sizes(n: int = 18) -> np.ndarray:
    """Boxes as x, y, width, height, well inside."""
    rng = np.random.default_rng(0)
    corner, size = rng.integers([20, 10], [60, 30], (n, 2)), rng.integers(10, 30, (n, 2))
    return np.concatenate([corner, size], axis=1).astype(float)


def picture(path: Path, orientation: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(path, exif=exif)


def coco(root: Path, boxes: np.ndarray, orientation: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    """`boxes` as they stand in the file, three an image."""
    images = [
        {"id": k, "file_name": f"{k}.jpg", "width": size[0], "height": size[1]}
        for k in range(len(boxes) // 3)
    ]
    for one in images:
        picture(root / "val" / one["file_name"], orientation)
    content = {
        "images": images,
        "annotations": [
            {"id": k, "image_id": k // 3, "category_id": 1, "bbox": box, "iscrowd": 0}
            for k, box in enumerate(boxes.tolist())
        ],
        "categories": [{"id": 1, "name": "part"}],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    return "coco"


def voc(root: Path, boxes: np.ndarray, orientation: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    """`boxes` as they stand in the files, three an image."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    names = [f"{k}" for k in range(len(boxes) // 3)]
    (root / "ImageSets/Main/val.txt").write_text("\n".join(names))
    for k, name in enumerate(names):
        picture(root / f"JPEGImages/{name}.jpg", orientation)
        objects = "".join(
            f"<object><name>cat</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
            "</bndbox></object>"
            for a, b, c, d in boxes[3 * k : 3 * k + 3].tolist()
        )
        stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        (root / f"Annotations/{name}.xml").write_text(f"<annotation>{stated}{objects}</annotation>")
    return "voc"


def build(
    make: Callable[..., str], root: Path, *args: object, **options: object
) -> tuple[Summary, list[str]]:
    """The summary of a data set, and what was warned of."""
    root.mkdir()
    form = make(root, *args)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        summary = build_index(form, root, root / "x.parquet", "val", **options)  # type: ignore[arg-type]
    return summary, [str(one.message) for one in warned if issubclass(one.category, OdisWarning)]


def corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def shares(boxes: np.ndarray) -> np.ndarray:
    return boxes / [WIDTH, HEIGHT, WIDTH, HEIGHT]


RIGHT = [(coco, lambda boxes: boxes), (voc, corners)]
WRONG = [
    (
        coco,
        corners,
        r"\d+ of 18 boxes reach far over the edge .* taken as x0, y0, x1, y1 instead of x, y, width",
    ),
    (
        voc,
        lambda boxes: boxes,
        r"\d+ of 18 boxes are inverted, .* taken as x, y, width, height instead of x0",
    ),
    (coco, shares, r"18 of 18 boxes are under a pixel: shares \(0 to 1\) where pixels are wanted\?"),
    (voc, lambda boxes: shares(corners(boxes)), r"18 of 18 boxes are under a pixel"),
    (coco, lambda boxes: boxes + np.array([WIDTH, 0, 0, 0]), r"18 of 18 boxes are outside of their image"),
]


@pytest.mark.parametrize(("make", "form"), RIGHT, ids=["coco", "voc"])
def test_boxes_as_the_format_has_them_are_no_news(tmp_path: Path, make: Callable, form: Callable) -> None:
    summary, told = build(make, tmp_path / "d", form(sizes()))
    assert (summary.kept, told) == (18, [])


@pytest.mark.parametrize(("make", "form", "text"), WRONG)
def test_most_in_another_form_are_an_error_and_nothing_is_written(
    tmp_path: Path, make: Callable, form: Callable, text: str
) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path / 'd'}: .*{text}.*; .*--max-skipped 1 writes"):
        build(make, tmp_path / "d", form(sizes()))
    assert not list((tmp_path / "d").glob("*x.*"))
    summary, told = build(make, tmp_path / "again", form(sizes()), max_skipped=1)
    assert (summary.images, summary.objects, len(told)) == (6, 18, 1)
    assert (tmp_path / "again/x.parquet").exists()


@pytest.mark.parametrize(("make", "form", "text"), WRONG[2:4])
def test_some_in_another_form_are_a_warning(
    tmp_path: Path, make: Callable, form: Callable, text: str
) -> None:
    boxes = dict(RIGHT)[make](sizes())
    boxes[:4] = form(sizes())[:4]
    summary, told = build(make, tmp_path / "d", boxes)
    assert summary.written == 6
    assert [
        one.endswith("4 of 18 boxes are under a pixel: shares (0 to 1) where pixels are wanted?")
        for one in told
    ]
    assert len(told) == 1


def test_per_cent_in_large_images(tmp_path: Path) -> None:
    rows = [ImageObjects("a.jpg", 800, 600, (Object((10.0, 20.0, 90.0, 95.0)),)) for _ in range(30)]
    (found,) = verdicts(count_boxes(rows, [], tmp_path))
    assert found.text.startswith(
        "30 of 30 boxes lie within 100 pixels of the corner of large images: per cent"
    )
    assert not found.fatal


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("make", [coco, voc])
def test_boxes_of_the_other_frame_of_a_turned_image(
    tmp_path: Path, make: Callable, orientation: int, trust: bool
) -> None:
    """Stored 96 x 64, shown 64 x 96: boxes of what is shown, size of what is stored; and the other way."""
    options = {"trust": trust} if make is coco or trust is False else {}
    form = dict(RIGHT)[make]
    text = "9 of 18 boxes fit only the other orientation of their image, and 3 images with such boxes"
    inside, far = sizes(), np.arange(60, 69)
    inside[:, :2] %= 30
    shown, stored = inside.copy(), inside.copy()
    shown[:9, 1], shown[:9, 3] = far, 20  # below the image of 64 pixels, and within one of 96
    stored[:9, 0], stored[:9, 2] = far, 20
    for name, boxes, size in (("a", shown, (WIDTH, HEIGHT)), ("b", stored, (HEIGHT, WIDTH))):
        summary, told = build(make, tmp_path / name, form(boxes), orientation, size, **options)
        assert summary.written == 6
        if make is voc:  # which reads an image's boxes together, and takes the frame that they fit
            assert (summary.kept, summary.mended, told) == (18, 3, [])
            continue
        assert len(told) == 1
        assert text in told[0]
    for name, boxes, size in (("c", stored, (WIDTH, HEIGHT)), ("d", shown, (HEIGHT, WIDTH))):
        summary, told = build(make, tmp_path / name, form(boxes), orientation, size, **options)
        assert (summary.kept, told) == (18, [])


def test_one_box_in_the_other_frame_says_so_in_the_error(tmp_path: Path) -> None:
    boxes = np.array([[40.0, 70, 20, 20]] * 3)
    wanted = r"none of its 3 objects can be used; 3 of 3 boxes fit only the other orientation.*turned by EXIF"
    with pytest.raises(DataError, match=wanted):
        build(coco, tmp_path / "d", boxes, 6)


def test_values_of_twelve_bits_in_sixteen(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    values = np.arange(48, dtype=np.uint16).reshape(6, 8)
    for k in range(6):
        Image.fromarray(values * 87).save(data / f"{k}.png")
    with pytest.warns(
        OdisWarning, match=r"16-bit images hold no value above 4,095 \(4 were looked at\).*views.value_ranges"
    ):
        build_index("folder", data, tmp_path / "x.parquet")
    Image.fromarray(values * 1000).save(data / "0.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_index("folder", data, tmp_path / "x.parquet")


side = st.integers(1, 100)
edge = st.floats(-50, 150, allow_nan=False) | st.sampled_from([float("nan"), float("inf")])
box = st.tuples(edge, edge, edge, edge)


@given(st.lists(st.tuples(side, side, st.lists(box, max_size=4), st.lists(box, max_size=3)), max_size=6))
def test_parts_add_up_to_the_whole(images: list[tuple[int, int, list[Box], list[Box]]]) -> None:
    rows = [ImageObjects("a", w, h, tuple(map(Object, kept))) for w, h, kept, _ in images]
    refused = [(k, one) for k, image in enumerate(images) for one in image[3]]
    whole = count_boxes(rows, refused, Path("nowhere"))
    total = no_counts()
    for k, row in enumerate(rows):
        add(total, count_boxes([row], [(0, one) for i, one in refused if i == k], Path("nowhere")))
    assert total == whole
    assert whole["boxes"] == sum(bool(np.isfinite(b).all()) for _, _, a, c in images for b in (*a, *c))
    assert all(0 <= count <= whole["boxes"] for count in whole.values())


@given(st.integers(0, 2**32 - 1))
def test_boxes_inside_their_images_are_never_suspected(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(20):
        width, height = rng.integers(200, 600, 2).tolist()
        low, high = np.sort(rng.uniform(0, 1, (2, 3, 2)), axis=0) * [width, height]
        boxes = np.concatenate([low, high + 1], axis=1).tolist()
        rows.append(ImageObjects("a", width, height, tuple(Object(tuple(one)) for one in boxes)))
    assert verdicts(count_boxes(rows, [], Path("nowhere"))) == []


def test_boxes_at_the_end_of_all_numbers_are_passed_over_in_silence() -> None:
    row = ImageObjects("a", 8, 6, (Object((1.0, 1.0, 4.0, 4.0)),))
    refused = [(0, (1e308, 1.0, 1.7e308, 4.0)), (0, (-1e308, 1.0, 1e308, 4.0))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count_boxes([row], refused, Path("nowhere"))["boxes"] == 1
