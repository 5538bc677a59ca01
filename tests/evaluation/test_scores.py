"""Measures against scikit-learn, torchmetrics and explicit loops; intervals by how often they hold what they
should.
"""

import json
import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score as sklearn_accuracy
from sklearn.metrics import average_precision_score, confusion_matrix, jaccard_score

from odis.errors import OdisError
from odis.evaluation import scores as module
from odis.evaluation.scores import (
    Score,
    accuracy_score,
    average_precision,
    confusion,
    iou_score,
    mean_average_precision_score,
    mean_score,
    overlaps,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def interval(score: Score) -> tuple[float, float]:
    return score.low, score.high


# --- Score ---


def test_a_score_is_written_with_three_decimals_and_without_nan() -> None:
    assert Score(12.34567, 1.0, math.nan).as_dict() == {"value": 12.346, "low": 1.0, "high": None}
    assert (
        json.loads(json.dumps(Score(math.nan, math.nan, math.inf).as_dict(), allow_nan=False))["value"]
        is None
    )


def test_centred_resamples_keep_their_spread_within_0_and_100() -> None:
    resampled = np.linspace(0.4, 0.6, 41)  # mean 0.5, percentiles 0.405 and 0.595
    for value, expected in ((0.3, (20.5, 39.5)), (0.97, (87.5, 100.0)), (0.01, (0.0, 10.5))):
        assert interval(
            module.score_of(value, [resampled[:7], resampled[7:]], centred=True)
        ) == pytest.approx(expected)
        assert interval(module.score_of(value, [resampled])) == pytest.approx((40.5, 59.5))
    assert interval(module.score_of(-0.97, [resampled], centred=True, lowest=-1)) == pytest.approx(
        (-100, -87.5)
    )


# --- accuracy and mean ---


def test_accuracy_equals_scikit_learn(rng: np.random.Generator) -> None:
    labels, predicted = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    for groups in (None, rng.integers(0, 20, 200)):
        score = accuracy_score(labels == predicted, groups)
        assert score.value == pytest.approx(100 * sklearn_accuracy(labels, predicted))
        assert score.low < score.value < score.high


def test_mean_leaves_nan_out_and_with_them_the_images_that_have_nothing_else() -> None:
    values, groups = np.array([0.5, math.nan, 0.25, math.nan, 0.9]), np.array([7, 7, 3, 5, 5])
    kept = ~np.isnan(values)
    assert mean_score(values, groups) == mean_score(values[kept], groups[kept])
    assert mean_score(values).value == pytest.approx(55.0)
    only = mean_score(np.array([0.5, 0.7, math.nan]), np.array([1, 1, 2]))
    assert only.value == pytest.approx(60)
    assert np.isnan(interval(only)).all()  # a single image is left


def test_the_interval_is_that_of_a_slow_bootstrap(rng: np.random.Generator) -> None:
    groups = np.sort(rng.integers(0, 30, 150))
    values = rng.random(150) * (groups % 3 + 1) / 3
    means = []
    for _ in range(2000):
        rows = np.concatenate(
            [np.flatnonzero(groups == g) for g in rng.choice(np.unique(groups), len(np.unique(groups)))]
        )
        means.append(100 * values[rows].mean())
    found = mean_score(values, groups, resamples=2000)
    np.testing.assert_allclose(interval(found), np.quantile(means, [0.025, 0.975]), atol=0.25 * np.std(means))


def test_images_as_a_whole_make_a_wider_interval_than_objects_alone(rng: np.random.Generator) -> None:
    right = np.repeat(rng.random(50) < 0.6, 10)  # all objects of an image are right, or none
    alone, together = accuracy_score(right), accuracy_score(right, np.repeat(np.arange(50), 10))
    assert together.value == alone.value
    assert together.high - together.low > 2.5 * (alone.high - alone.low)  # sqrt(10) in expectation


def test_names_and_order_of_images_make_no_difference(rng: np.random.Generator) -> None:
    values, groups = rng.random(60), np.repeat(np.arange(12), 5)
    order = rng.permutation(60)
    renamed = mean_score(values[order], groups[order] * 1000 - 5)
    assert renamed.value == pytest.approx(mean_score(values, groups).value)
    assert interval(renamed) == pytest.approx(interval(mean_score(values, groups)))


@pytest.mark.parametrize("measure", ["mean", "map", "iou"])
def test_seeds_reproduce_and_parts_change_nothing(
    rng: np.random.Generator, measure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, groups = rng.random(41), np.arange(41) // 2
    scores, targets = rng.normal(size=(41, 3)), rng.random((41, 3)) < 0.4
    counts = np.stack([overlaps(rng.integers(0, 9, (4, 4))) for _ in range(41)])

    def score(seed: int) -> Score:
        if measure == "mean":
            return mean_score(values, groups, resamples=90, seed=seed)
        if measure == "map":
            return mean_average_precision_score(scores, targets, groups, resamples=90, seed=seed)
        return iou_score(counts, resamples=90, seed=seed)[0]

    whole = score(3)
    assert score(3) == whole
    assert interval(score(4)) != interval(whole)
    for chunk in (1, 100, 777):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        assert interval(score(3)) == pytest.approx(interval(whole), abs=1e-9)


def test_fifty_thousand_images_stay_in_memory(rng: np.random.Generator) -> None:
    right = rng.random(100_000) < 0.7
    tracemalloc.start()
    score = accuracy_score(right, np.arange(100_000) // 2, resamples=300)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    spread = 100 * math.sqrt(0.7 * 0.3 / 100_000)
    assert score.high - score.low == pytest.approx(2 * 1.96 * spread, rel=0.3)


def test_edges_of_means() -> None:
    assert accuracy_score(np.ones(5, dtype=bool)) == Score(100.0, 100.0, 100.0)
    assert accuracy_score(torch.zeros(5, dtype=torch.bool), torch.arange(5)) == Score(0.0, 0.0, 0.0)
    one = accuracy_score(np.array([True, False]), np.array([4, 4]))
    assert one.value == 50
    assert np.isnan(interval(one)).all()
    for nothing in (np.empty(0), np.full(3, math.nan)):
        assert np.isnan([*interval(mean_score(nothing)), mean_score(nothing).value]).all()
    assert np.isnan(interval(mean_score(np.array([0.1, 0.2]), resamples=0))).all()
    with pytest.raises(OdisError, match=r"groups are \(2,\), must be one for each of 3 rows"):
        mean_score(np.ones(3), np.zeros(2))


# --- average precision ---


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 40))
def test_average_precision_equals_scikit_learn_with_ties_and_weights(data: st.DataObject, n: int) -> None:
    scores = data.draw(hnp.arrays(np.float64, n, elements=st.sampled_from([0.0, -0.0, 0.1, 0.25, 1.0, 3.0])))
    targets = data.draw(hnp.arrays(np.bool_, n).filter(np.any))
    weights = data.draw(hnp.arrays(np.float64, n, elements=st.sampled_from([0.0, 0.5, 1.0, 3.0])))
    assert average_precision(scores, targets) == pytest.approx(average_precision_score(targets, scores))
    if weights[targets].any():
        assert average_precision(scores, targets, weights) == pytest.approx(
            average_precision_score(targets, scores, sample_weight=weights)
        )
    else:
        assert math.isnan(average_precision(scores, targets, weights))


def test_a_weight_is_a_number_of_copies_and_order_makes_no_difference(rng: np.random.Generator) -> None:
    scores, targets, copies = rng.integers(0, 8, 30) / 8, rng.random(30) < 0.4, rng.integers(0, 4, 30)
    rows = rng.permutation(np.repeat(np.arange(30), copies))
    assert average_precision(scores, targets, copies) == pytest.approx(
        average_precision(scores[rows], targets[rows])
    )


def test_average_precision_by_hand() -> None:
    scores, targets = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, True, False])
    assert average_precision(scores, targets) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(torch.ones(4), targets) == pytest.approx(
        0.5
    )  # one threshold, half of it positive


def slow_map(scores: np.ndarray, targets: np.ndarray) -> float:
    with_positive = [c for c in range(targets.shape[1]) if targets[:, c].any()]
    return (
        float(np.mean([average_precision_score(targets[:, c], scores[:, c]) for c in with_positive]))
        if with_positive
        else math.nan
    )


def test_mean_average_precision_and_its_interval_equal_a_slow_bootstrap(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = np.repeat(np.arange(15), 3)
    scores, targets = rng.integers(0, 12, (45, 4)) / 12, rng.random((45, 4)) < 0.3
    targets[:, 2] = False  # a class without a positive
    targets[:, 3] = groups == 4  # one that a third of the resamples lacks
    drawn = np.concatenate(list(module.resampled(15, 60, 8)))
    resampled = []
    for counts in drawn.astype(int):
        rows = np.repeat(np.arange(45), counts[groups])
        resampled.append(100 * slow_map(scores[rows], targets[rows]))
    value = 100 * slow_map(scores, targets)
    found = mean_average_precision_score(scores, targets, groups, resamples=60, seed=8)
    assert found.value == pytest.approx(value)
    expected = np.quantile(resampled, [0.025, 0.975]) + value - np.mean(resampled)
    np.testing.assert_allclose(interval(found), expected.clip(0, 100))


def test_draws_are_multinomial() -> None:
    counts = np.concatenate(list(module.resampled(5, 20_000, 0)))
    assert (counts.sum(1) == 5).all()
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.03)
    np.testing.assert_allclose(np.cov(counts.T), np.eye(5) - 0.2, atol=0.03)


def test_edges_of_mean_average_precision(rng: np.random.Generator) -> None:
    scores = rng.normal(size=(6, 2))
    assert math.isnan(mean_average_precision_score(scores, np.zeros((6, 2), dtype=bool)).value)
    assert mean_average_precision_score(scores, scores > 10).as_dict() == {
        "value": None,
        "low": None,
        "high": None,
    }
    targets = np.tile(scores[:, :1] > np.median(scores[:, 0]), (1, 2))
    perfect = mean_average_precision_score(np.where(targets, 1.0, 0.0), targets)
    assert perfect == Score(100.0, 100.0, 100.0)
    one = mean_average_precision_score(torch.from_numpy(scores), targets, np.zeros(6))
    assert one.value == pytest.approx(100 * slow_map(scores, targets))
    assert np.isnan(interval(one)).all()
    assert math.isnan(average_precision(scores[:, 0], np.zeros(6)))
    with pytest.raises(OdisError, match="not finite"):
        mean_average_precision_score(np.full((6, 2), math.nan), targets)
    with pytest.raises(OdisError, match=r"scores are \(6, 2\), but their targets are \(6, 3\)"):
        mean_average_precision_score(scores, np.ones((6, 3)))


# --- confusion and IoU ---


@pytest.mark.parametrize("ignore", [-1, 255])
def test_confusion_equals_scikit_learn_and_a_loop(rng: np.random.Generator, ignore: int) -> None:
    labels, predicted = rng.integers(0, 4, (20, 30)), rng.integers(0, 5, (20, 30))
    labels[rng.random((20, 30)) < 0.2] = ignore
    predicted[3, 4], labels[3, 4] = 99, ignore  # what is predicted where nothing is known makes no difference
    found = confusion(predicted, labels, 5, ignore)
    expected = np.zeros((5, 5), dtype=np.int64)
    for p, t in zip(predicted.ravel(), labels.ravel()):
        if t != ignore:
            expected[t, p] += 1
    known = labels != ignore
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, confusion_matrix(labels[known], predicted[known], labels=range(5)))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(
        confusion(torch.from_numpy(predicted), torch.from_numpy(labels.astype(np.int32)), 5, ignore), expected
    )


def test_confusion_refuses_what_is_no_class() -> None:
    with pytest.raises(OdisError, match="predicted classes are 0 to 3, must be 0 to 2"):
        confusion(np.array([0, 3]), np.array([0, 1]), 3)
    with pytest.raises(OdisError, match="labels are 1 to 255, must be 0 to 2"):
        confusion(np.array([0, 1]), np.array([1, 255]), 3)
    with pytest.raises(OdisError, match="labels are -2 to 1"):
        confusion(np.array([0, 1]), np.array([1, -2]), 3)


def pixels(
    rng: np.random.Generator, images: int, classes: int, present: float
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels (images, 80) of images that have some of the classes, more or less well
    predicted by image.
    """
    here = rng.random((images, 1, classes)) < present
    here[np.arange(images), 0, rng.integers(classes, size=images)] = True
    labels, other = (
        (rng.random((images, 80, classes), dtype=np.float32) * here).argmax(-1) for _ in range(2)
    )
    return np.where(rng.random((images, 80)) < rng.beta(1, 3, (images, 1)), other, labels), labels


def counted(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    return np.stack([overlaps(confusion(p, t, classes)) for p, t in zip(predicted, labels)])


def test_iou_equals_scikit_learn_and_a_loop(rng: np.random.Generator) -> None:
    predicted, labels = pixels(rng, 12, 5, 0.7)
    predicted[0, :5] = 5  # predicted, never there: 0
    labels[1, :9] = -1
    score, by_class = iou_score(counted(predicted, labels, 7))  # class 6 is nowhere
    known = labels >= 0
    expected = 100 * jaccard_score(
        labels[known], predicted[known], labels=range(6), average=None, zero_division=0
    )
    np.testing.assert_allclose(by_class[:6], expected)
    assert by_class[5] == 0
    assert math.isnan(by_class[6])
    assert score.value == pytest.approx(expected.mean())
    slow = [
        100
        * np.sum(known & (labels == c) & (predicted == c))
        / np.sum(known & ((labels == c) | (predicted == c)))
        for c in range(6)
    ]
    np.testing.assert_allclose(by_class[:6], slow)


@pytest.mark.parametrize("ignore", [-1, 255])
def test_iou_equals_torchmetrics_but_for_classes_that_are_nowhere(
    rng: np.random.Generator, ignore: int
) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    predicted, labels = pixels(rng, 9, 5, 0.7)
    predicted[0, :5] = 5
    labels[1, :9] = ignore
    counts = np.stack([overlaps(confusion(p, t, 7, ignore)) for p, t in zip(predicted, labels)])
    score, by_class = iou_score(counts)
    given = torch.from_numpy(predicted), torch.from_numpy(labels)
    peer = {
        average: torchmetrics.JaccardIndex(
            task="multiclass", num_classes=7, average=average, ignore_index=ignore
        )(*given).numpy()
        for average in ("macro", "none")
    }
    assert score.value == pytest.approx(100 * float(peer["macro"]), abs=1e-4)
    np.testing.assert_allclose(by_class[:6], 100 * peer["none"][:6], atol=1e-4)
    assert math.isnan(by_class[6])
    assert peer["none"][6] == 0


def test_the_interval_of_iou_is_that_of_a_slow_bootstrap(rng: np.random.Generator) -> None:
    predicted, labels = pixels(rng, 14, 6, 0.2)
    resampled = []
    for counts in np.concatenate(list(module.resampled(14, 50, 2))).astype(int):
        rows = np.repeat(np.arange(14), counts)
        t, p = labels[rows].ravel(), predicted[rows].ravel()
        here = [c for c in range(6) if (t == c).any() or (p == c).any()]
        resampled.append(100 * jaccard_score(t, p, labels=here, average="macro"))
    found = iou_score(counted(predicted, labels, 6), resamples=50, seed=2)[0]
    expected = np.quantile(resampled, [0.025, 0.975]) + found.value - np.mean(resampled)
    np.testing.assert_allclose(interval(found), expected.clip(0, 100))


def test_edges_of_iou() -> None:
    same = np.tile([0, 1, 1], (3, 1))
    assert iou_score(counted(same, same, 2))[0] == Score(100.0, 100.0, 100.0)
    assert iou_score(counted(1 - same, same, 2))[0] == Score(0.0, 0.0, 0.0)
    unlabelled, by_class = iou_score(counted(same, np.full((3, 3), -1), 2))
    assert unlabelled.as_dict() == {"value": None, "low": None, "high": None}
    assert np.isnan(by_class).all()
    one, by_class = iou_score(counted(same[:1], np.array([[0, 0, 1]]), 2))
    assert one.value == pytest.approx(50)
    assert by_class.tolist() == [50, 50]
    assert np.isnan(interval(one)).all()


# --- do 95 % intervals hold the expected figure in 95 % of data sets? ---


def clustered(rng: np.random.Generator) -> Score:
    groups = np.repeat(np.arange(60), rng.integers(1, 8, 60))
    return accuracy_score(rng.random(len(groups)) < rng.beta(2, 1, 60)[groups], groups, resamples=400)


def rankings(rng: np.random.Generator, resamples: int = 200) -> Score:
    targets = rng.random((200, 16)) < 0.05
    return mean_average_precision_score(rng.normal(size=(200, 16)) + targets, targets, resamples=resamples)


def segmented(rng: np.random.Generator, resamples: int = 200) -> Score:
    """Many rare classes, and stray predictions of each: a class that a resample lacks may still be predicted,
    and then has 0.
    """
    predicted, labels = pixels(rng, 80, 30, 0.02)
    predicted = np.where(
        rng.random(predicted.shape) < 0.02, rng.integers(30, size=predicted.shape), predicted
    )
    place = (np.arange(80)[:, None] * 30 + labels) * 30 + predicted
    confusions = np.bincount(place.ravel(), minlength=80 * 900).reshape(80, 30, 30)
    return iou_score(overlaps(confusions), resamples=resamples)[0]


@pytest.mark.parametrize("simulate", [clustered, rankings, segmented])
def test_intervals_hold_the_expected_figure_as_often_as_they_say(simulate: Callable[..., Score]) -> None:
    rng = np.random.default_rng(18)
    truth = (
        100 * 2 / 3
        if simulate is clustered
        else np.mean([simulate(rng, resamples=0).value for _ in range(300)])
    )
    found = [simulate(rng) for _ in range(200)]
    held = np.mean([score.low <= truth <= score.high for score in found])
    assert 0.90 <= held <= 0.98, held
    assert all(score.low <= score.value <= score.high for score in found)


def test_the_iou_of_several_runs_is_the_mean_of_theirs_and_absent_classes_may_count():
    rng = np.random.default_rng(0)
    runs = np.stack([rng.integers(1, 9, (6, 3, 4)) for _ in range(3)])
    runs[:, :, 1:] += runs[:, :, :1]
    singly = [iou_score(run) for run in runs]
    score, by_class = iou_score(runs)
    assert score.value == pytest.approx(np.mean([one.value for one, _ in singly]))
    np.testing.assert_allclose(by_class, np.mean([one for _, one in singly], axis=0))
    assert score.low < score.value < score.high
    runs[..., 3] = 0  # a class that nobody has
    left_out, counted = iou_score(runs[0])[0], iou_score(runs[0], all_classes=True)[0]
    assert counted.value == pytest.approx(left_out.value * 3 / 4)
    assert counted.high == pytest.approx(left_out.high * 3 / 4)
