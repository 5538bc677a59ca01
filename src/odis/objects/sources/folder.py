"""A folder of images without annotations: every image is one object, labelled if there is one folder a
class.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from odis.errors import DataError
from odis.objects.clean import Skip, usable_size
from odis.objects.images import list_files
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader
from odis.types import ImageObjects, Object


def read(root: Path, split: str | None, skip: Skip) -> AnnotationReader:
    """Every image at any depth, in the order of their names; hidden files and files that are no images are
    passed over.

    A class is the first folder below `root` (or below its split). Images beside the class folders mean that
    there are none.

    Args:
        root: The folder.
        split: A folder in it to read instead.
        skip: Called with every image that cannot be opened.

    Raises:
        DataError: There is no such split, or no image.
    """
    folder = root / split if split else root
    if not folder.is_dir():
        there = sorted(
            entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        )
        raise DataError(f"{folder}: no such folder; in {root} there are {', '.join(there) or 'none'}")
    listing = list_files(folder)
    if not listing.images:
        raise DataError(f"{folder}: no image in this folder or below ({listing.others} other files)")
    classes = listing.classes()
    position = {name: k for k, name in enumerate(classes)}

    def row(image: str) -> ImageObjects | None:
        size = usable_size(folder / image, skip)
        if size is None:
            return None
        whole = (0.0, 0.0, float(size[0]), float(size[1]))
        return ImageObjects(image, *size, (Object(whole, label=position.get(image.split("/", 1)[0])),))

    return AnnotationReader((partial(row, image) for image in listing.images), folder, "whole-image", classes)


FORMAT = AnnotationFormat(
    name="folder",
    title="Images without annotations: every image is one object",
    layout="images at any depth; one folder a class gives labels",
    splits="a folder in ROOT (default: ROOT)",
    read=read,
)
