"""Two networks on the same test images: both scores, their difference, and its paired 95 % interval.

Test images are resampled (`scores.py`), and both networks are scored on the same resample: what makes an
image easy or hard for both is not counted as chance. The interval is that of the difference. Two intervals
that overlap may still leave a difference whose own interval holds no 0.

Letters: n rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from odis.evaluation.scores import (
    ClassRanking,
    Score,
    images_of_rows,
    iou_by_class,
    macro_precision,
    mean_of_known,
    numbered,
    ranked_rows,
    resampled,
    score_of,
)


@dataclass(frozen=True, slots=True)
class PairedScore:
    """Scores of two networks in percent, and after minus before in points, each with its 95 % interval."""

    before: Score
    after: Score
    difference: Score

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        """For a results file."""
        return {
            name: score.as_dict()
            for name, score in zip(
                ("before", "after", "difference"), (self.before, self.after, self.difference)
            )
        }


def paired_mean(
    before: np.ndarray | Tensor,
    after: np.ndarray | Tensor,
    groups: np.ndarray | Tensor | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> PairedScore:
    """Means of one value a row of each network, such as whether it was right.

    Args:
        before: (n,), from 0 to 1 or bool, on the CPU.
        after: (n,), of the same rows.
        groups: int (n,), the image of each row; None if every row is one of its own.
        resamples: How many.
        seed: Of the resamples.
    """
    values = [np.asarray(one).astype(np.float64) for one in (before, after)]
    group, total = numbered(images_of_rows(len(values[0]), groups))
    weights = (values[0], values[1], None)
    sums = np.stack([np.bincount(group, weights=one, minlength=total) for one in weights], axis=1)

    def both(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drawn = counts @ sums
        return drawn[:, 0] / drawn[:, 2], drawn[:, 1] / drawn[:, 2]

    known = (float(values[0].mean()), float(values[1].mean())) if len(group) else (math.nan, math.nan)
    return _paired(known, both, total, resamples, seed)


def paired_map(
    before: np.ndarray | Tensor,
    after: np.ndarray | Tensor,
    targets: np.ndarray | Tensor,
    groups: np.ndarray | Tensor | None = None,
    *,
    resamples: int = 200,
    seed: int = 0,
) -> PairedScore:
    """Mean average precision of each network over classes that have a positive row.

    Args:
        before: Scores (n, C), on the CPU.
        after: Scores (n, C) of the same rows.
        targets: bool (n, C).
        groups: int (n,), the image of each row; None if every row is one of its own.
        resamples: How many.
        seed: Of the resamples.

    Raises:
        OdisError: A score is not finite.
    """
    rankings = []
    for scores in (before, after):
        rows, hits = ranked_rows(scores, targets)
        occurring = np.flatnonzero(hits.any(0))
        rankings.append([ClassRanking.of(rows[:, c], hits[:, c]) for c in occurring])
    n = len(targets)
    if not rankings[0]:
        return _paired((math.nan, math.nan), lambda counts: (counts[:0, 0],) * 2, 0, 0, seed)
    group, total = numbered(images_of_rows(n, groups))
    every = np.ones((n, 1))

    def both(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights = counts.T.take(group, axis=0)
        return macro_precision(rankings[0], weights), macro_precision(rankings[1], weights)

    known = (float(macro_precision(rankings[0], every)[0]), float(macro_precision(rankings[1], every)[0]))
    return _paired(known, both, total, resamples, seed, row=n, centred=True)


def paired_iou(before: np.ndarray, after: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> PairedScore:
    """Mean over classes of intersection over union of each network, each summed over all images.

    Args:
        before: int64 (images, 3, C), `scores.overlaps` of each image's confusion matrix.
        after: int64 (images, 3, C), of the same images.
        resamples: How many.
        seed: Of the resamples.
    """
    counts = [one.astype(np.float64) for one in (before, after)]
    images, values = len(before), int(np.prod(before.shape[1:]))

    def mean_iou(summed: np.ndarray) -> np.ndarray:
        return mean_of_known(iou_by_class(summed.reshape(-1, *before.shape[1:]), math.nan))

    def both(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        one, two = (mean_iou(drawn @ of.reshape(images, values)) for of in counts)
        return one, two

    known = (float(mean_iou(counts[0].sum(0))[0]), float(mean_iou(counts[1].sum(0))[0]))
    return _paired(known, both, images, resamples, seed, row=values, centred=True)


def _paired(
    known: tuple[float, float],
    both: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    images: int,
    resamples: int,
    seed: int,
    *,
    row: int = 0,
    centred: bool = False,
) -> PairedScore:
    """Scores and intervals, from shares.

    Args:
        known: The two scores.
        both: Scores of r resamples, (r,) each, from how often each image is in them, (r, images).
        images: How many there are.
        resamples: How many.
        seed: Of the resamples.
        row: Numbers that `both` makes of one resample, if more than images.
        centred: Shift resamples to have their mean at the score (see `scores.py`).
    """
    parts = [both(counts) for counts in resampled(images, resamples, seed, row)]
    before, after = ([part[k] for part in parts] for k in (0, 1))
    differences = [two - one for one, two in parts]
    return PairedScore(
        score_of(known[0], before, centred=centred),
        score_of(known[1], after, centred=centred),
        score_of(known[1] - known[0], differences, centred=centred, lowest=-1.0),
    )
