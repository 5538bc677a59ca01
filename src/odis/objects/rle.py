"""Object masks as COCO compressed run-length counts over the whole image."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask

from odis.errors import DataError
from odis.objects.runs import LONGEST_RUN


def encode(mask: np.ndarray) -> bytes:
    """COCO compressed RLE counts of a mask: bool or uint8 (height, width), non-zero inside."""
    counts: bytes = coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8))["counts"]
    return counts


def decode(counts: bytes, width: int, height: int) -> np.ndarray:
    """uint8 (height, width), 1 inside the object.

    Raises:
        DataError: The counts are no mask of that size (they would make the C decoder write out of bounds).
    """
    check(counts, width, height)
    mask: np.ndarray = coco_mask.decode({"size": [height, width], "counts": counts})
    return mask


LONGEST_OUTLINE = 2**21
"""Pixels along the outlines of an object's polygons; each costs about 100 bytes while it is drawn."""


def from_polygons(polygons: list[list[float]], width: int, height: int) -> bytes:
    """Counts of the pixels in any of some polygons: x0, y0, x1, y1, ..., each of three points or more, in or
    near the image.

    Raises:
        DataError: Their outlines are longer than `LONGEST_OUTLINE`.
    """
    points = sum(map(len, polygons)) // 2
    if points * 3 * max(width, height) > LONGEST_OUTLINE:  # else none can be: a point lies near the image
        outline = 0.0
        for polygon in polygons:
            corners = np.array(polygon, np.float64).reshape(-1, 2)
            outline += float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())
        if not outline <= LONGEST_OUTLINE:
            raise DataError(
                f"polygon has an outline of {outline:,.0f} pixels, and {LONGEST_OUTLINE:,} are the most that "
                f"are drawn"
            )
    drawn = coco_mask.frPyObjects(polygons, height, width)
    counts: bytes = (drawn[0] if len(drawn) == 1 else coco_mask.merge(drawn))["counts"]
    return counts


def area(counts: bytes) -> int:
    """How many pixels the mask holds.

    Raises:
        DataError: The bytes are not COCO compressed RLE counts.
    """
    return int(run_lengths(counts)[1::2].sum())


def check(counts: bytes, width: int, height: int) -> int:
    """How many pixels a mask of `width` x `height` pixels holds.

    Raises:
        DataError: The counts are no mask of that size: saying what is wrong with them.
    """
    runs = run_lengths(counts)
    pixels = int(runs.sum())
    if pixels != width * height:
        raise DataError(f"mask has {pixels} pixels, but the image has {width} x {height} = {width * height}")
    return int(runs[1::2].sum())


def are_sound(counts: list[bytes], pixels: np.ndarray) -> np.ndarray:
    """bool (n,): of which masks `check` has nothing to say, and which hold a pixel; all are looked at
    together.

    Args:
        counts: Of each mask; none is empty.
        pixels: int64 (n,), of the image of each.
    """
    code = np.frombuffer(b"".join(counts), dtype=np.uint8).astype(np.int64) - 48
    last = np.cumsum(list(map(len, counts))) - 1  # where the bytes of each mask end
    ends = np.flatnonzero((code & 0x20) == 0)
    sound = np.ones(len(counts), bool)
    sound[np.searchsorted(last, np.flatnonzero((code < 0) | (code > 63)))] = False
    sound &= (code[last] & 0x20) == 0
    if not sound.all():  # one that does not end would run into the next
        kept = np.flatnonzero(sound)
        if len(kept):
            sound[kept] = are_sound([counts[i] for i in kept], pixels[kept])
        return sound
    starts = np.concatenate(([0], ends[:-1] + 1))
    length = ends - starts + 1
    of = np.searchsorted(last, ends)  # which mask each run is of
    first = np.searchsorted(of, np.arange(len(counts)))  # run of each mask
    sound[of[length > 7]] = False
    digit = np.minimum(np.arange(code.size) - np.repeat(starts, length), 6)
    values = np.add.reduceat((code & 0x1F) << (5 * digit), starts)
    values -= np.where(code[ends] & 0x10, np.int64(1) << (5 * np.minimum(length, 7)), 0)
    place = np.arange(len(values)) - first[of]
    for chosen in (place % 2 == 1, (place % 2 == 0) & (place > 0)):
        total = np.cumsum(np.where(chosen, values, 0))
        before = (total - np.where(chosen, values, 0))[first]  # what the masks before add up to
        values = np.where(chosen, total - before[of], values)
    wrong = (values < 0) | (values > LONGEST_RUN)
    sound[of[wrong]] = False
    values = np.where(wrong, 0, values)  # their sums could overflow and fit by chance
    inside = np.add.reduceat(np.where(place % 2 == 1, values, 0), first)
    result: np.ndarray = sound & (np.add.reduceat(values, first) == pixels) & (inside > 0)
    return result


def run_lengths(counts: bytes) -> np.ndarray:
    """int64 run lengths, background first (pycocotools `rleFrString`: 5 bits a byte, low bits first, runs as
    differences).

    Raises:
        DataError: The bytes are not COCO compressed RLE counts.
    """
    from odis.objects.rle_runs import NEGATIVE, read_runs  # numba: not for the help of a command

    code = np.frombuffer(counts, dtype=np.uint8)
    runs = np.empty(len(code), dtype=np.int64)
    found = read_runs(code, runs)
    if found < 0:
        raise DataError(
            "mask is not COCO compressed RLE counts" + (" (negative run)" if found == NEGATIVE else "")
        )
    return runs[:found]
