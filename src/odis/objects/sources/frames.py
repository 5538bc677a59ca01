"""The frame of an image's boxes: its size as a viewer shows it, or as it is stored, where EXIF orientation
makes these two; and what becomes of a box that reaches over it.
"""

from __future__ import annotations

from collections.abc import Sequence

from odis.types import Box

_SLACK = 2.0  # pixels: how far rounding and counting from 1 may put a corner over the edge

_ROUNDING = 1.0  # pixels: how far a box whose corners were rounded may reach over the edge

_CARELESS = 0.05  # of the image: how far over its edge careless drawing may reach

LEAST_SHARE, MOST_SHARE = -1.0, 2.0
"""What a share of an image's side may be: drawing goes astray by a whole image at most; more are pixels."""

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


def clipped(box: Box, size: tuple[int, int], changes: list[str], *, far: bool = False) -> Box:
    """The part of a box that is in the image; the box itself if no part is, or if it reaches over by more
    than careless drawing does. Such boxes stay as they are annotated, as in every format: training clips
    them, and whether they are many is seen over the whole data set (`plausible.py`).

    Args:
        box: The box.
        size: `(width, height)` of the image.
        changes: Gets what was changed, in words, if it is more than rounding.
        far: Clip however far it reaches.
    """
    x0, y0, x1, y1 = box
    width, height = size
    inside = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        return box
    over = max(-x0, -y0, x1 - width, y1 - height)
    share = max(-x0 / width, -y0 / height, x1 / width - 1, y1 / height - 1)
    if over > _SLACK and share > _CARELESS + 1e-9 and not far:
        return box
    if over > _ROUNDING:
        changes.append(f"reaches {over:.1f} pixels over the edge: clipped")
    return inside
