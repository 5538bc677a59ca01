"""LVIS v1 as it is published: `annotations/lvis_v1_SPLIT.json`, on the images of COCO 2017.

Its `coco_url` names an image; the last two parts say where it is: `train2017/000000391895.jpg`, also for
images of LVIS's val split. What was not looked for in an image is not in the index: LVIS annotates some of
its 1203 classes in each.
"""

from __future__ import annotations

from pathlib import Path

from odis.errors import DataError
from odis.objects.clean import Skip
from odis.objects.sources.coco import read_instances
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader


def read(root: Path, split: str | None, skip: Skip, *, trust: bool = False) -> AnnotationReader:
    """Every image of a split with its objects and masks.

    Args:
        root: Folder that holds `annotations/` and COCO's image folders.
        split: `train`, `val` or another part of the annotation file's name.
        skip: Called with every image and object that cannot be used.
        trust: Take the sizes that the file states, without opening the images.

    Raises:
        DataError: The split is missing or not named, or its annotation file is not LVIS's.
    """
    path = root / "annotations" / f"lvis_v1_{split}.json"
    if split is None or not path.is_file():
        there = sorted(p.stem.removeprefix("lvis_v1_") for p in (root / "annotations").glob("lvis_v1_*.json"))
        wanted = f"no split {split!r}" if split else "a split must be named"
        raise DataError(
            f"{root}: {wanted}; there are {', '.join(there) or 'none (no annotations/lvis_v1_SPLIT.json)'}"
        )
    return read_instances(
        root, path, lambda name: "/".join(name.split("/")[-2:]), skip, named_by="coco_url", trust=trust
    )


FORMAT = AnnotationFormat(
    name="lvis",
    title="LVIS v1: boxes and masks, on the images of COCO",
    layout="annotations/lvis_v1_SPLIT.json, images in train2017/ and val2017/",
    splits="train, val (required)",
    read=read,
    states_sizes=True,
)
