"""Prediction masks: the patches of a view that are hidden from the student."""

from __future__ import annotations

import math

import numpy as np


def prediction_mask(
    rng: np.random.Generator, grid: tuple[int, int], probability: float, ratio: float, spread: float
) -> np.ndarray:
    """Draw the patches hidden from the student: rectangles, until their share is reached (iBOT, section 3.1,
    after BEiT).

    With `probability`, a share is drawn from ratio - spread to ratio + spread. Rectangles of aspect .3 to 1 /
    .3 are added that never exceed it. As in iBOT the share is a ceiling that is nearly reached: on 14 x 14
    patches at .3 +- .2 a mean of 0.8 of 58 patches is missing, and at most 4 in 95 of 100 masks; on 6 x 6,
    0.1 of 10. Unlike in iBOT, a rectangle may span the whole grid and has at least one row and column, so
    that small grids get masks too.

    Args:
        rng: Source of all randomness.
        grid: Rows and columns of patches.
        probability: Probability that anything is hidden.
        ratio: Mean share of hidden patches in a view that has some.
        spread: Half the width of the range of the share.

    Returns:
        bool (rows, columns).
    """
    rows, columns = grid
    mask = np.zeros(grid, dtype=bool)
    draw, share = rng.random(2)
    if draw >= probability:
        return mask
    wanted = rows * columns * (ratio + spread * (2 * share - 1))
    smallest = (min(grid) // 3) ** 2
    while wanted >= 1:
        rectangle = _free_rectangle(rng, mask, wanted, smallest)
        if rectangle is None:
            break
        block = mask[rectangle]
        wanted -= block.size - np.count_nonzero(block)
        block[:] = True
    return mask


def keep_visible(rng: np.random.Generator, hidden: np.ndarray, item: np.ndarray, count: int) -> np.ndarray:
    """Show patches of an object that a prediction mask hides, and hide others in their place.

    Of the object's hidden patches so many are shown, drawn at random, that `count` of its patches are visible
    (all, if it has fewer). As many patches outside the object are hidden instead, at random, those beside
    hidden ones first; the share of hidden patches is smaller only where there are no more of them.

    Args:
        rng: Source of all randomness; nothing is drawn where enough of the object is visible.
        hidden: bool (rows, columns), the prediction mask.
        item: bool (rows, columns), the object's patches.
        count: Patches of the object to leave visible.

    Returns:
        bool (rows, columns).
    """
    covered = np.flatnonzero(hidden & item)
    missing = min(count - int(np.count_nonzero(item & ~hidden)), len(covered))
    if missing <= 0:
        return hidden
    mask = hidden.copy()
    mask.flat[rng.permutation(covered)[:missing]] = False
    beside = np.zeros_like(mask)
    beside[1:] |= mask[:-1]
    beside[:-1] |= mask[1:]
    beside[:, 1:] |= mask[:, :-1]
    beside[:, :-1] |= mask[:, 1:]
    free = rng.permutation(np.flatnonzero(~hidden & ~item))
    mask.flat[free[np.argsort(~beside.flat[free], kind="stable")][:missing]] = True
    return mask


def _free_rectangle(
    rng: np.random.Generator, mask: np.ndarray, room: float, smallest: int
) -> tuple[slice, slice] | None:
    """A rectangle that adds at least one and at most `room` patches to the mask; None if ten draws fail."""
    rows, columns = mask.shape
    for area, aspect, down, across in rng.random((10, 4)).tolist():
        target = smallest + area * (room - smallest)
        stretch = math.exp((2 * aspect - 1) * math.log(0.3))
        h, w = max(1, round(math.sqrt(target * stretch))), max(1, round(math.sqrt(target / stretch)))
        if h <= rows and w <= columns:
            top, left = int(down * (rows - h + 1)), int(across * (columns - w + 1))
            rectangle = slice(top, top + h), slice(left, left + w)
            if 0 < h * w - np.count_nonzero(mask[rectangle]) <= room:
                return rectangle
    return None
