"""J and F of DAVIS (Perazzi et al., CVPR 2016; Pont-Tuset et al., 2017): how well masks of a video agree.

Letters: H, W a frame in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

TOLERANCE = 0.008
"""How far apart two boundaries may lie, as a share of the frame's diagonal."""


def region_similarity(mask: np.ndarray, truth: np.ndarray) -> float:
    """J: intersection over union of bool (H, W) masks; 1 if both are empty."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of a bool (H, W) mask that differ from their right, lower or lower right neighbour; in the last
    row and column from the one neighbour they have.
    """
    edge = np.zeros(mask.shape, dtype=bool)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


def contour_accuracy(mask: np.ndarray, truth: np.ndarray) -> float:
    """F: harmonic mean of precision and recall of the boundary of a bool (H, W) mask, within `TOLERANCE`.

    A boundary pixel is right if one of the other boundary lies in the disk around it. Two masks without a
    boundary agree; one alone disagrees.
    """
    radius = int(np.ceil(TOLERANCE * np.hypot(*mask.shape)))
    one, other = boundary(mask), boundary(truth)
    if not one.any() or not other.any():
        return float(one.any() == other.any())
    ys, xs = np.nonzero(one | other)  # what lies further away changes nothing
    part = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
    one, other = one[part], other[part]
    precision = float((one & _around(other, radius)).sum() / one.sum())
    recall = float((other & _around(one, radius)).sum() / other.sum())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _around(edge: np.ndarray, radius: int) -> np.ndarray:
    within: np.ndarray = ndimage.distance_transform_edt(~edge) <= radius
    return within


def video_scores(
    found: Sequence[np.ndarray], truth: Sequence[np.ndarray], objects: int
) -> tuple[np.ndarray, np.ndarray]:
    """J and F of each object, float64 (objects,): means over all frames but the first and the last.

    Args:
        found: Label maps uint8 (H, W) of the frames, the first one included.
        truth: The true ones.
        objects: The largest label; each from 1 on is an object.
    """
    inner = range(1, len(truth) - 1)
    similarity, accuracy = np.zeros(objects), np.zeros(objects)
    for number in range(objects):
        pairs = [(found[t] == number + 1, truth[t] == number + 1) for t in inner]
        similarity[number] = np.mean([region_similarity(*pair) for pair in pairs])
        accuracy[number] = np.mean([contour_accuracy(*pair) for pair in pairs])
    return similarity, accuracy
