"""LVIS and Objects365: COCO's form with images in other places; names that lead out of the data set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from odis.errors import DataError
from odis.objects import clean, rle
from odis.objects.build import Summary, build_index
from odis.objects.index import ObjectIndex
from odis.types import Skipped

SQUARE = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]
LVIS: dict[str, Any] = {
    "images": [
        {
            "id": 391895,
            "width": 8,
            "height": 6,
            "coco_url": "http://images.cocodataset.org/train2017/000000391895.jpg",
            "not_exhaustive_category_ids": [2],
            "neg_category_ids": [7],
        },
        {
            "id": 5,
            "width": 8,
            "height": 6,
            "coco_url": "http://images.cocodataset.org/val2017/000000000005.jpg",
        },
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 391895,
            "category_id": 2,
            "bbox": [1.0, 1.0, 4.0, 3.0],
            "area": 12.0,
            "segmentation": [SQUARE],
        },
        {"id": 2, "image_id": 5, "category_id": 1, "bbox": [0.5, 0.25, 2.0, 3.5], "segmentation": []},
    ],
    "categories": [
        {"id": 1, "name": "aerosol_can", "synset": "aerosol.n.02", "frequency": "c"},
        {"id": 2, "name": "air_conditioner", "frequency": "f"},
    ],
}
OBJECTS365: dict[str, Any] = {
    "images": [
        {
            "id": 908726,
            "width": 8,
            "height": 6,
            "file_name": "images/v2/patch16/objects365_v2_00908726.jpg",
            "license": 5,
        },
        {"id": 1, "width": 8, "height": 6, "file_name": "images/v1/patch8/objects365_v1_00000001.jpg"},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 908726,
            "category_id": 1,
            "bbox": [1.5, 1.0, 4.0, 3.0],
            "area": 12.0,
            "iscrowd": 0,
            "isfake": 0,
        },
        {"id": 2, "image_id": 908726, "category_id": 2, "bbox": [0, 0, 8, 6], "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "Person"}, {"id": 2, "name": "Sneakers"}],
}


def written(root: Path, name: str, content: Any, images: list[str]) -> Path:
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / name).write_text(json.dumps(content))
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(root / image)
    return root


def built(source: str, root: Path, split: str | None) -> tuple[ObjectIndex, Summary, list[Skipped]]:
    skipped: list[Skipped] = []
    summary = build_index(source, root, root / "i.parquet", split=split, report=skipped.append, max_skipped=1)
    return ObjectIndex.open(root / "i.parquet"), summary, skipped


def test_lvis_images_are_where_their_url_says(tmp_path: Path) -> None:
    images = ["train2017/000000391895.jpg", "val2017/000000000005.jpg"]
    index, summary, skipped = built(
        "lvis", written(tmp_path / "lvis", "lvis_v1_val.json", LVIS, images), "val"
    )
    assert [row.image for row in index] == images
    (first,), (second,) = (row.objects for row in index)
    assert (first.box, first.label, second.box, second.label) == ((1, 1, 5, 4), 1, (0.5, 0.25, 2.5, 3.75), 0)
    square = np.zeros((6, 8))
    square[1:4, 1:5] = 1
    assert np.array_equal(rle.decode(first.mask, 8, 6), square)
    assert second.mask is None
    assert index.classes == ["aerosol_can", "air_conditioner"]
    assert (summary.written, summary.kept, skipped) == (2, 2, [])


def test_objects365_images_are_in_their_patch(tmp_path: Path) -> None:
    images = ["train/patch16/objects365_v2_00908726.jpg", "train/patch8/objects365_v1_00000001.jpg"]
    root = written(tmp_path / "o365", "zhiyuan_objv2_train.json", OBJECTS365, images)
    index, summary, skipped = built("objects365", root, "train")
    assert [row.image for row in index] == images
    assert [o.box for o in index[0].objects] == [(1.5, 1, 5.5, 4)]
    assert index[1].objects == ()
    assert (index.classes, summary.crowds, skipped) == (["Person", "Sneakers"], 1, [])


@pytest.mark.parametrize(
    "name",
    [
        "a/../../../etc/x.jpg",
        "images/v2/../../../x.jpg",
        "p/..\\x.jpg",
        "images/v2/c:/x.jpg",
        "images/v2/\ud800.jpg",
    ],
)
def test_a_name_that_leads_out_is_skipped_and_counted(tmp_path: Path, name: str) -> None:
    content = json.loads(json.dumps(OBJECTS365))
    content["images"][0]["file_name"] = name
    images = ["train/patch8/objects365_v1_00000001.jpg"]
    _, summary, skipped = built(
        "objects365", written(tmp_path / "o365", "zhiyuan_objv2_train.json", content, images), "train"
    )
    assert (summary.images, summary.written, summary.images_skipped) == (2, 1, 1)
    assert (summary.objects, summary.kept, summary.objects_skipped, summary.crowds) == (2, 0, 1, 1)
    assert any("leads out of" in s.why or "no such file" in s.why for s in skipped)


COCO: dict[str, Any] = {
    **OBJECTS365,
    "images": [
        {"id": 908726, "width": 8, "height": 6, "file_name": "a.jpg"},
        {"id": 1, "width": 8, "height": 6, "file_name": "b/c.jpg"},
    ],
}
FORMS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "coco": ("instances_train.json", COCO, ["train/a.jpg", "train/b/c.jpg"]),
    "lvis": ("lvis_v1_train.json", LVIS, ["train2017/000000391895.jpg", "val2017/000000000005.jpg"]),
    "objects365": (
        "zhiyuan_objv2_train.json",
        OBJECTS365,
        ["train/patch16/objects365_v2_00908726.jpg", "train/patch8/objects365_v1_00000001.jpg"],
    ),
}


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("source", FORMS)
def test_odd_spellings_of_a_file_are_read_as_the_file(
    tmp_path: Path, source: str, trust: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, content, images = FORMS[source]
    wanted, _, skipped = built(source, written(tmp_path / "plain", file, content, images), "train")
    assert skipped == []
    odd = json.loads(json.dumps(content))
    for image, size in zip(odd["images"], ((-1, 6), ("8", 6.0))):
        image.update(id=str(image["id"]), width=size[0], height=size[1])
    odd["images"].append({**odd["images"][0], "id": "again", "width": None})
    for one in odd["annotations"]:
        del one["id"]
        one["image_id"] = float(one["image_id"])
        one["category_id"] = str(one["category_id"])
        one["bbox"] = [str(value) for value in one["bbox"]]
        one["iscrowd"] = {0: "false", 1: "1"}[one.get("iscrowd", 0)]
        if one.get("segmentation"):
            one["segmentation"] = one["segmentation"][0]
    odd["annotations"].append({**odd["annotations"][0], "image_id": "again", "area": None})
    odd["annotations"] += [None, {"category_id": 1}]
    odd["categories"].append("nothing")
    root = written(tmp_path / "odd", file, odd, images)
    opened: list[str] = []
    real = clean.header_sizes
    monkeypatch.setattr(
        clean, "header_sizes", lambda path, *more: opened.append(Path(path).name) or real(path, *more)
    )
    said: list[Skipped] = []
    summary = build_index(source, root, root / "i.parquet", split=None, report=said.append, trust=trust)
    found = ObjectIndex.open(root / "i.parquet")
    assert list(found) == list(wanted)
    assert found.classes == wanted.classes
    assert set(opened) == {Path(image).name for image in (images[:1] if trust else images)}
    assert sorted((type(one).__name__, one.why.split(",")[0]) for one in said) == [
        ("SkippedObject", "has no image_id"),
        ("SkippedObject", "is None"),
        ("SkippedObject", "is the same as entry 0 of annotations"),
        ("Unread", "categories without id or name"),
        (
            "Unread",
            "entries of images that are listed under another id too (their objects are with the first)",
        ),
    ]
    assert (summary.images, summary.images_skipped, summary.mended) == (2, 0, 0)


@pytest.mark.parametrize(
    ("source", "file"), [("lvis", "lvis_v1_val.json"), ("objects365", "zhiyuan_objv2_train.json")]
)
def test_refusals(tmp_path: Path, source: str, file: str) -> None:
    content = {"lvis": LVIS, "objects365": OBJECTS365}[source]
    root = written(tmp_path / "x", file, content, [])
    with pytest.raises(DataError, match=r"no split 'test'; there are (train|val)"):
        built(source, root, "test")
    split = file.rsplit("_", 1)[1].removesuffix(".json")
    for one in (split, None):  # the only one
        with pytest.raises(
            DataError, match=rf"none of the first images of .*{file} is there; .* --images DIR"
        ):
            built(source, root, one)
    (root / "train").mkdir()
    (root / "val2017").mkdir()
    with pytest.raises(DataError, match=r"no image that can be used; the first: .*: no such file"):
        built(source, root, split)
    images = ["train2017/000000391895.jpg", "train/patch16/objects365_v2_00908726.jpg"]
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(root / image)
    broken = json.loads(json.dumps(content))
    del broken["images"][1]["coco_url" if source == "lvis" else "file_name"]
    (root / "annotations" / file).write_text(json.dumps(broken))
    _, summary, skipped = built(source, root, split)
    assert (summary.images, summary.written) == (2, 1)
    assert [s.why for s in skipped if "has no" in s.why] == [
        f"has no {'coco_url' if source == 'lvis' else 'file_name'}"
    ]
