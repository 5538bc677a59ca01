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


def _component_boxes(mask: np.ndarray, margin: int) -> np.ndarray:
    """The boxes of the connected components (8 neighbours), `margin` patches wider: bool (rows, columns)."""
    rows, columns = mask.shape
    labels = {(r, c): k for k, (r, c) in enumerate(np.argwhere(mask).tolist())}
    changed = True
    while changed:  # every patch takes the least label around it, until none changes
        changed = False
        for r, c in labels:
            around = [(r + dr, c + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)]
            least = min(labels[near] for near in around if near in labels)
            changed |= least != labels[r, c]
            labels[r, c] = least
    wide = np.zeros_like(mask)
    for k in set(labels.values()):
        mine = [place for place, label in labels.items() if label == k]
        for r in range(min(r for r, _ in mine) - margin, max(r for r, _ in mine) + margin + 1):
            for c in range(min(c for _, c in mine) - margin, max(c for _, c in mine) + margin + 1):
                if 0 <= r < rows and 0 <= c < columns:
                    wide[r, c] = True
    return wide


def _object_mask(
    item: Object,
    size: tuple[int, int],
    crop: Crop,
    grid: tuple[int, int],
    threshold: float,
    margin: int,
    mask_shape: str = "area",
) -> np.ndarray:
    """The patches of an object of an image of `size` (width, height): bool (rows, columns)."""
    if item.mask is None:
        shares = _box_shares(item.box, crop, grid)
        if threshold == 0:
            shares[shares < 1e-9] = 0  # a rounding error is no overlap
    else:
        shares = _mask_shares(rle.decode(item.mask, *size), crop, grid)
    if mask_shape == "component-boxes":
        return _component_boxes(_covered(shares, threshold), margin)
    return _covered(shares, threshold, margin if item.mask is None else 0)


@pytest.fixture(scope="session")
def slow() -> SimpleNamespace:
    """`box_shares`, `mask_shares`, `covered` and `object_mask`, in numpy."""
    return SimpleNamespace(
        box_shares=_box_shares, mask_shares=_mask_shares, covered=_covered, object_mask=_object_mask
    )
