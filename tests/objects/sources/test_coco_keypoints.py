"""COCO's keypoints: boxes and masks are read, keypoints are counted; without a box, theirs is taken."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from odis.objects.build import build_index
from odis.objects.index import ObjectIndex
from odis.types import Skipped

PERSON = {
    "segmentation": [[2, 3, 12, 3, 12, 9, 2, 9]],
    "num_keypoints": 2,
    "area": 60,
    "iscrowd": 0,
    "keypoints": [0, 0, 0, 5, 4, 2, 9, 8, 1],
    "image_id": 7,
    "bbox": [2, 3, 10, 6],
    "category_id": 1,
    "id": 1,
}


def built(root: Path, *annotations: dict[str, Any]) -> tuple[ObjectIndex, list[Skipped]]:
    (root / "val2017").mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(root / "val2017/a.jpg")
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": list(annotations),
        "categories": [
            {
                "supercategory": "person",
                "id": 1,
                "name": "person",
                "keypoints": ["nose"],
                "skeleton": [[1, 2]],
            }
        ],
    }
    (root / "annotations").mkdir()
    (root / "annotations/person_keypoints_val2017.json").write_text(json.dumps(content))
    skipped: list[Skipped] = []
    build_index("coco", root, root / "i.parquet", "val2017", report=skipped.append)
    return ObjectIndex.open(root / "i.parquet"), skipped


def test_the_published_file(tmp_path: Path) -> None:
    crowd = {
        **PERSON,
        "id": 2,
        "iscrowd": 1,
        "keypoints": [],
        "segmentation": {"size": [30, 40], "counts": [1200]},
    }
    index, (skipped,) = built(tmp_path, PERSON, crowd)
    (item,) = index[0].objects
    assert (item.box, item.mask is not None, index.classes) == ((2, 3, 12, 9), True, ["person"])
    assert skipped.why == "objects with keypoints (their box and mask are read)"


@pytest.mark.parametrize(
    ("change", "box", "why"),
    [
        ({}, (5, 4, 9, 8), "has no bbox; that of its keypoints is taken"),
        ({"bbox": [1, 1, 2, 2]}, (1, 1, 3, 3), None),
        ({"keypoints": [5, 4, 0]}, None, "has no bbox, and none of its keypoints is labelled"),
        ({"keypoints": [5, 4]}, None, "keypoints are [5, 4], must be numbers x, y, v, x, y, v, ..."),
        ({"keypoints": "x"}, None, "keypoints are 'x', must be numbers x, y, v, x, y, v, ..."),
        ({"keypoints": [5, 4, 2]}, None, "box (5, 4, 5, 4) is empty"),
    ],
)
def test_an_object_of_keypoints_alone(
    tmp_path: Path, change: dict[str, Any], box: tuple[int, ...] | None, why: str | None
) -> None:
    alone = {**{k: v for k, v in PERSON.items() if k not in ("bbox", "segmentation")}, "id": 2, **change}
    index, skipped = built(tmp_path, PERSON, alone)
    assert [o.box for o in index[0].objects[1:]] == ([] if box is None else [box])
    assert [one.why for one in skipped[1:]] == ([] if why is None else [why])
