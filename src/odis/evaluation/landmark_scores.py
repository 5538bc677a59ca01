"""The scores of the Revisited Oxford and Paris protocol; numbers in, numbers out.

Radenovic et al., "Revisiting Oxford and Paris", CVPR 2018, arXiv 1803.11285; the numbers are those of the
published `revisitop` code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from odis.errors import OdisError
from odis.types import Box

SETUPS = {
    "easy": (("easy",), ("hard", "junk")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("easy", "junk")),
}
"""For each setup: the lists of a query that are positives, and those that are ignored."""


@dataclass(frozen=True, slots=True, eq=False)
class LandmarkQuery:
    """One query: an image's name without extension, the landmark's box in it, and the images that show it.

    `easy`, `hard` and `junk` are int64 (n,), indices of database images, in the file's order; no index is in
    two of them.
    """

    name: str
    box: Box
    easy: np.ndarray
    hard: np.ndarray
    junk: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """A ground truth: the names of the database images, without extension, and the queries. Indices count in
    `images`.
    """

    images: list[str]
    queries: list[LandmarkQuery]


def landmark_scores(
    similarity: Tensor | np.ndarray, truth: Landmarks, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, dict[str, np.ndarray]]:
    """Average precision and precision at k of every query, in each setup of the protocol.

    All database images are ranked by similarity, ignored ones are taken out, and the precision before and
    after each positive is averaged (`compute_ap`). Precision at k looks at the first min(k, rank of the last
    positive) images (`compute_map`). Of equally similar images the one with the lower index comes first; the
    published example leaves that order to its sort.

    Args:
        similarity: (queries, images), any float type; higher is more similar.
        truth: The ground truth, in the same order.
        ks: Ranks of the precisions, each at least 1.

    Returns:
        For `easy`, `medium` and `hard`: `ap` and one `p@k` for each k, float64 (queries,), from 0 to 1; nan
        where a query has no positive in the setup.

    Raises:
        OdisError: if a k is below 1, or the similarities have another shape or are not finite.
    """
    if min(ks, default=1) < 1:
        raise OdisError(f"k {min(ks)} must be at least 1")
    if isinstance(similarity, Tensor):
        similarity = similarity.detach().cpu().double().numpy()
    similarity = np.asarray(similarity, dtype=np.float64)
    wanted = (len(truth.queries), len(truth.images))
    if similarity.shape != wanted:
        raise OdisError(
            f"similarities are {similarity.shape}, must be {wanted}: one row a query, one column a "
            f"database image"
        )
    if not np.isfinite(similarity).all():
        raise OdisError(
            "similarities hold values that are not finite: the model's weights or its precision are at fault"
        )
    names = ["ap", *(f"p@{k}" for k in ks)]
    scores = {setup: {name: np.full(len(truth.queries), np.nan) for name in names} for setup in SETUPS}
    for row, query in enumerate(truth.queries):
        order = np.argsort(-similarity[row], kind="stable")
        for setup, (positive, ignored) in SETUPS.items():
            ranks = _ranks(
                order,
                *(np.concatenate([getattr(query, name) for name in lists]) for lists in (positive, ignored)),
            )
            if len(ranks):
                scores[setup]["ap"][row] = _average_precision(ranks)
                for k in ks:
                    first = min(int(ranks[-1]) + 1, k)
                    scores[setup][f"p@{k}"][row] = np.count_nonzero(ranks < first) / first
    return scores


def _ranks(order: np.ndarray, positive: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Ranks of the positives in `order` (images,) without the ignored, from 0, ascending, int64
    (positives,).
    """
    sought, kept = np.zeros(len(order), dtype=bool), np.ones(len(order), dtype=bool)
    sought[positive], kept[ignored] = True, False
    return np.flatnonzero(sought[order[kept[order]]])


def _average_precision(ranks: np.ndarray) -> float:
    """Area under precision over recall by trapezoids; before the first image the precision counts as 1."""
    found = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, found / np.maximum(ranks, 1))
    after = (found + 1) / (ranks + 1)
    return float(((before + after) / 2).mean())
