"""The patches of an object as numpy computes them: one object in one view, on whole arrays."""

from types import SimpleNamespace

import numpy as np
import pytest

from odis.objects import rle
from odis.types import Crop, Object


def _interval_shares(low, high, start: float, length: float, parts: int) -> np.ndarray:
    """Share of each of `parts` equal parts of start..start + length that lies in low..high: (..., parts)."""
    edges = start + np.arange(parts + 1) * (length / parts)
    overlap = np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1])
    return np.clip(overlap * (parts / length), 0.0, 1.0)


def _box_shares(box, crop: Crop, grid: tuple[int, int]) -> np.ndarray:
    """Share of each patch that a box covers: (rows, columns)."""
    across = _interval_shares(box[0], box[2], crop.x0, crop.width, grid[1])
    down = _interval_shares(box[1], box[3], crop.y0, crop.height, grid[0])
    return np.outer(down, across[::-1] if crop.flip else across)


def _mask_shares(mask: np.ndarray, crop: Crop, grid: tuple[int, int]) -> np.ndarray:
    """Share of each patch that the pixels of a mask (H, W) cover: (rows, columns)."""
    x, y = np.arange(crop.x0, crop.x1)[:, None], np.arange(crop.y0, crop.y1)[:, None]
    across = _interval_shares(x, x + 1, crop.x0, crop.width, grid[1])
    down = _interval_shares(y, y + 1, crop.y0, crop.height, grid[0])
    inside = mask[crop.y0 : crop.y1, crop.x0 : crop.x1].astype(np.float64)
    return down.T @ inside @ (across[:, ::-1] if crop.flip else across)


def _covered(shares: np.ndarray, threshold: float, margin: int = 0) -> np.ndarray:
    """Patches covered enough, and those within `margin` of one: bool (rows, columns)."""
    enough = (shares >= threshold * shares.max(initial=0.0) * (1 - 1e-9)) & (shares > 0)
    wide = np.zeros_like(enough)
    for r, c in np.argwhere(enough):
        wide[max(r - margin, 0) : r + margin + 1, max(c - margin, 0) : c + margin + 1] = True
    return wide


def _object_mask(
    item: Object, size: tuple[int, int], crop: Crop, grid: tuple[int, int], threshold: float, margin: int
) -> np.ndarray:
    """The patches of an object of an image of `size` (width, height): bool (rows, columns)."""
    if item.mask is None:
        return _covered(_box_shares(item.box, crop, grid), threshold, margin)
    return _covered(_mask_shares(rle.decode(item.mask, *size), crop, grid), threshold)


@pytest.fixture(scope="session")
def slow() -> SimpleNamespace:
    """`box_shares`, `mask_shares`, `covered` and `object_mask`, in numpy."""
    return SimpleNamespace(
        box_shares=_box_shares, mask_shares=_mask_shares, covered=_covered, object_mask=_object_mask
    )
