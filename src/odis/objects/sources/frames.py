"""The frame of an image's boxes: its size as a viewer shows it, or as it is stored, where EXIF orientation
makes these two.
"""

from __future__ import annotations

from collections.abc import Sequence

from odis.types import Box

_SLACK = 2.0  # pixels: how far rounding and counting from 1 may put a corner over the edge

SWAPPED = "its size is annotated the wrong way round, as its boxes show: taken as it is"
TURNED = "its size is annotated for another orientation than its boxes are: taken as its boxes need it"


def fit(boxes: Sequence[Box], size: tuple[int, int]) -> bool:
    """Whether all boxes lie in an image of `(width, height)`."""
    width, height = size
    return all(
        x0 >= -_SLACK and y0 >= -_SLACK and x1 <= width + _SLACK and y1 <= height + _SLACK
        for x0, y0, x1, y1 in boxes
    )


def in_doubt(stated: tuple[int, int] | None, boxes: Sequence[Box]) -> bool:
    """Whether a stated size should not be taken without a look at the image: there is none, or only the other
    way round would it hold all boxes.
    """
    return stated is None or (not fit(boxes, stated) and fit(boxes, stated[::-1]))


def frame_of(
    stated: tuple[int, int] | None, sizes: Sequence[tuple[int, int]], boxes: Sequence[Box]
) -> tuple[tuple[int, int] | None, str]:
    """The size that an image's boxes are for, and in words what is odd about the annotation.

    That is the stated one, if it is one of the image's. If it is not, but is one of them the wrong way round
    (some tools swap the two numbers), or if none is stated, or if the boxes reach over it, it is the one of
    the image's that holds all boxes. Else it is None, if another size is stated.

    Args:
        stated: `(width, height)` in the annotation, if it states one.
        sizes: Of the image: as a viewer shows it, then as it is stored, if that differs (`header_sizes`).
        boxes: Of its objects.
    """
    fitting = [size for size in sizes if fit(boxes, size)]
    if stated is None:
        return (fitting or list(sizes))[0], ""
    if stated in sizes:
        if stated in fitting or not fitting:
            return stated, ""
        return fitting[0], TURNED
    if stated[::-1] in sizes and fitting:
        return fitting[0], SWAPPED
    return None, ""
