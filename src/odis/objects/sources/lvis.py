"""LVIS v1 as it is published: `annotations/lvis_v1_SPLIT.json`, on the images of COCO 2017.

Its `coco_url` names an image; the last two parts say where it is: `train2017/000000391895.jpg`, also for
images of LVIS's val split. What was not looked for in an image is not in the index: LVIS annotates some of
its 1203 classes in each.
"""

from __future__ import annotations

from pathlib import Path

from odis.objects.clean import Skip
from odis.objects.sources.coco_instances import read_layout
from odis.objects.sources.coco_layout import Layout
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader

_FOLDERS = ("train2017", "val2017", "test2017")


def read(
    root: Path,
    split: str | None,
    skip: Skip,
    *,
    trust: bool = False,
    images: str | None = None,
    annotations: str | None = None,
) -> AnnotationReader:
    """Every image of a split with its objects and masks.

    Args:
        root: Folder that holds `annotations/` and COCO's image folders.
        split: `train`, `val` or another part of the annotation file's name; needed where there are several.
        skip: Called with every image and object that cannot be used or only in part.
        trust: Take the sizes that the file states, without opening the images.
        images: Folder of COCO's image folders, if elsewhere.
        annotations: File or folder of the annotations, if elsewhere.

    Raises:
        DataError: The split is missing or not named, its annotation file is not LVIS's, or none of its images
            is there.
    """
    return read_layout(
        Layout("lvis", "lvis_v1_", ("", *_FOLDERS)),
        root,
        split,
        skip,
        trust=trust,
        images=images,
        annotations=annotations,
        named_by="coco_url",
        shorten=lambda name: "/".join(name.split("/")[-2:]),
        parts=_FOLDERS,
    )


FORMAT = AnnotationFormat(
    name="lvis",
    title="LVIS v1: boxes and masks, on the images of COCO",
    layout="annotations/lvis_v1_SPLIT.json, images in train2017/ and val2017/",
    splits="train, val (needed if there are several)",
    read=read,
    states_sizes=True,
    takes_places=True,
)
