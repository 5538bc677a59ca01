"""What a run reports: sums kept on the device and read once an interval, and the meters that make collapse
visible.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from odis.machine.files import write_text_whole
from odis.machine.ranks import sum_over_ranks, world_size


def entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy in nats over the last dimension."""
    return -(probabilities * probabilities.clamp_min(1e-12).log()).sum(-1)


@torch.no_grad()
def collapse_meters(probabilities: Tensor, features: Tensor) -> dict[str, Tensor]:
    """Three numbers that tell a healthy run from a collapsed one.

    Args:
        probabilities: (T, K) of the teacher, for the visible objects of global views.
        features: (R, D) of the student's backbone, for the objects it was asked about.

    Returns:
        `teacher_entropy`, mean entropy of a teacher distribution: near log K the teacher says nothing
        (collapse to uniform). `mean_entropy`, entropy of the mean teacher distribution: near 0 it always says
        the same (collapse to one prototype). `feature_spread`, sqrt(1 - |mean of unit features|^2): 1 when
        features point everywhere, 0 when they are all one. All are NaN for a batch that shows no object.
        Sinkhorn-Knopp holds `mean_entropy` near log K whatever happens: there every collapse shows as a
        teacher that says nothing.
    """
    mean_direction = F.normalize(features.float(), dim=-1).mean(0)
    return {
        "teacher_entropy": entropy(probabilities).mean(),
        "mean_entropy": entropy(probabilities.mean(0)),
        "feature_spread": (1 - mean_direction.square().sum()).clamp_min(0).sqrt(),
    }


def collapse_warning(values: dict[str, float], prototypes: int) -> str | None:
    """One line if the meters say collapse, else None.

    The bounds are far outside what healthy runs show: a mean distribution that uses under 2 effective
    prototypes, or a teacher within 0.5 % of uniform entropy.
    """
    if not math.isfinite(values.get("mean_entropy", math.nan)):
        return None
    top = math.log(prototypes)
    if values["mean_entropy"] < math.log(2):
        return (
            f"collapse to one prototype: entropy of the mean teacher distribution is "
            f"{values['mean_entropy']:.3f} of {top:.2f} nats"
        )
    if values["teacher_entropy"] > 0.995 * top and values["feature_spread"] < 0.1:
        return (
            f"collapse to uniform: teacher entropy is {values['teacher_entropy']:.2f} of {top:.2f} nats "
            f"and features spread {values['feature_spread']:.3f}"
        )
    return None


class Meters:
    """Running sums on the device; nothing is read until `means`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Means since the last call over all ranks (one transfer from the device), and start again."""
        if not self._sums:
            return {}
        names = list(self._sums)
        values = (
            sum_over_ranks(torch.stack([self._sums[n] / self._counts[n] for n in names])) / world_size()
        ).tolist()
        self._sums, self._counts = {}, {}
        return dict(zip(names, values))


class JsonLines:
    """An append-only file of one JSON object a line; a resumed run first drops what it will write again."""

    def __init__(self, path: Path, from_step: int) -> None:
        self.path = path
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= from_step]
            write_text_whole(path, "".join(line + "\n" for line in kept))

    def read(self) -> list[dict[str, Any]]:
        """The records that are there."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def write(self, record: dict[str, Any]) -> None:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        with self.path.open("a") as f:  # a log: a line at a time, of which a kill may cut short the last
            f.write(json.dumps(finite) + "\n")  # JSON has no NaN


def _step_of(line: str) -> float:
    try:
        step: float = json.loads(line)["step"]
        return step
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line cut short by a kill
