"""COCO's form read in windows and blocks, boxes looked at together: what a plain reading of the whole file
gives, word by word.
"""

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
from odis.objects.clean import Crowd, SkippedObject, keep_usable, usable_size
from odis.objects.sources import annotation_join, coco, json_arrays
from odis.objects.sources.coco_annotation import checked_counts, inside, to_box, to_corners, to_mask
from odis.types import ImageObjects, Object, Skipped

HALF = np.zeros((6, 8), dtype=bool)
HALF[:, 4:] = True
COUNTS = rle.encode(HALF).decode()
SQUARE = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]

bboxes = st.sampled_from(
    [
        [1, 1, 4, 3],
        [0.5, 0.25, 2, 2],
        [0, 0, 20, 20],
        [1, 1, 0, 3],
        [4, 1, -2, 3],
        [9, 0, 3, 3],
        [1, 1, float("nan"), 3],
        [1, 1, 3],
        None,
        ["1", 1, 3, 3],
        [True, 1, 3, 3],
        [10**400, 1, 3, 3],
        [2**80, 1, 3, 3],
        [1, float("inf"), 3, 3],
    ]
) | st.lists(st.integers(0, 9), min_size=4, max_size=4)
segmentations = st.sampled_from(
    [
        None,
        [],
        {},
        0,
        [SQUARE],
        [SQUARE, [0, 0, 2, 0, 2, 2]],
        [[1, 1, 5, 1]],
        [[7, 5, 7, 5, 7, 5]],
        [[1, 1, float("nan"), 1, 5, 4]],
        [[1, 1, 1e12, 1, 5, 4]],
        {"size": [6, 8], "counts": COUNTS},
        {"size": [8, 6], "counts": COUNTS},
        {"size": [6, 8], "counts": "PP0"},
        {"size": [6, 8], "counts": ""},
        {"size": [6, 8], "counts": "\u00a7"},
        {"size": [6, 8], "counts": [24, 24]},
        {"counts": COUNTS},
        {"size": [6, 8], "counts": [48]},
        "no mask",
    ]
)
names = st.sampled_from(["a.png", "b.png", "gone.png", "../a.png", "\ud800"])
images = st.fixed_dictionaries(
    {
        "id": st.integers(0, 6) | st.sampled_from(["a", 2**70]),
        "file_name": names,
        "width": st.just(8),
        "height": st.just(6),
    },
    optional={"license": st.just({"id": "}, {"})},
)
annotations = st.fixed_dictionaries(
    {
        "id": st.integers(0, 99) | st.sampled_from(["x", 2**65]),
        "image_id": st.integers(0, 7) | st.sampled_from(["a", 2**70, 2**64]),
        "category_id": st.sampled_from([1, 1, 1, 5, 7, 2**66, 2**67]),
    },
    optional={
        "bbox": bboxes,
        "segmentation": segmentations,
        "iscrowd": st.sampled_from([0, 0, 1, None, True]),
    },
)


def plain(root: Path, path: Path, skipped: list[Skipped]) -> list[ImageObjects]:
    """The whole file in memory, one annotation after the other."""
    content = json.loads(path.read_text())
    labels = {number: k for k, number in enumerate(sorted(entry["id"] for entry in content["categories"]))}
    of: dict[Any, list[dict]] = {image["id"]: [] for image in content["images"]}
    for a in content["annotations"]:
        if a["image_id"] in of:
            of[a["image_id"]].append(a)
        else:
            skipped.append(
                SkippedObject(f"{path}, annotation {a['id']}", f"its image {a['image_id']} is not listed")
            )
    rows, seen = [], set()
    for image in content["images"]:
        if image["id"] in seen:
            skipped.append(
                Skipped(
                    f"{path}, image {image['id']}",
                    f"{image['file_name']}: this image number was listed before",
                )
            )
            continue
        seen.add(image["id"])
        name = f"s/{image['file_name']}"
        file = root / name.encode(errors="replace").decode()
        named = [(f"{file}, annotation {a['id']}", a) for a in of[image["id"]]]
        skipped += [Crowd(called, "is a crowd") for called, a in named if a.get("iscrowd")]
        named = [(called, a) for called, a in named if not a.get("iscrowd")]
        if not inside(name):
            skipped.append(
                Skipped(str(file), "its name leads out of the data set's folder, or names no file")
            )
            skipped += [SkippedObject(called, "its image cannot be used") for called, _ in named]
            continue
        if (
            usable_size(file, skipped.append, annotated=(8, 6), objects=[called for called, _ in named])
            is None
        ):
            continue
        objects = []
        for called, a in named:
            try:
                if a["category_id"] not in labels:
                    raise DataError(f"category {a['category_id']} is not listed")
                mask = to_box(a.get("bbox")), to_mask(a.get("segmentation"), 8, 6)
                objects.append((called, Object(*mask, labels[a["category_id"]])))
            except DataError as error:
                skipped.append(SkippedObject(called, str(error)))
        rows.append(ImageObjects(name, 8, 6, keep_usable(objects, (8, 6), len(labels), skipped.append)))
    return rows


@settings(max_examples=150, deadline=None)
@given(
    st.lists(images, max_size=8),
    st.lists(annotations, max_size=25),
    st.permutations(["images", "annotations", "categories"]),
    st.data(),
)
def test_rows_and_what_is_left_out_are_those_of_a_plain_reading(
    tmp_path_factory: pytest.TempPathFactory,
    listed: list[dict],
    drawn: list[dict],
    order: list[str],
    data: st.DataObject,
) -> None:
    root = tmp_path_factory.getbasetemp() / "coco"
    if not root.exists():
        (root / "annotations").mkdir(parents=True)
        (root / "s").mkdir()
        for name in "ab":
            Image.new("L", (8, 6)).save(root / f"s/{name}.png")
    content = {
        "images": listed,
        "annotations": drawn,
        "categories": [{"id": n, "name": f"{n}"} for n in (5, 1, 0, 2**67)],
    }
    path = root / "annotations/instances_s.json"
    path.write_text(
        json.dumps({name: content[name] for name in order}, indent=data.draw(st.sampled_from([None, 1])))
    )
    expected: list[Skipped] = []
    wanted = plain(root, path, expected)
    skipped: list[Skipped] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "WINDOW", data.draw(st.sampled_from([5, 100, 1000, 10**6])))
        block = data.draw(st.integers(1, 5))
        patch.setattr(annotation_join, "BLOCK", block)
        patch.setattr(coco, "BLOCK", block)
        rows = list(coco.read(root, "s", skipped.append).rows)
    assert rows == wanted
    assert [(type(s), s.what, s.why) for s in skipped] == [(type(s), s.what, s.why) for s in expected]


@given(st.lists(bboxes))
def test_corners_are_those_of_each_box(many: list[Any]) -> None:
    corners = to_corners(many)
    for bbox, found in zip(many, corners, strict=True):
        try:
            expected = to_box(bbox)
        except DataError:
            assert np.isnan(found).any()
            continue
        if np.isfinite(expected).all() and max(map(abs, expected)) < 2**59:
            assert np.array_equal(found, expected)
        else:  # no pixel is there: which is said by the box as it stands in the file
            assert not np.isfinite(found).all() or np.abs(found).max() >= 2**59


@given(st.lists(segmentations))
def test_counts_that_are_checked_together_are_those_that_pass_alone(many: list[Any]) -> None:
    def passes(segmentation: Any) -> bool:
        try:
            return rle.check(segmentation["counts"].encode(errors="replace"), 8, 6) > 0 and segmentation[
                "size"
            ] == [6, 8]
        except (DataError, TypeError, KeyError, AttributeError, IndexError):
            return False

    found = checked_counts(many, [(8, 6)] * len(many))
    assert list(found) == [i for i, one in enumerate(many) if passes(one)]
    assert all(counts.decode() == many[i]["counts"] for i, counts in found.items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.jpg", True),
        ("..a/b", True),
        ("", False),
        (".", False),
        ("./", False),
        ("a/..", False),
        ("/a", False),
        ("c:/x", False),
        ("a\\b", False),
        ("a:b/c", False),
        ("a/b:c", True),
        ("\u00e9/b", True),
        ("\u00e9/../b", False),
        ("\ud800", False),
    ],
)
def test_names_that_stay_in_their_folder(name: str, expected: bool) -> None:
    assert inside(name) is expected
