"""Scores with 95 % bootstrap intervals. Numbers in, percent out; no model and no file here.

Objects of one image are not independent: they share its light, scene and camera. So whole images are
resampled, each with all its objects (cluster bootstrap; Cameron, Gelbach and Miller, 2008). The interval is
from the 2.5th to the 97.5th percentile. It shows how much a score varies with the choice of as many test
images, not with the training run. Where every image scores the same, it has no width.

Resamples of mAP and mIoU are biased: a positive drawn twice ranks beside itself and lifts AP; a rare class
that a resample lacks, but that is predicted in it, has IoU 0. So these resamples are shifted to have their
mean at the score. With 50 classes, each in about 3 of 100 images, and 60 images, plain percentiles contained
the expected mIoU in 37 of 200 simulated sets, shifted ones in 180.

Letters: n rows (objects, queries), R resamples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from odis.config.wording import counted
from odis.errors import OdisError

_TAILS = (0.025, 0.975)
_CHUNK = 2_000_000  # numbers drawn at a time: 16 MB, and a handful of arrays of that size


@dataclass(frozen=True, slots=True)
class Score:
    """A score in percent and its 95 % interval. NaN: no rows, or for the interval one image only."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """`value`, `low` and `high` to 3 decimals; None for NaN, which JSON lacks."""
        return {
            name: round(number, 3) if math.isfinite(number) else None for name, number in asdict(self).items()
        }


def accuracy_score(
    right: np.ndarray | Tensor,
    groups: np.ndarray | Tensor | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Score:
    """Share of right answers.

    Args:
        right: bool (n,), on the CPU.
        groups: int (n,), the image of each row; None if every row is one of its own.
        resamples: R.
        seed: Of the resamples.
    """
    return mean_score(np.asarray(right).astype(np.float64), groups, resamples=resamples, seed=seed)


def mean_score(
    values: np.ndarray | Tensor,
    groups: np.ndarray | Tensor | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Score:
    """Mean of one value a row, such as the average precision of a query.

    Args:
        values: float (n,) from 0 to 1, on the CPU; rows of NaN have no value and are left out.
        groups: int (n,), the image of each row; None if every row is one of its own.
        resamples: R.
        seed: Of the resamples.
    """
    values = np.asarray(values, dtype=np.float64)
    known, images = ~np.isnan(values), images_of_rows(len(values), groups)
    values = values[known]
    if not len(values):
        return score_of(math.nan, [])
    group, total = numbered(images[known])
    sums = np.stack(
        [np.bincount(group, weights=values, minlength=total), np.bincount(group, minlength=total)], axis=1
    )
    samples = []
    for counts in resampled(total, resamples, seed):
        drawn = counts @ sums
        samples.append(drawn[:, 0] / drawn[:, 1])
    return score_of(float(values.mean()), samples)


def average_precision(
    scores: np.ndarray | Tensor, targets: np.ndarray | Tensor, weights: np.ndarray | Tensor | None = None
) -> float:
    """Area under the precision-recall curve: the sum over thresholds of precision times the recall gained.

    Rows of equal score share a threshold, as in scikit-learn's `average_precision_score`: their order does
    not matter.

    Args:
        scores: (n,), on the CPU; higher means more likely positive.
        targets: bool (n,), which rows are positive.
        weights: (n,), 0 or more; a row of weight 2 counts as two rows.

    Returns:
        From 0 to 1; NaN if no row is positive (scikit-learn says 0).

    Raises:
        OdisError: A score is not finite.
    """
    scores, targets = ranked_rows(scores, targets)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    return (
        float(ClassRanking.of(scores, targets).average_precision(weights[:, None])[0])
        if targets.any()
        else math.nan
    )


def mean_average_precision_score(
    scores: np.ndarray | Tensor,
    targets: np.ndarray | Tensor,
    groups: np.ndarray | Tensor | None = None,
    *,
    resamples: int = 200,
    seed: int = 0,
) -> Score:
    """Mean average precision over classes that have a positive row, in resamples too.

    Resamples are shifted to the score (see the module).

    Args:
        scores: (n, C), on the CPU.
        targets: bool (n, C).
        groups: int (n,), the image of each row; None if every row is one of its own.
        resamples: R.
        seed: Of the resamples.

    Raises:
        OdisError: A score is not finite.
    """
    scores, targets = ranked_rows(scores, targets)
    rankings = [ClassRanking.of(scores[:, c], targets[:, c]) for c in np.flatnonzero(targets.any(0))]
    if not rankings:
        return score_of(math.nan, [])
    group, total = numbered(images_of_rows(len(scores), groups))
    value = float(macro_precision(rankings, np.ones((len(scores), 1)))[0])
    samples = [
        macro_precision(rankings, counts.T.take(group, axis=0))
        for counts in resampled(total, resamples, seed, len(scores))
    ]
    return score_of(value, samples, centred=True)


def resampled_score(
    value: float,
    images: int,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int = 200,
    seed: int = 0,
    row: int = 0,
) -> Score:
    """A score of a set of images whose resamples are shifted to it (see the module).

    Args:
        value: From 0 to 1; NaN if there is none.
        images: How many there are.
        statistic: The score of resamples, (r,), from how often each image is in them, float64 (r, images).
        resamples: R.
        seed: Of the resamples.
        row: Numbers that `statistic` makes of one resample, if more than the images.
    """
    samples = [statistic(counts) for counts in resampled(images, resamples, seed, row)]
    return score_of(value, samples, centred=True)


@dataclass(frozen=True, slots=True)
class ClassRanking:
    """Rows of one class by falling score, cut at the thresholds that gain a positive row; others add
    nothing to the sum.
    """

    rows: np.ndarray  # int64, down to the last such threshold
    starts: np.ndarray  # int64 (T,), where in `rows` the part up to each threshold begins
    positives: np.ndarray  # int64, the positive ones of `rows`
    positive_starts: np.ndarray  # int64 (T,), where in `positives` those of each threshold begin

    @staticmethod
    def of(scores: np.ndarray, targets: np.ndarray) -> ClassRanking:
        """From (n,) each, with at least one positive."""
        order = np.argsort(-scores, kind="stable")
        ranked, hit = scores[order], targets[order]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last row of each score
        used, positive_starts = np.unique(np.searchsorted(ends, np.flatnonzero(hit)), return_index=True)
        ends = ends[used]
        return ClassRanking(order[: ends[-1] + 1], np.append(0, ends[:-1] + 1), order[hit], positive_starts)

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Of rows weighted in R ways: (n, R) -> (R,), NaN where all positives have weight 0."""
        added = np.add.reduceat(weights.take(self.positives, axis=0), self.positive_starts, axis=0)  # (T, R)
        found = added.cumsum(0)
        seen = np.add.reduceat(weights.take(self.rows, axis=0), self.starts, axis=0).cumsum(0)
        precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
        with np.errstate(invalid="ignore"):
            averages: np.ndarray = (added * precision).sum(0) / found[-1]
        return averages


def macro_precision(rankings: Sequence[ClassRanking], weights: np.ndarray) -> np.ndarray:
    """Mean average precision of rows weighted in R ways: (n, R) -> (R,)."""
    return mean_of_known(np.stack([ranking.average_precision(weights) for ranking in rankings], axis=1))


def confusion(
    predicted: np.ndarray | Tensor, labels: np.ndarray | Tensor, classes: int, ignore: int = -1
) -> np.ndarray:
    """Confusion matrix of pixels.

    Args:
        predicted: int, any shape and device, from 0 to classes - 1 where the label is not `ignore`.
        labels: int, of that shape and device, from 0 to classes - 1, or `ignore`.
        classes: C.
        ignore: Label of pixels to leave out. It must be no class: predictions of a class without labelled
            pixels count.

    Returns:
        int64 (C, C): rows are labels, columns predictions.

    Raises:
        OdisError: A label or prediction out of range.
    """
    predicted, labels = torch.as_tensor(predicted).long(), torch.as_tensor(labels).long()
    known = labels != ignore
    predicted, labels = predicted[known], labels[known]
    for name, given in (("labels", labels), ("predicted classes", predicted)):
        if given.numel() and not 0 <= int(given.min()) <= int(given.max()) < classes:
            raise OdisError(
                f"{name} are {int(given.min())} to {int(given.max())}, must be 0 to {classes - 1}"
            )
    return (
        torch.bincount(labels * classes + predicted, minlength=classes * classes)
        .reshape(classes, classes)
        .cpu()
        .numpy()
    )


def overlaps(confusions: np.ndarray) -> np.ndarray:
    """Of each class the pixels in both, predicted, and labelled: all that IoU needs of a confusion matrix.

    Args:
        confusions: int64 (..., C, C), see `confusion`.

    Returns:
        int64 (..., 3, C): on 150 classes a fiftieth of the matrix, small enough to keep for all images.
    """
    return np.stack(
        [np.diagonal(confusions, axis1=-2, axis2=-1), confusions.sum(-2), confusions.sum(-1)], axis=-2
    )


def iou_score(
    counts: np.ndarray, *, all_classes: bool = False, resamples: int = 1000, seed: int = 0
) -> tuple[Score, np.ndarray]:
    """Mean over classes of intersection over union, each summed over all images.

    A class without labelled or predicted pixels is left out of the mean, in resamples too; one that is only
    predicted has 0. This is torchmetrics' `JaccardIndex(average="macro")`, except that its list by class has
    0 for classes left out. Images are resampled, and the resamples shifted to the score (see the module).

    Args:
        counts: int64 (images, 3, C), `overlaps` of each image's confusion matrix; or (runs, images, 3, C) of
            several runs on the same images: the score is the mean of theirs.
        all_classes: Count a class that would be left out as 0.
        resamples: R.
        seed: Of the resamples.

    Returns:
        Mean IoU; and IoU of each class in percent, float64 (C,), NaN where it has none.
    """
    runs = counts if counts.ndim == 4 else counts[None]
    absent = 0.0 if all_classes else math.nan
    by_class = iou_by_class(runs.sum(1, dtype=np.float64), absent)  # (runs, C)
    images, values = runs.shape[1], math.prod(runs.shape[2:])
    samples = []
    for drawn in resampled(images, resamples, seed, values):
        of_runs = [
            mean_of_known(
                iou_by_class((drawn @ run.reshape(images, values)).reshape(-1, *run.shape[1:]), absent)
            )
            for run in runs.astype(np.float64, copy=False)
        ]
        samples.append(np.mean(of_runs, axis=0))
    score = score_of(float(mean_of_known(by_class).mean()), samples, centred=True)
    return score, 100 * mean_of_known(by_class.T)


def iou_by_class(counts: np.ndarray, absent: float) -> np.ndarray:
    """float64 (..., 3, C) -> (..., C), `absent` where the union is empty."""
    both, predicted, labelled = np.moveaxis(counts, -2, 0)
    union = predicted + labelled - both
    shares: np.ndarray = np.divide(both, union, out=np.full(union.shape, absent), where=union > 0)
    return shares


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean of each row without its NaN, (R, C) -> (R,); NaN for an empty row, without numpy's warning."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = np.where(known, values, 0.0).sum(1) / known.sum(1)
    return means


def ranked_rows(scores: np.ndarray | Tensor, targets: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Scores float64 and targets bool, (n,) or (n, C), that can be ranked.

    Raises:
        OdisError: They are not of one shape, or a score is not finite.
    """
    scores, targets = np.asarray(scores, dtype=np.float64), np.asarray(targets).astype(bool)
    if scores.shape != targets.shape:
        raise OdisError(f"scores are {scores.shape}, but their targets are {targets.shape}")
    if not np.isfinite(scores).all():
        raise OdisError("scores hold values that are not finite, which have no rank")
    return scores, targets


def images_of_rows(n: int, groups: np.ndarray | Tensor | None) -> np.ndarray:
    """The image of each row, (n,)."""
    images = np.arange(n) if groups is None else np.asarray(groups)
    if images.shape != (n,):
        raise OdisError(f"groups are {images.shape}, must be one for each of {counted(n, 'row')}")
    return images


def numbered(images: np.ndarray) -> tuple[np.ndarray, int]:
    """Images as numbers from 0, int64 (n,), and how many there are."""
    names, number = np.unique(images, return_inverse=True)
    return number, len(names)


def resampled(groups: int, resamples: int, seed: int, row: int = 0) -> Iterator[np.ndarray]:
    """How often each group is drawn, in parts that bound memory: float64 (some of R, groups). Nothing for one
    group.

    Args:
        groups: How many there are.
        resamples: R.
        seed: Of the draws; the size of the parts makes no difference to them.
        row: Numbers that the caller computes from one resample, if more than groups.
    """
    if groups < 2:
        return
    rng = np.random.default_rng(seed)
    most = max(1, _CHUNK // max(groups, row))
    for start in range(0, resamples, most):
        part = min(most, resamples - start)
        drawn = rng.integers(groups, size=(part, groups))
        drawn += np.arange(part)[:, None] * groups
        # A multinomial draw; numpy's own draws one count at a time.
        yield np.bincount(drawn.ravel(), minlength=part * groups).reshape(part, groups).astype(np.float64)


def score_of(
    value: float, samples: Sequence[np.ndarray], *, centred: bool = False, lowest: float = 0.0
) -> Score:
    """In percent, from shares; resamples without a value are left out.

    Args:
        value: The score, NaN if there is none.
        samples: The score of resamples, in parts.
        centred: Shift the resamples to have their mean at the score.
        lowest: That a score can be: -1 of a difference.
    """
    known = np.concatenate(samples) if samples else np.empty(0)
    known = known[~np.isnan(known)]
    if not len(known):
        return Score(100 * value, math.nan, math.nan)
    shift = value - known.mean() if centred else 0.0
    low, high = np.clip(np.quantile(known, _TAILS) + shift, lowest, 1.0)
    return Score(100 * value, 100 * float(low), 100 * float(high))
