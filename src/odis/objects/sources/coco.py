"""COCO as it is published: `SPLIT/*.jpg` and `annotations/instances_SPLIT.json`.

Segmentations may be polygons, uncompressed or compressed run lengths; each becomes compressed run lengths over the whole image.
Category numbers, which have gaps, become labels 0..n-1 in their order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pycocotools import mask as coco_mask

from odis.errors import DataError
from odis.objects.clean import Crowd, Skip, SkippedObject, usable_objects, usable_size
from odis.objects.sources import Source
from odis.types import Box, ImageObjects, Object, Skipped

_PREFIX = "instances_"

_FIELDS: dict[str, dict[str, Any]] = {
    "images": {"id": int | str, "width": int, "height": int},
    "annotations": {"id": int | str, "image_id": int | str, "category_id": int},
    "categories": {"id": int, "name": str},
}


def read(root: Path, split: str | None, skip: Skip) -> Source:
    """Every image of a split with its objects; an image without annotations has none. Crowds go to `skip` as `Crowd`.

    Args:
        root: Folder that holds `annotations/` and the image folders.
        split: As in the name of the annotation file: `train2017`, `val2017`.
        skip: Called with every image and object that cannot be used, and every crowd.

    Raises:
        DataError: The split is missing or not named, or its annotation file is not COCO's.
    """
    there = sorted(p.stem.removeprefix(_PREFIX) for p in (root / "annotations").glob(f"{_PREFIX}*.json"))
    if split is None or split not in there:
        wanted = f"no split {split!r}" if split else "a split must be named"
        found = ", ".join(there) or f"none (no annotations/{_PREFIX}SPLIT.json)"
        raise DataError(f"{root}: {wanted}; there are {found}")
    path = root / "annotations" / f"{_PREFIX}{split}.json"
    if not (root / split).is_dir():
        raise DataError(f"{root / split}: no such folder; the images of {path.name} should be there")
    return read_instances(root, path, lambda image: f"{split}/{image['file_name']}", skip)


def read_instances(root: Path, path: Path, place: Callable[[dict], str], skip: Skip, *, named_by: str = "file_name") -> Source:
    """An annotation file in COCO's form. LVIS and Objects365 publish theirs in it, with images in other places.

    Args:
        root: Folder of the data set.
        path: The annotation file. It is held in memory, and what it says of an image is let go as the image is passed.
        place: Where an image is, below `root`, from its entry.
        skip: Called with every image and object that cannot be used, and every crowd.
        named_by: The key of an image's entry that `place` reads.

    Raises:
        DataError: The file is not of this form.
    """
    content = _load(path, named_by)
    categories = {entry["id"]: entry["name"] for entry in sorted(content["categories"], key=lambda entry: entry["id"])}
    labels = {number: k for k, number in enumerate(categories)}

    def rows() -> Iterator[ImageObjects]:
        by_image: dict[int | str, list[dict]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            if annotation["image_id"] in by_image:
                by_image[annotation["image_id"]].append(annotation)
            else:
                skip(SkippedObject(f"{path}, annotation {annotation['id']}", f"its image {annotation['image_id']} is not listed"))
        for image in content["images"]:
            annotations = by_image.pop(image["id"], None)
            if annotations is None:
                skip(Skipped(f"{path}, image {image['id']}", f"{image[named_by]}: this image number was listed before"))
            else:
                yield from _rows(root, place(image), image, annotations, labels, skip)

    return Source(rows(), root, "annotated", list(categories.values()))


def _load(path: Path, named_by: str) -> dict[str, list[dict]]:
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    for name, keys in _FIELDS.items():
        keys = {named_by: str, **keys} if name == "images" else keys
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{path}: has no list of {name}; a COCO instances file has images, annotations and categories")
        for k, entry in enumerate(entries):
            wrong = [key for key, kinds in keys.items() if not isinstance(entry, dict) or not isinstance(entry.get(key), kinds)]
            if wrong:
                raise DataError(f"{path}: entry {k} of {name} has no {wrong[0]}, or not one of the right type")
    if len({entry["id"] for entry in content["categories"]}) < len(content["categories"]):
        raise DataError(f"{path}: lists a category twice")
    return content


def _rows(
    root: Path, name_in_root: str, image: dict, annotations: list[dict], labels: dict[int, int], skip: Skip
) -> Iterator[ImageObjects]:
    path = root / name_in_root.encode(errors="replace").decode()
    named = [(f"{path}, annotation {a['id']}", a) for a in annotations]
    for name, annotation in named:
        if annotation.get("iscrowd"):
            skip(Crowd(name, "is a crowd"))
    named = [(name, a) for name, a in named if not a.get("iscrowd")]
    if not inside(name_in_root):
        skip(Skipped(str(path), "its name leads out of the data set's folder, or names no file"))
        for name, _ in named:
            skip(SkippedObject(name, "its image cannot be used"))
        return
    size = usable_size(path, skip, annotated=(image["width"], image["height"]), objects=[name for name, _ in named])
    if size is None:
        return
    objects = []
    for name, annotation in named:
        try:
            objects.append((name, _object(annotation, *size, labels)))
        except DataError as error:
            skip(SkippedObject(name, str(error)))
    yield ImageObjects(name_in_root, *size, usable_objects(objects, size, len(labels), skip))


def inside(name: str) -> bool:
    """Whether a relative path stays in its folder."""
    parts = PurePosixPath(name).parts
    try:
        name.encode()  # half a surrogate pair, which JSON may hold, names no file
    except UnicodeEncodeError:
        return False
    return bool(parts) and ".." not in parts and not name.startswith("/") and "\\" not in name and ":" not in parts[0]


def _object(annotation: dict, width: int, height: int, labels: dict[int, int]) -> Object:
    if annotation["category_id"] not in labels:
        raise DataError(f"category {annotation['category_id']} is not listed")
    return Object(_box(annotation.get("bbox")), _mask(annotation.get("segmentation"), width, height), labels[annotation["category_id"]])


def _box(bbox: Any) -> Box:
    if not _numbers(bbox) or len(bbox) != 4:
        raise DataError(f"bbox is {_short(bbox)}, must be four numbers (x, y, width, height)")
    x, y, width, height = map(float, bbox)
    return x, y, x + width, y + height


def _mask(segmentation: Any, width: int, height: int) -> bytes | None:
    """Compressed counts of any of COCO's segmentations, checked before the C library sees them: it checks nothing."""
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        reach = max(width, height)  # a point further out than this is no point of the image, and would cost its distance in memory
        for polygon in segmentation:
            if not _numbers(polygon) or len(polygon) < 6 or len(polygon) % 2 or not all(-reach <= v <= 2 * reach for v in polygon):
                raise DataError(f"polygon is {_short(polygon)}, must be three or more points x, y in or near the image")
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))["counts"]
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        raise DataError(f"segmentation is {_short(segmentation)}, must be polygons or run lengths with size and counts")
    counts, size = segmentation["counts"], segmentation["size"]
    if size != [height, width]:
        raise DataError(f"mask is for an image of size {_short(size)} (height, width), but the image has {[height, width]}")
    if isinstance(counts, str):
        return counts.encode(errors="replace")  # what is no run lengths is found out by whoever reads them
    if not _numbers(counts) or any(not isinstance(c, int) or c < 0 for c in counts) or sum(counts) != width * height:
        raise DataError(f"run lengths do not make up the image of {width} x {height} pixels")
    return coco_mask.frPyObjects(segmentation, height, width)["counts"]


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
