"""COCO's panoptic form: a PNG whose colours are ids, and a JSON file that says what they are."""

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
from odis.objects.sources import coco_panoptic
from odis.types import Skipped

WIDTH, HEIGHT = 12, 8

CATEGORIES = [
    {"supercategory": "person", "color": [220, 20, 60], "isthing": 1, "id": 1, "name": "person"},
    {"supercategory": "sky", "color": [70, 130, 180], "isthing": 0, "id": 187, "name": "sky-other-merged"},
]

SKY, LEFT, RIGHT = 7_000_123, 300, 65_537  # need all three channels, two, and the first and third


def ids() -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH), np.int64)
    found[:3] = SKY
    found[4:7, 1:4], found[4:8, 6:10] = LEFT, RIGHT
    return found


def save(path: Path, values: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    else:
        channels = [values % 256, values // 256 % 256, values // 65536]
        Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(path)


SEGMENTS = [
    {"id": LEFT, "category_id": 1, "iscrowd": 0, "bbox": [1, 4, 3, 3], "area": 9},
    {"id": SKY, "category_id": 187, "iscrowd": 0, "bbox": [0, 0, 12, 3], "area": 36},
    {"id": RIGHT, "category_id": 1, "iscrowd": 1, "bbox": [6, 4, 4, 4], "area": 16},
]


def content(*annotations: Any, **change: Any) -> str:
    images = [{"id": 139, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT, "license": 2}]
    listed = list(annotations) or [{"segments_info": SEGMENTS, "file_name": "a.png", "image_id": 139}]
    return json.dumps({"images": images, "annotations": listed, "categories": CATEGORIES, **change})


def make(root: Path, text: str | None = None, folder: str = "annotations/panoptic_val2017") -> Path:
    save(root / "val2017/a.jpg")
    save(root / folder / "a.png", ids())
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/panoptic_val2017.json").write_text(text or content())
    return root


def built(root: Path, split: str | None = None, **options: Any) -> tuple[ObjectIndex, list[Skipped], Any]:
    skipped: list[Skipped] = []
    out = root.parent / "i.parquet"
    done = build_index("coco-panoptic", root, out, split, report=skipped.append, max_skipped=1, **options)
    return ObjectIndex.open(out), skipped, done


@pytest.mark.parametrize("folder", ["annotations/panoptic_val2017", "panoptic_val2017"])
@pytest.mark.parametrize("trust", [False, True])
def test_every_segment_is_an_object(tmp_path: Path, folder: str, trust: bool) -> None:
    root = make(tmp_path / "coco", folder=folder)
    index, skipped, done = built(root, "val2017", trust=trust)
    assert index.classes == ["person", "sky-other-merged"]
    (row,) = index
    assert (row.image, row.width, row.height) == ("val2017/a.jpg", WIDTH, HEIGHT)
    assert [(o.box, o.label) for o in row.objects] == [((1, 4, 4, 7), 0), ((0, 0, 12, 3), 1)]
    for item, value in zip(row.objects, (LEFT, SKY)):
        assert item.mask is not None
        assert np.array_equal(rle.decode(item.mask, WIDTH, HEIGHT), ids() == value)
    assert (done.crowds, skipped) == (1, [])


@pytest.mark.parametrize(
    ("segments", "why"),
    [
        ([{"id": 9, "category_id": 1}], "has no pixel"),
        ([{"id": None, "category_id": 1}], "has no pixel"),
        (["x"], "has no pixel"),
        ([SEGMENTS[0], SEGMENTS[0]], "was listed before"),
        ([{"id": LEFT, "category_id": 5}], "category 5 is not listed; it has no label"),
        ([{"id": LEFT}], "category None is not listed; it has no label"),
        (SEGMENTS[:2], "segments that are not listed"),
    ],
)
def test_a_segment_that_is_not_as_it_should_be_is_named(
    tmp_path: Path, segments: list[Any], why: str
) -> None:
    text = content({"segments_info": segments, "file_name": "a.png", "image_id": 139})
    _, skipped, _ = built(make(tmp_path / "coco", text))
    assert why in {one.why for one in skipped}


def test_images_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    names = ["a", "none", "grey", "jpg", "small", "gone", "out", "bad"]
    root = make(tmp_path / "coco")
    images = [
        {"id": k, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT}
        for k, name in enumerate(names)
    ]
    annotations = [
        {
            "segments_info": SEGMENTS,
            "file_name": "../a.png" if name == "out" else f"{name}.png",
            "image_id": k,
        }
        for k, name in enumerate(names)
        if name != "none"
    ]
    folder = root / "annotations/panoptic_val2017"
    for name in names:
        if name != "gone":
            save(root / f"val2017/{name}.jpg")
        save(folder / f"{name}.png", ids())
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "grey.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "jpg.png", "JPEG")
    save(folder / "small.png", ids()[:4])
    (folder / "bad.png").write_bytes(b"no PNG")
    text = content(images=[*images, images[0]], annotations=[*annotations, "x", {"image_id": 0}])
    (root / "annotations/panoptic_val2017.json").write_text(text)
    index, skipped, done = built(root)
    assert [row.image for row in index] == ["val2017/a.jpg"]
    told = "\n".join(f"{one.what}: {one.why}" for one in skipped)
    for why in (
        "image 1: has no annotation, so no PNG",
        "grey.png: is PNG with L pixels, must be a PNG with RGB",
        "jpg.png: is JPEG with RGB pixels, must be a PNG with RGB",
        "small.jpg: is 12 x 8 pixels, but annotated as 12 x 4",
        "image 5: no such file",
        "its PNG has file_name '../a.png', which is no name of a file",
        "bad.png: cannot be decoded",
        "entry 7 of annotations: is 'x', must be an object with image_id",
        "entry 8 of annotations: is {'image_id': 0}",
        "image 0: a.jpg: this image number was listed before",
    ):
        assert why in told, told
    assert done.images == 1 + len([one for one in skipped if type(one) is Skipped])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (content({"image_id": 139, "bbox": [1, 1, 2, 2]}), "have no segments_info, so it is not panoptic"),
        (content(categories=None), "has no list of categories; a panoptic file has"),
        ("{", "panoptic_val2017.json"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(DataError) as error:
        built(make(tmp_path / "coco", text))
    assert why in str(error.value)


def test_the_folder_of_png_files_is_missing(tmp_path: Path) -> None:
    root = make(tmp_path / "coco")
    (root / "annotations/panoptic_val2017").rename(root / "elsewhere")
    with pytest.raises(
        DataError, match=r"no such folder; it holds the PNG files .* \(unpack panoptic_val2017.zip\)"
    ):
        built(root)


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.integers(0, 4), min_size=WIDTH * HEIGHT, max_size=WIDTH * HEIGHT))
def test_masks_are_the_pixels_of_their_ids(
    tmp_path_factory: pytest.TempPathFactory, values: list[int]
) -> None:
    root = make(tmp_path_factory.mktemp("one"))
    found = np.array([0, 1, 300, 70_000, 16_777_215])[values].reshape(HEIGHT, WIDTH)
    save(root / "annotations/panoptic_val2017/a.png", found)
    there = [int(value) for value in np.unique(found) if value]
    segments = [{"id": value, "category_id": 1} for value in there]
    text = content({"segments_info": segments, "file_name": "a.png", "image_id": 139})
    (root / "annotations/panoptic_val2017.json").write_text(text)
    (row,) = coco_panoptic.read(root, None, lambda skipped: None).rows
    masks = [rle.decode(o.mask, WIDTH, HEIGHT) for o in row.objects if o.mask is not None]
    assert [mask.tolist() for mask in masks] == [(found == value).astype(int).tolist() for value in there]
