import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from odis.errors import DataError
from odis.objects import rle
from odis.objects.build import Summary, build_index
from odis.objects.clean import Mended
from odis.objects.index import ObjectIndex
from odis.types import Skipped

SQUARE = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]
HALF = np.zeros((6, 8), dtype=bool)
HALF[:, 4:] = True

CONTENT: dict[str, Any] = {
    "info": {},
    "licenses": [],
    "images": [
        {"id": 7, "file_name": "b.png", "width": 8, "height": 6, "license": 1},
        {"id": 3, "file_name": "a.png", "width": 8, "height": 6},
        {"id": 9, "file_name": "c.png", "width": 8, "height": 6},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 90,
            "bbox": [1, 1, 4, 3],
            "iscrowd": 0,
            "area": 12.0,
            "segmentation": [SQUARE],
        },
        {
            "id": 2,
            "image_id": 7,
            "category_id": 2,
            "bbox": [4, 0, 4, 6],
            "iscrowd": 0,
            "segmentation": {"size": [6, 8], "counts": [24, 24]},
        },
        {
            "id": 3,
            "image_id": 7,
            "category_id": 2,
            "bbox": [0, 0, 8, 6],
            "iscrowd": 1,
            "segmentation": {"size": [6, 8], "counts": [0, 48]},
        },
        {
            "id": 4,
            "image_id": 3,
            "category_id": 1,
            "bbox": [4.5, 0.25, 3.5, 5.75],
            "segmentation": {"size": [6, 8], "counts": rle.encode(HALF).decode()},
        },
        {"id": 5, "image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1], "segmentation": []},
    ],
    "categories": [{"id": 2, "name": "bicycle"}, {"id": 1, "name": "person"}, {"id": 90, "name": "brush"}],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    (root / "mini2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    for name in "abc":
        Image.new("RGB", (8, 6)).save(root / f"mini2017/{name}.png")
    return root


def build(root: Path, content: Any = CONTENT, **options: Any) -> tuple[ObjectIndex, Summary, list[Skipped]]:
    (root / "annotations/instances_mini2017.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )
    skipped: list[Skipped] = []
    summary = build_index(
        "coco", root, root / "i.parquet", **{"split": "mini2017", "report": skipped.append, **options}
    )
    return ObjectIndex.open(root / "i.parquet"), summary, skipped


def test_every_kind_of_annotation(root: Path) -> None:
    index, summary, skipped = build(root)
    assert [row.image for row in index] == ["mini2017/b.png", "mini2017/a.png", "mini2017/c.png"]
    first, second, third = index
    assert [(o.box, o.label) for o in first.objects] == [((1, 1, 5, 4), 2), ((4, 0, 8, 6), 1)]
    assert [(o.box, o.label) for o in second.objects] == [((4.5, 0.25, 8, 6), 0), ((0, 0, 1, 1), 0)]
    assert third.objects == ()
    square = np.zeros((6, 8))
    square[1:4, 1:5] = 1
    masks = [o.mask and rle.decode(o.mask, 8, 6) for o in (*first.objects, *second.objects)]
    assert masks[3] is None
    for mask, expected in zip(masks, (square, HALF, HALF)):
        assert np.array_equal(mask, expected)
    assert (index.classes, index.provenance) == (["person", "bicycle", "brush"], "annotated")
    assert (summary.images, summary.written, summary.objects, summary.kept, summary.crowds, skipped) == (
        3,
        3,
        5,
        4,
        1,
        [],
    )


def bad(**change: Any) -> dict:
    content = copy.deepcopy(CONTENT)
    content["annotations"][0].update(change)
    return content


def compressed(counts: str) -> dict:
    return {"size": [6, 8], "counts": counts}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bbox": [1, 1, 0, 3]}, "is empty"),
        ({"bbox": [4, 1, -2, 3]}, "is inverted"),
        ({"bbox": [8, 0, 3, 3]}, "is outside"),
        ({"bbox": [1, 1, float("nan"), 3]}, "is not finite"),
        ({"bbox": [1, 1, 3]}, "must be four numbers"),
        ({"bbox": None, "segmentation": []}, "must be four numbers"),
        ({"bbox": None, "segmentation": [[1, 1]]}, "must be four numbers"),
        ({"bbox": ["a", 1, 3, 3]}, "must be four numbers"),
        ({"bbox": [True, 1, 3, 3]}, "must be four numbers"),
        ({"bbox": {"x": 1}}, "must be four numbers"),
        ({"category_id": None}, "has no category_id"),
        ({"category_id": [1]}, "has no category_id"),
    ],
)
def test_an_unusable_annotation_is_named(root: Path, change: dict, text: str) -> None:
    index, summary, (skipped,) = build(root, bad(**change))
    assert skipped.what == f"{root}/mini2017/b.png, annotation 1"
    assert text in skipped.why
    assert (summary.objects, summary.kept, summary.objects_skipped, summary.crowds) == (5, 3, 1, 1)
    assert len(index[0].objects) == 1
    with pytest.raises(DataError) as error:
        build(root, bad(**change), strict=True)
    assert str(error.value) == f"{skipped.what}: {skipped.why}"


@pytest.mark.parametrize(
    ("change", "text", "area", "label"),
    [
        ({"category_id": 5}, "category 5 is not listed; it has no label", 12, None),
        ({"category_id": "cat"}, "category 'cat' is not listed; it has no label", 12, None),
        ({"bbox": None}, "has no bbox; that of its mask is taken", 12, 2),
        ({"segmentation": [[1, 1, 5, 1]]}, "must be three or more points", None, 2),
        ({"segmentation": [[]]}, "must be three or more points", None, 2),
        ({"segmentation": [SQUARE, [1, 1, 5, 1, 5]]}, "that part is left out", 12, 2),
        ({"segmentation": [[3, 3], SQUARE]}, "polygon is [3, 3], must be three", 12, 2),
        ({"segmentation": [[1, 1, 1e12, 1, 5, 4]]}, "in or near the image", None, 2),
        ({"segmentation": [[1, 1, 10**400, 1, 5, 4]]}, "in or near the image", None, 2),
        ({"segmentation": [[1, 1, float("nan"), 1, 5, 4]]}, "in or near the image", None, 2),
        ({"segmentation": ["polygon"]}, "must be polygons or run lengths", None, 2),
        ({"segmentation": [[7, 5, 7, 5, 7, 5]]}, "its mask is empty; it has no mask", None, 2),
        ({"segmentation": {"size": [8, 6], "counts": [24, 24]}}, "for an image of size [8, 6]", None, 2),
        ({"segmentation": {"size": [6, 9], "counts": [24, 30]}}, "for an image of size [6, 9]", None, 2),
        ({"segmentation": {"size": [6, 8], "counts": [24, 25]}}, "mask has 49 pixels", None, 2),
        ({"segmentation": {"size": [6, 8], "counts": [50, -2]}}, "whole numbers from 0", None, 2),
        ({"segmentation": {"size": [6, 8], "counts": [2**30] * 9}}, "make up 9663676416", None, 2),
        ({"segmentation": {"counts": [24, 24]}}, "its pixels are not where its box is", None, 2),
        ({"segmentation": compressed(rle.encode(HALF[:5]).decode())}, "mask has 40 pixels", None, 2),
        ({"segmentation": compressed("§§")}, "not COCO compressed", None, 2),
        ({"segmentation": "no mask"}, "must be polygons or run lengths", None, 2),
        ({"segmentation": 7}, "must be polygons or run lengths", None, 2),
    ],
)
def test_an_object_keeps_what_is_good_of_it(
    root: Path, change: dict, text: str, area: int | None, label: int | None
) -> None:
    index, summary, (mended,) = build(root, bad(**change))
    assert type(mended) is Mended
    assert mended.what == f"{root}/mini2017/b.png, annotation 1"
    assert text in mended.why
    assert (summary.objects, summary.kept, summary.mended, summary.crowds) == (5, 4, 1, 1)
    item = index[0].objects[0]
    assert (item.box, item.label) == ((1, 1, 5, 4), label)
    assert (item.mask and rle.area(item.mask)) == area
    with pytest.raises(DataError) as error:
        build(root, bad(**change), strict=True)
    assert str(error.value) == f"{mended.what}: {mended.why}"


def test_unusable_images_take_their_objects_along(root: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["images"][1]["width"] = 9
    content["images"][2]["file_name"] = "gone.png"
    content["images"].append(content["images"][0])
    content["annotations"][4]["image_id"] = 11
    index, summary, skipped = build(root, content)
    assert [row.image for row in index] == ["mini2017/b.png"]
    assert [(Path(s.what).name, s.why) for s in skipped] == [
        ("instances_mini2017.json, annotation 5", "its image 11 is not listed"),
        ("a.png", "is 8 x 6 pixels, but annotated as 9 x 6"),
        ("a.png, annotation 4", "its image cannot be used"),
        ("gone.png", "no such file"),
        ("instances_mini2017.json, image 7", "b.png: this image number was listed before"),
    ]
    assert (summary.images, summary.written, summary.images_skipped) == (4, 1, 3)
    assert (summary.objects, summary.kept, summary.objects_skipped, summary.crowds) == (5, 2, 2, 1)


@pytest.mark.parametrize(
    "name",
    ["gone/./a.png", "./gone.png", "gone//a.png", "gone/", "gone/.", "gone.", ".gone/..a.png", "gone/a.png"],
)
def test_a_missing_image_is_called_by_its_path(root: Path, name: str) -> None:
    content = copy.deepcopy(CONTENT)
    content["images"][2]["file_name"] = name
    _, _, skipped = build(root, content)
    assert [s.what for s in skipped if s.why == "no such file"] == [str(root / "mini2017" / name)]


@pytest.mark.parametrize("segmentation", [[], [SQUARE], [[1, 1]]])
def test_pages_that_nobody_reads_are_counted_once(root: Path, segmentation: list) -> None:
    pages = [Image.new("L", (8, 6), k) for k in range(3)]
    pages[0].save(root / "mini2017/b.tif", save_all=True, append_images=pages[1:])
    content = bad(segmentation=segmentation)
    content["images"][0]["file_name"] = "b.tif"
    _, summary, _ = build(root, content)
    assert (summary.written, summary.kept) == (3, 4)
    assert summary.unread == {"further pages of TIFF files": 2}


@pytest.mark.parametrize("side", [10**400, -(10**400), 2**63, -2])
def test_a_size_that_no_image_has_is_named(root: Path, side: int) -> None:
    content = copy.deepcopy(CONTENT)
    content["images"][1]["width"] = side
    _, _, skipped = build(root, content, trust=True)
    assert any(f"is annotated as {side} x 6" in s.why for s in skipped)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "cannot be read"),
        ("[]", "has no list of images"),
        ({"images": [], "categories": []}, "has no list of annotations"),
        ({**CONTENT, "annotations": {"1": {}}}, "annotations is an object, must be a list of objects"),
        ({**CONTENT, "annotations": None}, "annotations is null, must be a list of objects"),
        ({**CONTENT, "images": "a.png"}, "images is text, must be a list of objects"),
        ({**CONTENT, "categories": {"1": "person"}}, "categories is an object, must be a list of objects"),
        (
            {name: CONTENT[name] for name in ("images", "annotations")},
            'has no list of categories; .*"categories": \\[\\] says that there are none',
        ),
        (
            {**CONTENT, "categories": [*CONTENT["categories"], {"id": 2, "name": "again"}]},
            "lists category 2 twice, as 'bicycle' and 'again'",
        ),
    ],
)
def test_a_file_that_is_not_coco_is_refused(root: Path, content: Any, text: str) -> None:
    with pytest.raises(DataError, match=rf"instances_mini2017\.json: .*{text}"):
        build(root, content)
    assert not (root / "i.parquet").exists()


@pytest.mark.parametrize(
    ("split", "images", "kept", "crowds"), [("train2017", 26, 328, 5), ("val2017", 25, 211, 2)]
)
def test_published_masks_equal_those_of_pycocotools(
    coco_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    split: str,
    images: int,
    kept: int,
    crowds: int,
) -> None:
    skipped: list[Skipped] = []
    summary = build_index("coco", coco_dir, tmp_path / "i.parquet", split=split, report=skipped.append)
    assert (summary.images, summary.written, summary.kept, summary.crowds, skipped) == (
        images,
        images,
        kept,
        crowds,
        [],
    )
    oracle = COCO(str(coco_dir / f"annotations/instances_{split}.json"))
    assert summary.objects == len(oracle.anns)
    by_name = {image["file_name"]: image["id"] for image in oracle.imgs.values()}
    names = {c["id"]: c["name"] for c in oracle.loadCats(oracle.getCatIds())}
    index = ObjectIndex.open(tmp_path / "i.parquet")
    for row in index:
        annotations = oracle.loadAnns(oracle.getAnnIds(by_name[Path(row.image).name], iscrowd=False))
        assert len(annotations) == len(row.objects)
        for item, annotation in zip(row.objects, annotations):
            assert item.mask is not None
            assert np.array_equal(rle.decode(item.mask, row.width, row.height), oracle.annToMask(annotation))
            assert rle.area(item.mask) == coco_mask.area(oracle.annToRLE(annotation))
            x, y, w, h = annotation["bbox"]
            assert item.box == pytest.approx((x, y, x + w, y + h), abs=1e-4)
            assert (
                index.classes[item.label if item.label is not None else -1]
                == names[annotation["category_id"]]
            )


def test_boxes_that_fit_a_turned_photo_both_ways_are_counted(tmp_path: Path) -> None:
    """The stated size says that they are of the photo as stored; where they fit what a viewer shows too, that
    is said. Nothing is where they fit one way alone, or the size is the viewer's.
    """
    from odis.objects.build import build_index

    turned = Image.Exif()
    turned[0x0112] = 6
    (tmp_path / "val").mkdir()
    (tmp_path / "annotations").mkdir()
    Image.new("RGB", (120, 80)).save(tmp_path / "val" / "a.jpg", exif=turned)
    for size, box, told in (
        ((120, 80), [10, 10, 20, 20], 1),
        ((120, 80), [90, 10, 20, 20], 0),
        ((80, 120), [10, 10, 20, 20], 0),
    ):
        content = {
            "images": [{"id": 1, "file_name": "a.jpg", "width": size[0], "height": size[1]}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0}],
            "categories": [{"id": 1, "name": "part"}],
        }
        (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
        summary = build_index("coco", tmp_path, tmp_path / f"{told}{size[0]}{box[0]}.parquet", "val")
        assert sum(n for kind, n in summary.unread.items() if kind.startswith("EXIF orientations")) == told
        assert summary.kept == 1
