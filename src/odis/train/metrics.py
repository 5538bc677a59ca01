"""Metrics of a run: sums kept on the device over a log interval, meters of collapse, JSON lines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from odis.machine.files import append_line, write_text_whole
from odis.machine.ranks import Ranks, sum_over_ranks, world_size


def entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy in nats over the last dimension."""
    return -(probabilities * probabilities.clamp_min(1e-12).log()).sum(-1)


@torch.no_grad()
def collapse_meters(probabilities: Tensor, features: Tensor) -> dict[str, Tensor]:
    """Three numbers that tell a healthy run from a collapsed one.

    Args:
        probabilities: (T, K), the teacher's, for the visible objects of global views.
        features: (R, D), the student backbone's, for its object tokens.

    Returns:
        `teacher_entropy`: mean entropy of a teacher distribution. Near log K the teacher is uniform.
        `mean_entropy`: entropy of the mean teacher distribution. Near 0 all objects get one prototype.
        `feature_spread`: sqrt(1 - |mean of unit features|^2), 0 if all features are the same.
        All are NaN for a batch that shows no object. Sinkhorn-Knopp holds `mean_entropy` near log K; there a
        collapse shows as a uniform teacher.
    """
    mean_direction = F.normalize(features.float(), dim=-1).mean(0)
    return {
        "teacher_entropy": entropy(probabilities).mean(),
        "mean_entropy": entropy(probabilities.mean(0)),
        "feature_spread": (1 - mean_direction.square().sum()).clamp_min(0).sqrt(),
    }


def collapse_warning(values: dict[str, float], prototypes: int) -> str | None:
    """One line if the meters show a collapse, else None.

    The bounds are far from healthy runs: a mean distribution of under 2 effective prototypes, or a teacher
    within 0.5 % of uniform entropy whose features have no spread.
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
    """Running sums on the device. Nothing is transferred until `means`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one value of each name."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Means over all ranks since the last call, in one transfer; the sums start again."""
        if not self._sums:
            return {}
        names = list(self._sums)
        values = (
            sum_over_ranks(torch.stack([self._sums[n] / self._counts[n] for n in names])) / world_size()
        ).tolist()
        self._sums, self._counts = {}, {}
        return dict(zip(names, values))

    def state_dict(self, ranks: Ranks | None = None) -> list[dict[str, Any]]:
        """Sums and counts of each rank, on the CPU. All ranks call it. Without ranks there is this one."""
        mine = {"sums": {name: value.cpu() for name, value in self._sums.items()}, "counts": self._counts}
        return [mine] if ranks is None else ranks.gather(mine)

    def load_state_dict(self, state: list[dict[str, Any]], rank: int, device: torch.device) -> None:
        """Take over this rank's sums; if there were other ranks, the same share of all sums."""
        if len(state) == world_size():
            sums, self._counts = state[rank]["sums"], dict(state[rank]["counts"])
        else:
            names, self._counts = list(state[0]["sums"]), dict(state[0]["counts"])
            sums = {name: torch.stack([one["sums"][name] for one in state]).mean(0) for name in names}
        self._sums = {name: value.to(device) for name, value in sums.items()}


class JsonLines:
    """A log of one JSON object a line. A resumed run first drops the lines that it will write again."""

    def __init__(self, path: Path, from_step: int) -> None:
        self.path = path
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            kept = [line for line in text.splitlines() if _step_of(line) <= from_step]
            write_text_whole(path, "".join(line + "\n" for line in kept))

    def read(self) -> list[dict[str, Any]]:
        """All records."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def write(self, record: dict[str, Any]) -> None:
        """Append a record. NaN and infinity become null."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        append_line(self.path, json.dumps(finite))


def _step_of(line: str) -> float:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf  # a line cut short by a kill
    return step if isinstance(step, int) else math.inf
