"""COCO as it is published, `SPLIT/*.jpg` and `annotations/instances_SPLIT.json`, and as tools export it.

Segmentations may be polygons, uncompressed or compressed run lengths; each becomes compressed run lengths
over the whole image. Category numbers, which have gaps, become labels 0..n-1 in their order.
"""

from __future__ import annotations

from pathlib import Path

from odis.objects.clean import Skip
from odis.objects.sources.coco_instances import read_layout
from odis.objects.sources.coco_layout import Layout
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader


def read(
    root: Path,
    split: str | None,
    skip: Skip,
    *,
    trust: bool = False,
    images: str | None = None,
    annotations: str | None = None,
) -> AnnotationReader:
    """Every image of a split with its objects; an image without annotations has none. Crowds go to `skip` as
    `Crowd`.

    Args:
        root: Folder that holds the images and annotations.
        split: As in the name of the annotation file, or of the folder that it is in: `train2017`, `valid`.
            Needed where there are several.
        skip: Called with every image and object that cannot be used or only in part, and every crowd.
        trust: Take the sizes that the file states, without opening the images.
        images: Folder of the images, if elsewhere.
        annotations: File or folder of the annotations, if elsewhere.

    Raises:
        DataError: The split is missing or not named, its annotation file is not COCO's, or none of its images
            is there.
    """
    layout = Layout("coco", "instances_")
    return read_layout(layout, root, split, skip, trust=trust, images=images, annotations=annotations)


FORMAT = AnnotationFormat(
    name="coco",
    title="COCO's form: boxes and masks; also as Roboflow, CVAT, Label Studio and FiftyOne export it",
    layout="annotations/instances_SPLIT.json and images in SPLIT/; or SPLIT/_annotations.coco.json beside "
    "the images; or one JSON file and images in any folder",
    splits="train2017, valid (needed if there are several)",
    read=read,
    states_sizes=True,
    takes_places=True,
)
