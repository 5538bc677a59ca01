"""The masks of VOC's `SegmentationObject`, put to the boxes of the XML file of the same image.

In VOC's own maps value k is the k-th object of the XML file (development kit, section 2.6). Maps of tools
number the instances as they like, so each is checked: an instance whose box does not agree with that of the
object of its number goes to the one whose box agrees best, and to none if none does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from odis.errors import DataError
from odis.objects import rle
from odis.objects.clean import Skip, Unread, reason
from odis.objects.sources.label_map_files import instance_numbers
from odis.types import Box

_AGREE = 0.5
"""Least overlap (intersection over union) of an instance's box and an object's: half, as VOC's score asks."""


def masks_of(path: Path, boxes: Sequence[Box], size: tuple[int, int], skip: Skip) -> list[bytes | None]:
    """The mask of each object, as compressed run lengths; None of one that no instance is of.

    Args:
        path: The instance map; that it is missing is no fault: VOC has them for some images.
        boxes: Of the objects, in the order of the XML file.
        size: `(width, height)` of the image.
        skip: Called with a map that cannot be used, and an instance that is no object's.
    """
    from scipy import ndimage  # not for the help of a command

    masks: list[bytes | None] = [None] * len(boxes)
    if not path.is_file():
        return masks
    try:
        numbers = instance_numbers(path)
        if numbers.shape[::-1] != size:
            raise DataError(
                f"{path}: is {numbers.shape[1]} x {numbers.shape[0]} pixels, its image {size[0]} x {size[1]}"
            )
    except DataError as error:
        skip(Unread(str(path), f"instance maps that cannot be used: {reason(error, path)}"))
        return masks
    found: dict[int, tuple[tuple[slice, slice], Box]] = {}
    for value, place in enumerate(ndimage.find_objects(numbers), start=1):
        if place is not None:
            down, across = place
            box = float(across.start), float(down.start), float(across.stop), float(down.stop)
            found[value] = place, box
    pairs = sorted(
        (
            (-overlap - (value == k + 1), value, k)  # the object of its number first, if the two agree
            for value, (_, box) in found.items()
            for k, other in enumerate(boxes)
            if (overlap := _overlap(box, other)) >= _AGREE
        ),
    )
    taken: set[int] = set()
    canvas = np.zeros(numbers.shape, dtype=np.uint8, order="F")
    for _, value, k in pairs:
        if value in taken or masks[k] is not None:
            continue
        taken.add(value)
        place = found[value][0]
        canvas[place] = numbers[place] == value
        masks[k] = rle.encode(canvas)
        canvas[place] = 0
    for value in found.keys() - taken:
        skip(Unread(f"{path}, instance {value}", "instances that no box agrees with"))
    return masks


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if not (width > 0 and height > 0):
        return 0.0
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (sum(areas) - width * height)
