"""Objects365 v2 as it is published: `annotations/zhiyuan_objv2_SPLIT.json`, and images in `SPLIT/patchN/`.

The annotation file names an image `images/v2/patch16/objects365_v2_00908726.jpg`; unpacked, the archives put
it at `train/patch16/objects365_v2_00908726.jpg`. Boxes only; crowds are left out.
"""

from __future__ import annotations

from pathlib import Path

from odis.objects.clean import Skip
from odis.objects.sources.coco_instances import read_layout
from odis.objects.sources.coco_layout import Layout
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader

_PATCHES = ("v1", "v2", *(f"patch{k}" for k in range(64)))  # the names of files say which image is meant


def read(
    root: Path,
    split: str | None,
    skip: Skip,
    *,
    trust: bool = False,
    images: str | None = None,
    annotations: str | None = None,
) -> AnnotationReader:
    """Every image of a split with its objects. Crowds go to `skip` as `Crowd`.

    Args:
        root: Folder that holds `annotations/` and the folders of the splits.
        split: `train` or `val`; needed where there are both.
        skip: Called with every image and object that cannot be used or only in part, and every crowd.
        trust: Take the sizes that the file states, without opening the images.
        images: Folder of the patches, if elsewhere.
        annotations: File or folder of the annotations, if elsewhere.

    Raises:
        DataError: The split is missing or not named, none of its images is there, or its annotation file is
            not Objects365's.
    """
    return read_layout(
        Layout("objects365", "zhiyuan_objv2_"),
        root,
        split,
        skip,
        trust=trust,
        images=images,
        annotations=annotations,
        shorten=lambda name: "/".join(name.split("/")[-2:]),
        parts=_PATCHES,
    )


FORMAT = AnnotationFormat(
    name="objects365",
    title="Objects365 v2: boxes",
    layout="annotations/zhiyuan_objv2_SPLIT.json, images in SPLIT/patchN/",
    splits="train, val (needed if there are several)",
    read=read,
    states_sizes=True,
    takes_places=True,
)
