"""Objects as a row of a table, or the JSON beside an image, describes them: the forms that the guides of
Hugging Face's `datasets` and AutoTrain show, and those of COCO's annotations.

They are in `objects` (or `annotations`), lists of one length (`bbox`, `category`) or a list of objects; or in
columns of their own. A `bbox` is x, y, width, height in pixels. In a text they are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.clean import Crowd, Skip, SkippedObject
from odis.objects.sources.coco_annotation import to_box
from odis.objects.sources.coco_entries import short
from odis.objects.sources.coco_rows import CocoAnnotation
from odis.objects.sources.plain_table import NO_LABEL
from odis.objects.sources.records import is_nothing
from odis.types import Box

OBJECTS = ("objects", "annotations", "annotation")
"""Names of what holds objects; the others are in it, or beside it if it is missing."""

BOXES = ("bbox", "bboxes", "boxes", "box")
LABELS = (
    *("category", "categories", "category_id", "category_ids", "label", "labels", "class", "classes", "name"),
)
MASKS = ("segmentation", "segmentations")
SCORES = ("score", "scores")
CROWDS = ("iscrowd",)

_MOST = 2**20  # objects of an image


def has_objects(row: dict[str, Any]) -> bool:
    """Whether a row has something where objects are described, perhaps an empty list of them."""
    return any(not is_nothing(row.get(name)) for name in (*OBJECTS, *BOXES))


def described_objects(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects of a row: `id` (from 1), `bbox`, `label` (text or None), `iscrowd`; `segmentation` and
    `score` if it has them.

    Raises:
        DataError: Its objects are nothing of what they may be.
    """
    held = next((found for key in OBJECTS if not is_nothing(found := _decoded(row.get(key)))), row)
    listed = _columns(held) if isinstance(held, dict) else held
    if not isinstance(listed, list):
        raise DataError(f"objects are {short(held)}, must be lists of one length, or a list of objects")
    for k, one in enumerate(listed[:_MOST], start=1):
        if not isinstance(one, dict):
            raise DataError(f"object {k} is {short(one)}, must be an object with bbox and category")
        label, score, mask = (first_of(one, names) for names in (LABELS, SCORES, MASKS))
        label = label_text(label)
        entry: dict[str, Any] = {
            "id": k,
            "bbox": first_of(one, BOXES),
            "iscrowd": one.get("iscrowd", 0),
            "label": label,
        }
        if not is_nothing(mask):
            entry["segmentation"] = mask
        if not is_nothing(score):
            entry["score"] = score
        yield entry


def annotations_of(
    row: dict[str, Any], where: str, labelled: bool, skip: Skip
) -> list[tuple[str, CocoAnnotation]]:
    """The objects of a row as annotations to be checked (`coco_rows.read_objects`), each behind what it is
    called; crowds, and objects that are nothing of what they may be, are passed to `skip`.

    Args:
        row: What describes the image.
        where: What the image is called.
        labelled: Whether the data set has classes: an object without one is then named.
        skip: Called with what is left out.
    """
    found = []
    try:
        for one in described_objects(row):
            called = f"{where}, object {one['id']}"
            if label_text(one["iscrowd"]) not in (None, "0", "", "false") or one["iscrowd"] is True:
                skip(Crowd(called, "is a crowd"))
                continue
            category = one["label"] if one["label"] is not None or not labelled else NO_LABEL
            rest = one["bbox"], one.get("segmentation"), one.get("score")
            found.append((called, CocoAnnotation(one["id"], category, False, (0.0, 0.0, 0.0, 0.0), rest)))
    except DataError as error:
        skip(SkippedObject(where, str(error)))
    return found


def boxes_of(named: list[tuple[str, CocoAnnotation]]) -> list[Box]:
    """The boxes of annotations that have one."""
    found = []
    for _, one in named:
        with suppress(DataError):
            found.append(to_box(one.rest[0] if one.rest else None))
    return found


def _columns(held: dict[str, Any]) -> list[dict[str, Any]]:
    """A list of objects, from lists of one length."""
    boxes = next((found for key in BOXES if not is_nothing(found := _decoded(held.get(key)))), None)
    if boxes is None:
        return []
    if not isinstance(boxes, list):
        raise DataError(f"bbox is {short(boxes)}, must be a list of boxes")
    if boxes and not isinstance(boxes[0], list):
        boxes = [boxes]  # of one object
    objects: list[dict[str, Any]] = [{"bbox": box} for box in boxes]
    for names in (LABELS, MASKS, SCORES, CROWDS):
        for key in names:
            values = _decoded(held.get(key))
            if isinstance(values, list) and len(values) == len(boxes):
                for one, value in zip(objects, values):
                    one[names[0]] = value
                break
            if isinstance(values, list) and values:
                raise DataError(f"has {counted(len(boxes), 'box')}, but {len(values)} of {key}")
            if len(boxes) == 1 and not is_nothing(values) and not isinstance(values, list | dict):
                objects[0][names[0]] = values
                break
    return objects


def first_of(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The first of some cells that is not empty; None if all are."""
    return next((row[name] for name in names if not is_nothing(row.get(name))), None)


def label_text(label: Any) -> str | None:
    """The name of a class; None for what is no text or number."""
    if isinstance(label, bool) or is_nothing(label) or not isinstance(label, str | int | float):
        return None
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label).strip()


def _decoded(value: Any) -> Any:
    """A list or object that a CSV file holds as JSON, or as Python prints it."""
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(value.replace("'", '"').replace("None", "null"))
    except (ValueError, RecursionError):
        return value
