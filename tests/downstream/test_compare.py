"""Scores over seeds, their intervals, and differences on the same resamples."""

from dataclasses import dataclass

import numpy as np
import pytest

from odis.downstream.compare import compare
from odis.evaluation.scores import accuracy_score


@dataclass
class Right:
    """Right answers of images."""

    right: np.ndarray

    @property
    def units(self) -> int:
        return len(self.right)

    def scores(self, counts: np.ndarray) -> dict[str, float]:
        return {"top-1": float(counts @ self.right / counts.sum())}

    def tensors(self):
        return {}


def answers(share: float, count: int, seed: int) -> Right:
    return Right((np.random.default_rng(seed).random(count) < share).astype(float))


def test_a_score_is_the_mean_over_seeds_with_the_interval_of_its_images():
    one, other = answers(0.6, 500, 1), answers(0.7, 500, 2)
    scores, _ = compare({"a": [one, other]}, 400)
    found = scores["a"]["top-1"]
    assert found.seeds == pytest.approx((100 * one.right.mean(), 100 * other.right.mean()))
    assert found.value == pytest.approx(np.mean(found.seeds))
    # Of the mean of two: the standard deviation of an image's mean answer, in the normal approximation.
    deviation = 100 * np.std((one.right + other.right) / 2) / np.sqrt(500)
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    single = compare({"a": [one]}, 400)[0]["a"]["top-1"]
    usual = accuracy_score(one.right.astype(bool))
    assert (single.low, single.high) == pytest.approx((usual.low, usual.high), abs=0.8)


def test_a_difference_is_on_the_same_images_and_narrower_than_that_of_two_intervals():
    """Both answer alike on all but 20 of 500 images, so only these count."""
    base = answers(0.5, 500, 1)
    better = Right(base.right.copy())
    better.right[np.flatnonzero(base.right == 0)[:20]] = 1.0
    scores, differences = compare({"base": [base], "better": [better]}, 400)
    found = differences["better"]["top-1"]
    assert found.value == pytest.approx(4.0)
    deviation = 100 * np.std(better.right - base.right) / np.sqrt(500)
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.12)
    assert found.low > 0
    assert scores["base"]["top-1"].high > scores["better"]["top-1"].low
    back = compare({"better": [better], "base": [base]}, 400)[1]["base"]["top-1"]
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_seeds_are_paired():
    first, second = answers(0.5, 100, 1), answers(0.6, 100, 2)
    differences = compare({"a": [first, second], "b": [second, first]}, 10)[1]["b"]["top-1"]
    gap = 100 * (second.right.mean() - first.right.mean())
    assert differences.seeds == pytest.approx((gap, -gap))
    assert differences.value == pytest.approx(0)


def test_no_interval_where_there_is_none_and_no_difference_on_other_images():
    nothing = Right(np.array([np.nan, np.nan]))
    scores, _ = compare({"a": [nothing]}, 5)
    assert scores["a"]["top-1"].as_dict() == {"value": None, "low": None, "high": None, "seeds": [None]}
    assert compare({"a": [answers(0.5, 1, 0)]}, 5)[0]["a"]["top-1"].as_dict()["low"] is None
    assert compare({"a": [answers(0.5, 9, 0)], "b": [answers(0.5, 8, 0)]}, 5)[1] == {}
