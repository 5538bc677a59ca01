"""Boxes that cannot be right, seen over a whole data set: each alone may be odd, most of them are a mistake.

A part of an index is counted as it is made (`count_boxes`), the counts of all parts are added, and `verdicts`
says what is likely wrong. Looked for are numbers in another form than the format's: shares (0 to 1) or per
cent for pixels, corners for a corner and a size and the other way round, and the other of the two frames that
an image has which EXIF turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.extras import is_dark
from odis.objects.images import header_sizes
from odis.objects.storage.address import resolve
from odis.objects.table import boxes_of
from odis.types import Box, ImageObjects

NAMES = (
    *("boxes", "outside", "tiny", "over", "corners", "inverted", "sizes", "frame", "large", "percent"),
    *("turned_boxes", "turned_images", "deep", "dark"),
)
"""What is counted; `verdicts` says of what."""

Counts = dict[str, int]

_SHARE = 1.001  # a share is 1 at most, to rounding

_LEAST = 16  # pixels of a side: in smaller images a box of one pixel is no wonder

_FAR = 0.05  # of the side: how far over the edge careless drawing may reach

_LARGE, _PER_CENT = 300, 100.5  # pixels of both sides of images in which boxes of 100 pixels are no rule

_LOOKED = 500  # images of a part whose EXIF is looked at, of those with a box that fits the other frame

_MANY = 10  # boxes: of fewer, half may be odd by chance

_DEEP = 4  # 16-bit images of a part that are looked at


def no_counts() -> Counts:
    """Nothing counted yet."""
    return dict.fromkeys(NAMES, 0)


def count_boxes(
    rows: Sequence[ImageObjects], refused: Sequence[tuple[int, Box]], root: Path, deep: Sequence[str] = ()
) -> Counts:
    """Count what is odd about the boxes of a part.

    Args:
        rows: Its images, with the objects that are kept.
        refused: Boxes of its other objects, behind the position of their image in `rows`.
        root: Folder that image paths begin at.
        deep: Some of its 16-bit images.
    """
    counts = no_counts()
    kept, per_row = boxes_of(rows)
    others = np.array([box for _, box in refused], np.float64).reshape(-1, 4)
    boxes = np.concatenate([kept, others])
    row = np.concatenate([np.repeat(np.arange(len(rows)), per_row), [k for k, _ in refused]]).astype(np.int64)
    finite = (np.abs(boxes) < 1e300).all(axis=1)  # and their sums too
    boxes, row = boxes[finite], row[finite]
    sides = np.array([(one.width, one.height) for one in rows], np.float64).reshape(-1, 2)[row]
    found = _oddities(boxes, sides)
    counts.update({name: int(np.count_nonzero(mask)) for name, mask in found.items()}, boxes=len(boxes))
    numbers, images = np.unique(row[found["frame"]], return_inverse=True)
    for k, number in enumerate(numbers[:_LOOKED].tolist()):
        if _is_turned(resolve(root, rows[number].image)):
            counts["turned_images"] += 1
            counts["turned_boxes"] += int((images == k).sum())
    for path in deep[:_DEEP]:
        try:
            counts["dark"] += is_dark(path)
            counts["deep"] += 1
        except DataError:  # training will name it
            continue
    return counts


def _oddities(boxes: np.ndarray, sides: np.ndarray) -> dict[str, np.ndarray]:
    """For each oddity which boxes have it: bool (n,), of boxes (n, 4) in images of `sides` (n, 2)."""
    start, end = boxes[:, :2], boxes[:, 2:]
    extent, slack = end - start, np.maximum(2.0, _FAR * sides)
    large = (sides >= _LARGE).all(axis=1)

    def fits(low: np.ndarray, high: np.ndarray, within: np.ndarray) -> np.ndarray:
        return np.asarray(((low >= -2) & (high > low) & (high <= within + 2)).all(axis=1))

    return {
        "outside": ((start >= sides) | (end <= 0)).any(axis=1) & (extent > 0).all(axis=1),
        "tiny": np.asarray((np.abs(boxes) <= _SHARE).all(axis=1))
        & (boxes != np.round(boxes)).any(axis=1)  # one whole pixel in the corner is no share
        & (sides.max(axis=1) >= _LEAST),
        "over": ((end > sides + slack) | (start < -slack)).any(axis=1),
        "corners": fits(start, extent, sides),
        "inverted": (extent <= 0).any(axis=1),
        "sizes": fits(start, start + end, sides) & (end > 0).all(axis=1),
        "frame": ~fits(start, end, sides) & fits(start, end, sides[:, ::-1]),
        "large": large,
        "percent": large & (start >= 0).all(axis=1) & (end <= _PER_CENT).all(axis=1),
    }


def _is_turned(path: str) -> bool:
    try:
        return len(header_sizes(path)) > 1
    except DataError:
        return False


def add(total: Counts, more: Counts) -> None:
    """Add the counts of a part."""
    for name in NAMES:
        total[name] += more.get(name, 0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is likely wrong with the boxes of a data set, and whether most of them cannot be used for it."""

    text: str
    fatal: bool


def verdicts(counts: Counts) -> list[Verdict]:
    """What is likely wrong, by the counts of a whole data set; nothing for data as it should be."""
    n = counts["boxes"]
    found = []
    if form := _form(counts, n):
        found.append(form)
    if count := counts["turned_boxes"]:
        images = counts["turned_images"]
        found.append(
            Verdict(
                f"{_of(count, n, 'fits', 'fit')} only the other orientation of their image, and "
                f"{counted(images, 'image')} with such boxes {'is' if images == 1 else 'are'} turned by "
                f"EXIF: their annotated size and their boxes are of two frames (as stored, and as a viewer "
                f"shows it); annotate both in one",
                count > n / 2,
            )
        )
    elif n >= 3 and counts["frame"] > n / 2 and not form:
        count = counts["frame"]
        text = f"{_of(count, n, 'fits', 'fit')} only if width and height of their image are exchanged"
        found.append(Verdict(text, False))
    if counts["deep"] and counts["dark"] == counts["deep"]:
        text = (
            f"the 16-bit images hold no value above 4,095 ({counts['deep']:,} were looked at): read as 16 "
            f"bits they are almost black; train with views.value_ranges [[0, 4095]]"
        )
        found.append(Verdict(text, False))
    return found


def _form(counts: Counts, n: int) -> Verdict | None:
    """Numbers in another form than the format's."""
    tiny, inverted, turned = counts["tiny"], counts["inverted"], counts["turned_boxes"]
    over, outside = (max(0, counts[name] - turned) for name in ("over", "outside"))
    if tiny and tiny >= n / 20:
        text = f"{_of(tiny, n, 'is', 'are')} under a pixel: shares (0 to 1) where pixels are wanted?"
        return Verdict(text, tiny > n / 2)
    if n >= 3 and over >= 0.3 * n and counts["corners"] >= 0.95 * n:
        text = (
            f"{_of(over, n, 'reaches', 'reach')} far over the edge of their image, and all fit if their "
            f"numbers are taken as x0, y0, x1, y1 instead of x, y, width, height"
        )
        return Verdict(text, n >= _MANY and over > n / 2)
    if n >= 3 and inverted >= 0.3 * n and counts["sizes"] >= 0.95 * n:
        text = (
            f"{_of(inverted, n, 'is', 'are')} inverted, and all fit if their numbers are taken as x, y, "
            f"width, height instead of x0, y0, x1, y1"
        )
        return Verdict(text, n >= _MANY and inverted > n / 2)
    if n >= 3 and outside > n / 2:
        text = f"{_of(outside, n, 'is', 'are')} outside of their image: made for images of another size?"
        return Verdict(text, n >= _MANY)
    if n >= 3 and over > n / 2:
        text = (
            f"{_of(over, n, 'reaches', 'reach')} far over the edge of their image: another form, or another "
            f"image size?"
        )
        return Verdict(text, False)
    if counts["large"] >= 20 and counts["percent"] >= 0.99 * counts["large"]:
        text = (
            f"{_of(counts['percent'], n, 'lies', 'lie')} within 100 pixels of the corner of large images: "
            f"per cent (0 to 100) where pixels are wanted?"
        )
        return Verdict(text, False)
    return None


def _of(count: int, n: int, verb: str, verbs: str) -> str:
    """`1 of 20 boxes is`, `3 of 20 boxes are`."""
    return f"{count:,} of {counted(n, 'box')} {verb if count == 1 else verbs}"
