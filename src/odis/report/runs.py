"""Read the folder of a run: its config and its metrics. A file that is still being written is fine."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odis.errors import DataError
from odis.train.run_folder import read_config

_LARGEST = 1e300


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the report."""

    path: Path
    label: str  # short, and no other run's
    record: dict[str, Any]  # config.yaml
    lines: list[dict[str, Any]]  # metrics.jsonl; each has a step
    unread: int  # lines of it that are not whole

    def setting(self, name: str) -> Any:
        """A value of config.yaml by its dotted name, `config.model.name`; None where it has none."""
        value: Any = self.record
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of a meter, one for each line that has it; NaN where it was not finite."""
        found = [(line["step"], line[name]) for line in self.lines if name in line]
        return [float(step) for step, _ in found], [
            float(value) if _is_number(value) else math.nan for _, value in found
        ]

    def curve_names(self) -> set[str]:
        """Names of all meters in the lines."""
        return {name for line in self.lines for name in line} - {"step"}

    def last(self, name: str) -> float | None:
        """The last finite value of a meter."""
        return next((value for value in reversed(self.curve(name)[1]) if math.isfinite(value)), None)


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """The runs in these folders.

    Raises:
        DataError: for a folder that holds no run, or one given twice.
    """
    seen: set[Path] = set()
    runs = []
    for path, label in zip(map(Path, paths), labels(paths)):
        record = read_config(path)
        if path.resolve() in seen:
            raise DataError(f"{path}: is given twice")
        seen.add(path.resolve())
        runs.append(Run(path, label, record, *_read_lines(path / "metrics.jsonl")))
    return runs


def labels(paths: Sequence[str | Path]) -> list[str]:
    """Short names of folders: the parts of their paths that differ."""
    parts = [list(Path(path).absolute().parts) for path in paths]
    if len(parts) == 1:
        return ["/".join(parts[0][-2:]).lstrip("/")]
    for place in (0, -1):
        while min(map(len, parts)) > 1 and len({p[place] for p in parts}) == 1:
            for p in parts:
                p.pop(place)
    return ["/".join(p) for p in parts]


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    lines, unread = [], 0
    for line in filter(str.strip, text.splitlines()):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict) and _is_number(values.get("step")):
            lines.append(values)
        else:
            unread += 1  # cut short by a kill, or still being written
    return lines, unread


def _is_number(value: Any) -> bool:
    """Whether it is a finite number that fits a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST
