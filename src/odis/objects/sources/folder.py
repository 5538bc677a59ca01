"""A folder of images without annotations: every image is one object, labelled if there is one folder a
class.
"""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path

from odis.errors import DataError, OdisWarning
from odis.objects.clean import Skip, usable_size
from odis.objects.listing import folder_labels, list_files
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader
from odis.types import ImageObjects, Object


def read(root: Path, split: str | None, skip: Skip) -> AnnotationReader:
    """Every image at any depth, in the order of their names; hidden files are passed over, files that are no
    images are counted.

    A class is the first folder below `root` (or below its split), if that is not a split: see
    `folder_labels`.

    Args:
        root: The folder.
        split: A folder in it to read instead; `.` is the root itself, with all of its splits.
        skip: Called with every image that cannot be opened, and every kind of file that is not read.

    Raises:
        DataError: There is no such split, or no image; or there are several splits, and none is named.
    """
    together = split is not None and os.path.normpath(split) == "."
    folder = root / split if split else root
    if not folder.is_dir():
        there = sorted(
            entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        )
        raise DataError(f"{folder}: no such folder; in {root} there are {', '.join(there) or 'none'}")
    listing = list_files(folder)
    if not listing.images:
        hint = f"; convert the {listing.pictures()} to JPEG or PNG" if listing.pictures() else ""
        raise DataError(f"{folder}: no image in this folder or below ({listing.said()}){hint}")
    within = f"{split}/" if split and not together else ""
    labels = folder_labels(
        listing,
        lambda name: f"read one with --split {within}{name}, or all of them as one with --split .",
        together=together,
    )
    if labels.warning:
        warnings.warn(labels.warning, OdisWarning, stacklevel=2)
    position = {name: k for k, name in enumerate(labels.classes)}
    listing.report(skip)

    def row(image: str) -> ImageObjects | None:
        size = usable_size(folder / image, skip)
        if size is None:
            return None
        whole = (0.0, 0.0, float(size[0]), float(size[1]))
        label = position[labels.names(image)] if position else None
        return ImageObjects(image, *size, (Object(whole, label=label),))

    units = (partial(row, image) for image in listing.images)
    return AnnotationReader(units, folder, "whole-image", labels.classes)


FORMAT = AnnotationFormat(
    name="folder",
    title="Images without annotations: every image is one object",
    layout="images at any depth; one folder a class gives labels",
    splits="a folder in ROOT (default: ROOT, unless it holds splits; . takes all of them)",
    read=read,
)
