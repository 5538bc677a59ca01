"""Starting points side by side: scores, their intervals, and what lies between them.

A score is the mean over seeds. Its interval is over test images: all seeds and all starting points are
measured on the same resamples, so that the difference of two of them has an interval of its own, which is
narrower than that of either. What seeds do is said by their scores, which are all written down.

Letters: R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from odis.downstream.task import TaskAnswers
from odis.evaluation.scores import resampled, score_of


@dataclass(frozen=True, slots=True)
class SeedScore:
    """A score in percent: the mean over seeds, its 95 % interval over test images, and each seed's."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """To 3 decimals; None for NaN, which JSON lacks."""
        return {
            "value": _rounded(self.value),
            "low": _rounded(self.low),
            "high": _rounded(self.high),
            "seeds": [_rounded(one) for one in self.seeds],
        }


def compare(
    measured: Mapping[str, Sequence[TaskAnswers]], resamples: int, seed: int = 0
) -> tuple[dict[str, dict[str, SeedScore]], dict[str, dict[str, SeedScore]]]:
    """Scores of each starting point, and of each less those of the first.

    Args:
        measured: By starting point, what each seed answered. If they answered on different numbers of images,
            as some could not be read, there are no differences.
        resamples: R.
        seed: Of the resamples.
    """
    drawn = {name: _resampled(of_seeds, resamples, seed) for name, of_seeds in measured.items()}
    scores = {
        name: {what: _score(*values) for what, values in of_one.items()} for name, of_one in drawn.items()
    }
    first, *others = measured
    units = {one.units for of_seeds in measured.values() for one in of_seeds}
    differences: dict[str, dict[str, SeedScore]] = {}
    for name in others if len(units) == 1 else ():
        differences[name] = {}
        for what, (values, of_resamples) in drawn[name].items():
            base, of_base = drawn[first][what]
            # Seeds are paired where both have as many: the same seed draws the same images and heads.
            paired = values - base if len(values) == len(base) else np.array([values.mean() - base.mean()])
            differences[name][what] = _score(paired, of_resamples - of_base, lowest=-1.0)
    return scores, differences


def _resampled(
    of_seeds: Sequence[TaskAnswers], resamples: int, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By score, that of each seed, (seeds,), and the mean over seeds of each resample, (R,)."""
    per_seed = [one.scores(np.ones(one.units)) for one in of_seeds]
    units, drawn = {one.units for one in of_seeds}, []
    for parts in resampled(min(units), resamples, seed) if len(units) == 1 else ():
        for counts in parts:
            found = [one.scores(counts) for one in of_seeds]
            drawn.append({name: float(np.mean([one[name] for one in found])) for name in found[0]})
    return {
        name: (
            np.array([one[name] for one in per_seed]),
            np.array([one[name] for one in drawn]) if drawn else np.full(resamples, np.nan),
        )
        for name in per_seed[0]
    }


def _score(values: np.ndarray, drawn: np.ndarray, *, lowest: float = 0.0) -> SeedScore:
    one = score_of(float(np.mean(values)), [drawn], centred=True, lowest=lowest)
    return SeedScore(one.value, one.low, one.high, tuple(100 * float(of_seed) for of_seed in values))


def _rounded(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None
