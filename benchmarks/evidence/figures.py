"""From the JSON of cells to means, intervals over seeds, and verdicts on claims. Numbers in, numbers out."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy import stats

Measure = Callable[[dict[str, Any]], float]
"""A number of one cell's JSON."""


ENOUGH_SEEDS = 3
"""From which on there is an interval over seeds, and a verdict."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over seeds and half of its 95 % interval (Student's t), NaN for fewer than three seeds: two may
    lie beside each other by chance.
    """

    mean: float
    half: float
    seeds: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    def __str__(self) -> str:
        if not self.seeds:
            return "-"
        return f"{self.mean:.1f}" if math.isnan(self.half) else f"{self.mean:.1f} ± {self.half:.1f}"

    def signed(self) -> str:
        """With its sign, as differences are shown."""
        return str(self) if not self.seeds or self.mean < 0 else f"+{self}"


def figure(values: list[float]) -> Figure:
    """Mean and interval of one value a seed."""
    if not values:
        return Figure(math.nan, math.nan, 0)
    n = len(values)
    if n < ENOUGH_SEEDS:
        return Figure(statistics.mean(values), math.nan, n)
    half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Figure(statistics.mean(values), half, n)


@dataclass(slots=True)
class Results:
    """The figures of one world: `cells[name][seed]` is the JSON of a cell, `cost` what `cost.py` measured,
    `measured` how, `on` what `evaluate.py` measured on other data, `findings` what
    `findings.py` found, `first` runs that were made before the study's own and measured otherwise, `widths`
    what `mask_widths.py` measured, `agreement` what `agreement.py` did.
    """

    world: str
    cells: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    trials: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    cost: dict[str, dict[str, float]] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    on: list[dict[str, Any]] = field(default_factory=list)
    findings: dict[str, Any] = field(default_factory=dict)
    first: list[dict[str, Any]] = field(default_factory=list)
    widths: dict[str, Any] = field(default_factory=dict)
    agreement: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def read(folder: Path) -> Results:
        """All JSON files of a world's folder."""
        found = Results(folder.name)
        for path in sorted(folder.glob("*-seed*.json")):
            result = json.loads(path.read_text())
            found.cells.setdefault(result["cell"], {})[result["seed"]] = result
        if (folder / "cost.json").exists():
            found.measured = json.loads((folder / "cost.json").read_text())
            found.cost = found.measured.pop("methods")
        for path in sorted((folder / "choose").glob("*.json")):
            result = json.loads(path.read_text())
            found.trials.setdefault(result["cell"], {})[result["candidate"]] = result
        found.on = [json.loads(path.read_text()) for path in sorted((folder / "on").glob("*.json"))]
        found.first = [json.loads(path.read_text()) for path in sorted((folder / "first").glob("*.json"))]
        for name in ("findings", "widths", "agreement"):
            if (path := folder / f"{name}.json").exists():
                setattr(found, name, json.loads(path.read_text()))
        return found

    def at(self, length: str) -> Results:
        """The cells of one length under the names of their methods, and the untrained network."""
        cells = {
            name.removesuffix(f".{length}"): seeds
            for name, seeds in self.cells.items()
            if name.endswith(f".{length}") or name == "untrained"
        }
        return Results(self.world, cells, self.trials, self.cost, self.measured)

    def of(self, cell: str, measure: Measure) -> Figure:
        """A measure of a cell over its seeds."""
        values = [measure(result) for _, result in sorted(self.cells.get(cell, {}).items())]
        return figure([value for value in values if not math.isnan(value)])  # NaN: it was not measured

    def best(self, cell: str, measure: Measure) -> float:
        """A measure of the best seed of a cell; NaN if none was measured."""
        values = [measure(result) for result in self.cells.get(cell, {}).values()]
        return max((value for value in values if not math.isnan(value)), default=math.nan)

    def paired(self, ours: str, theirs: str, measure: Measure, other: Measure | None = None) -> Figure:
        """Difference of two cells within each seed that both have; `other` measures `theirs`, if it is
        measured otherwise.
        """
        one, two = self.cells.get(ours, {}), self.cells.get(theirs, {})
        seeds = sorted(one.keys() & two.keys())
        gaps = [measure(one[seed]) - (other or measure)(two[seed]) for seed in seeds]
        return figure([gap for gap in gaps if not math.isnan(gap)])

    def kept(self, cell: str, full: str, base: str, measure: Measure) -> Figure:
        """Of the gain of `full` over `base`, the share in percent that `cell` has, within each seed."""
        shares = []
        for seed in sorted(
            self.cells.get(cell, {}).keys()
            & self.cells.get(full, {}).keys()
            & self.cells.get(base, {}).keys()
        ):
            value, top, bottom = (measure(self.cells[name][seed]) for name in (cell, full, base))
            if top != bottom:
                shares.append(100 * (value - bottom) / (top - bottom))
        return figure(shares)


def knn(asked: str | None = None) -> Measure:
    """k-NN accuracy in percent; by default as the method asks best on held-out train images. NaN where a
    way to ask was not measured.
    """
    return lambda result: result["scores"]["knn"].get(asked or result["asked"], _MISSING)["value"]


def score(name: str) -> Measure:
    """`linear`, `images_map` or `dense_knn`, in percent."""
    return lambda result: result["scores"].get(name, _MISSING)["value"]


_MISSING = {"value": math.nan}


def verdict(difference: Figure, bound: float = 0.0) -> str:
    """Whether a figure lies above `bound`: an interval that holds it decides nothing."""
    if not difference.seeds:
        return "not run"
    if math.isnan(difference.half):
        return f"{'one seed' if difference.seeds == 1 else 'two seeds'}, not decided"
    if difference.low > bound:
        return "held"
    return "the reverse" if difference.high < bound else "not decided"
