"""Paired intervals against an explicit bootstrap that repeats the rows of every drawn image."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from odis.evaluation import scores as module
from odis.evaluation.paired import PairedScore, paired_iou, paired_map, paired_mean
from odis.evaluation.scores import (
    accuracy_score,
    iou_score,
    mean_average_precision_score,
)

IMAGES, SEED = 12, 3


def slow(
    statistic: Callable[[np.ndarray], tuple[float, float]], resamples: int, centred: bool
) -> list[float]:
    """2.5th and 97.5th percentile of the difference, from images drawn one by one."""
    gaps = []
    for counts in np.concatenate(list(module.resampled(IMAGES, resamples, SEED))).astype(int):
        before, after = statistic(np.repeat(np.arange(IMAGES), counts))
        gaps.append(after - before)
    ends = np.quantile(gaps, (0.025, 0.975))
    if centred:
        before, after = statistic(np.arange(IMAGES))
        ends += after - before - np.mean(gaps)
    return [100 * float(end) for end in ends]


def interval(score: PairedScore) -> list[float]:
    return [score.difference.low, score.difference.high]


def test_a_mean_is_that_of_each_network_and_the_difference_is_of_the_same_images() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, IMAGES, 60)
    groups[:IMAGES] = range(IMAGES)
    before, after = rng.random(60) < 0.4, rng.random(60) < 0.6

    def means(images: np.ndarray) -> tuple[float, float]:
        rows = np.concatenate([np.flatnonzero(groups == i) for i in images])
        return before[rows].mean(), after[rows].mean()

    found = paired_mean(before, after, groups, resamples=200, seed=SEED)
    assert found.before == accuracy_score(before, groups, resamples=200, seed=SEED)
    assert found.after == accuracy_score(after, groups, resamples=200, seed=SEED)
    assert found.difference.value == pytest.approx(100 * (after.mean() - before.mean()))
    assert interval(found) == pytest.approx(slow(means, 200, centred=False), abs=1e-9)


def test_mean_average_precision() -> None:
    rng = np.random.default_rng(1)
    targets = rng.random((IMAGES, 3)) < 0.4
    targets[:3] = np.eye(3, dtype=bool)
    logits = [rng.normal(size=(IMAGES, 3)) + strength * targets for strength in (0.5, 1.5)]

    def both(images: np.ndarray) -> tuple[float, float]:
        found = []
        for one in logits:
            classes = np.flatnonzero(targets[images].any(0))
            found.append(
                np.mean([average_precision_score(targets[images, c], one[images, c]) for c in classes])
            )
        return float(found[0]), float(found[1])

    found = paired_map(*logits, targets, resamples=100, seed=SEED)
    for score, one in zip((found.before, found.after), logits):
        assert score == mean_average_precision_score(one, targets, resamples=100, seed=SEED)
    assert interval(found) == pytest.approx(slow(both, 100, centred=True), abs=1e-6)


def test_mean_iou() -> None:
    rng = np.random.default_rng(2)
    labelled = rng.integers(1, 50, (IMAGES, 3))
    counts = []
    for share in (0.3, 0.5):
        both = (share * labelled * rng.random((IMAGES, 3))).astype(np.int64)
        counts.append(np.stack([both, both + rng.integers(0, 20, (IMAGES, 3)), labelled], axis=1))

    def means(images: np.ndarray) -> tuple[float, float]:
        found = []
        for one in counts:
            both, predicted, true = one[images].sum(0)
            found.append(float(np.mean(both / (predicted + true - both))))
        return found[0], found[1]

    found = paired_iou(*counts, resamples=100, seed=SEED)
    for score, one in zip((found.before, found.after), counts):
        assert score == iou_score(one, resamples=100, seed=SEED)[0]
    assert interval(found) == pytest.approx(slow(means, 100, centred=True), abs=1e-9)


def test_what_is_hard_for_both_networks_is_no_chance() -> None:
    rng = np.random.default_rng(4)
    before = np.repeat(rng.random(200) < 0.5, 4)  # images are all right or all wrong
    after = before.copy()
    after[::40] = True
    groups = np.repeat(np.arange(200), 4)
    found = paired_mean(before, after, groups)
    assert found.difference.low > 0
    assert found.after.low < found.before.high  # their own intervals overlap
    same = paired_mean(before, before, groups).difference
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_one_image_has_no_interval_and_none_has_no_score() -> None:
    one = paired_mean(np.array([True]), np.array([False]), np.array([7]))
    assert one.difference.value == -100
    assert np.isnan([one.difference.low, one.before.high]).all()
    assert one.as_dict()["difference"] == {"value": -100.0, "low": None, "high": None}
    none = paired_map(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3), dtype=bool))
    assert none.as_dict()["after"]["value"] is None
