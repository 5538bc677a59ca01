"""Objects365 v2 as it is published: `annotations/zhiyuan_objv2_SPLIT.json`, and images in `SPLIT/patchN/`.

The annotation file names an image `images/v2/patch16/objects365_v2_00908726.jpg`; unpacked, the archives put
it at `train/patch16/objects365_v2_00908726.jpg`. Boxes only; crowds are left out.
"""

from __future__ import annotations

from pathlib import Path

from odis.errors import DataError
from odis.objects.clean import Skip
from odis.objects.sources.coco import read_instances
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader


def read(root: Path, split: str | None, skip: Skip, *, trust: bool = False) -> AnnotationReader:
    """Every image of a split with its objects. Crowds go to `skip` as `Crowd`.

    Args:
        root: Folder that holds `annotations/` and the folders of the splits.
        split: `train` or `val`.
        skip: Called with every image and object that cannot be used, and every crowd.
        trust: Take the sizes that the file states, without opening the images.

    Raises:
        DataError: The split is missing or not named, its images are not there, or its annotation file is not
            Objects365's.
    """
    path = root / "annotations" / f"zhiyuan_objv2_{split}.json"
    if split is None or not path.is_file():
        there = sorted(
            p.stem.removeprefix("zhiyuan_objv2_") for p in (root / "annotations").glob("zhiyuan_objv2_*.json")
        )
        wanted = f"no split {split!r}" if split else "a split must be named"
        raise DataError(
            f"{root}: {wanted}; there are "
            f"{', '.join(there) or 'none (no annotations/zhiyuan_objv2_SPLIT.json)'}"
        )
    if not (root / split).is_dir():
        raise DataError(
            f"{root / split}: no such folder; the images of {path.name} should be there, in patch0, "
            f"patch1 and so on"
        )
    return read_instances(
        root, path, lambda name: "/".join([split, *name.split("/")[-2:]]), skip, trust=trust
    )


FORMAT = AnnotationFormat(
    name="objects365",
    title="Objects365 v2: boxes",
    layout="annotations/zhiyuan_objv2_SPLIT.json, images in SPLIT/patchN/",
    splits="train, val (required)",
    read=read,
    states_sizes=True,
)
