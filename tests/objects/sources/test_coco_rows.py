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
from pycocotools.mask import toBbox

from odis.errors import DataError
from odis.objects import rle
from odis.objects.clean import Crowd, Mended, SkippedObject, Unread, keep_usable, usable_size
from odis.objects.sources import annotation_join, coco, coco_rows, json_arrays
from odis.objects.sources.coco_annotation import checked_counts, to_box, to_corners
from odis.objects.sources.coco_categories import read_classes
from odis.objects.sources.coco_entries import name_of, read_annotations, read_images
from odis.objects.sources.coco_instances import ALL_CROWDS
from odis.objects.sources.coco_mask import read_mask
from odis.objects.sources.coco_rows import AGAIN
from odis.objects.sources.places import LEADS_OUT
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
names = st.sampled_from(["a.png", "b.png", "gone.png", "../a.png", "\ud800", None])
numbers = st.integers(0, 6) | st.sampled_from(["a", "3", 4.0, 2**70])
sides = st.sampled_from([(8, 6), (8, 6), (8.0, "6"), (0, 0), (-1, 6), (None, None), (9, 6)])
images = st.builds(
    lambda entry, side: {**entry, "width": side[0], "height": side[1]},
    st.fixed_dictionaries({"id": numbers, "file_name": names}, optional={"license": st.just({"id": "}, {"})}),
    sides,
)
annotations = st.fixed_dictionaries(
    {
        "image_id": st.integers(0, 7) | st.sampled_from(["a", "2", 3.0, 2**70, 2**64]),
        "category_id": st.sampled_from([1, 1, 1, 5, 7, "1", 5.0, 2**66, 2**67, None, "cat"]),
    },
    optional={
        "id": st.integers(0, 99) | st.sampled_from(["x", 2**65]),
        "bbox": bboxes,
        "segmentation": segmentations,
        "iscrowd": st.sampled_from([0, 0, 1, None, True, "0", "1", 2]),
    },
)
junk = st.sampled_from([None, 3, "x", [], {}, {"id": 1}])


def plain(root: Path, path: Path, skipped: list[Skipped]) -> list[ImageObjects]:
    """The whole file in memory, one annotation after the other."""
    content = json.loads(path.read_text())
    skip = skipped.append
    listed = read_images(
        content["images"], "file_name", 0, lambda what, why: skip(Skipped(f"{path}, {what}", why))
    )
    found = read_annotations(
        content["annotations"], 0, lambda what, why: skip(SkippedObject(f"{path}, {what}", why))
    )
    if content["annotations"] and all(found.crowds):
        skip(Unread(str(path), ALL_CROWDS))
    labels, _ = read_classes(path, content["categories"], set(found.categories), skip)
    first_of: dict[Any, int] = {}  # position of the row that an image number leads to
    by_name: dict[str, int] = {}
    again, same, doubt = set(), set(), {}
    for k, row in enumerate(listed.rows):
        if row[0] in first_of:
            again.add(k)
            if listed.rows[at := first_of[row[0]]][1] != row[1]:
                other = "an image without a name" if row[1] is None else repr(row[1])
                doubt[at] = f"its number {row[0]!r} is also that of {other}: whose its objects are is unknown"
            continue
        first_of[row[0]] = k if row[1] is None else by_name.setdefault(row[1], k)
        if first_of[row[0]] != k:
            same.add(k)
    of: dict[int, list[Any]] = {k: [] for k in range(len(listed.rows))}
    columns = zip(found.ids, found.images, found.categories, found.crowds, found.entries)
    for number, image, category, crowd, entry in columns:
        if image in first_of:
            of[first_of[image]].append((name_of(number), category, crowd, entry))
        else:
            shown = image if isinstance(image, int) else repr(image)
            skip(SkippedObject(f"{path}, {name_of(number)}", f"its image {shown} is not listed"))
    rows = []
    for k, (number, name, width, height) in enumerate(listed.rows):
        shown = number if isinstance(number, int) else repr(number)
        if k in again:
            skip(Skipped(f"{path}, image {shown}", f"{name}: this image number was listed before"))
            continue
        if k in same:
            skip(Unread(f"{path}, image {shown}, {name}", AGAIN))
            continue
        where = (
            f"{path}, image {shown}"
            if name is None
            else str(root / "s" / name.encode(errors="replace").decode())
        )
        for called, _, crowd, _ in of[k]:
            if crowd:
                skip(Crowd(f"{where}, {called}", "is a crowd"))
        named = [
            (f"{where}, {called}", category, entry) for called, category, crowd, entry in of[k] if not crowd
        ]
        place, why = {
            "a.png": ("s/a.png", ""),
            "b.png": ("s/b.png", ""),
            "../a.png": ("s/a.png", "no such file; s/a.png is another image that is listed"),
            "gone.png": (None, "no such file"),
            "\ud800": (None, LEADS_OUT),
            None: (None, "has no file_name"),
        }[name]
        if k in doubt:
            place, why = None, doubt[k]
        if place is None or (name == "../a.png" and "a.png" in by_name):
            skip(Skipped(where, why))
            for called, _, _ in named:
                skip(SkippedObject(called, "its image cannot be used"))
            continue
        stated = (width, height) if width else None
        size = usable_size(root / place, skip, annotated=stated, objects=[called for called, *_ in named])
        if size is not None:
            rows.append(ImageObjects(place, *size, objects_of(named, size, labels, skip)))
    return rows


def objects_of(
    named: list[tuple[str, Any, dict]], size: tuple[int, int], labels: dict, skip: Any
) -> tuple[Object, ...]:
    objects, written, problems = [], [], {}
    for called, category, entry in named:
        try:
            if category is None:
                raise DataError("has no category_id, or none that is a number or text")
            why = [] if category in labels else [f"category {category!r} is not listed; it has no label"]
            bbox, segmentation = entry.get("bbox"), entry.get("segmentation")
            box = to_box(bbox) if bbox else None
            mask, problem = read_mask(segmentation, *size, box)
            if box is None and mask is None:
                to_box(bbox)
            if box is None:
                x, y, w, h = toBbox({"size": size[::-1], "counts": mask}).tolist()
                box = (x, y, x + w, y + h)
                why.append("has no bbox; that of its mask is taken")
            if problem:
                why.append(f"{problem}; {'that part is left out' if mask else 'it has no mask'}")
            objects.append((called, Object(box, mask, labels.get(category))))
            written.append(repr((category, objects[-1][1].box, segmentation or None)))
            problems[len(objects) - 1] = "; ".join(why)
        except DataError as error:
            skip(SkippedObject(called, str(error)))
    kept = keep_usable(objects, size, 99, skip, written=written)
    for k, (called, item) in enumerate(objects):
        if problems[k] and any(item is one for one in kept):
            skip(Mended(called, problems[k]))
    return kept


@settings(max_examples=200, deadline=None)
@given(
    st.lists(images | images | images | junk, max_size=8),
    st.lists(annotations | annotations | annotations | junk, max_size=25),
    st.permutations(["images", "annotations", "categories"]),
    st.data(),
)
def test_rows_and_what_is_left_out_are_those_of_a_plain_reading(
    tmp_path_factory: pytest.TempPathFactory,
    listed: list[Any],
    drawn: list[Any],
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
        patch.setattr(coco_rows, "BLOCK", block)
        rows = list(coco.read(root, "s", skipped.append).rows)
    assert rows == wanted

    def sorted_lines(lines: list[Skipped]) -> list[tuple[str, str, str]]:
        return sorted((type(one).__name__, one.what, one.why) for one in lines)

    assert sorted_lines(skipped) == sorted_lines(expected)


@given(st.lists(bboxes))
def test_corners_are_those_of_each_box(many: list[Any]) -> None:
    corners = to_corners(many)
    for bbox, found in zip(many, corners, strict=True):
        try:
            expected = to_box(bbox)
        except DataError:
            assert np.isnan(found).any()
            continue
        if any(isinstance(value, str) for value in bbox):  # which is read with care
            assert np.isnan(found).all()
        elif np.isfinite(expected).all() and max(map(abs, expected)) < 2**59:
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
