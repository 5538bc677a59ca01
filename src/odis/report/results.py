"""Read and check results files, and group the rows that can be compared."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odis.types import Skipped

_SIDES = ("train", "test", "gallery")
LARGEST = 1e300
"""Larger numbers may not fit a float."""

COMPARISON = "compare"
"""`evaluation` of what `odis compare` writes, which `comparisons.py` reads."""


@dataclass(frozen=True, slots=True)
class StoredScore:
    """A score in percent with its 95 % interval; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One model in one mode, as the file says."""

    file: str
    model: str
    provenance: str
    mode: str
    size: int | None
    precision: str
    recipe: str
    step: int | None
    scores: dict[str, StoredScore]
    bound: bool = False  # chance or ceiling, which no model reached


@dataclass(frozen=True, slots=True)
class ProtocolOrigin:
    """Where a published protocol is from, and the figures that its results can be held against."""

    source: str
    chosen: str
    as_published: bool
    published: list[dict[str, Any]]  # `network`, `source` and a figure by measure


@dataclass(slots=True)
class ResultGroup:
    """Rows of one evaluation with the same objects and settings, from any files."""

    evaluation: str
    settings: dict[str, Any]
    sides: dict[str, dict[str, Any]]  # what took part: `train`, `test`, `gallery`
    rows: list[ResultRow] = field(default_factory=list)
    skipped: int = 0  # files and objects that could not be used
    left_out: list[str] = field(default_factory=list)  # models that lack a mode, and why
    unit: str = "percent"  # of the scores; of others, such as an error in metres, the lowest is the best
    notes: list[str] = field(default_factory=list)  # lines below the table, each once
    protocol: ProtocolOrigin | None = None  # of a published protocol

    @property
    def columns(self) -> list[str]:
        """Names of all scores, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.scores))

    def best(self, column: str) -> float | None:
        """The best value of a column, if several rows of models have one."""
        values = [
            score.value
            for row in self.rows
            if not row.bound and (score := row.scores.get(column)) is not None and score.value is not None
        ]
        best = max if self.unit == "percent" else min
        return best(values) if len(values) > 1 else None


def results_files(folders: Iterable[Path], files: Iterable[Path]) -> list[tuple[Path, bool]]:
    """The `*.json` of folders and some files, each once, and whether it was named."""
    given = list(files)
    named = {path.resolve() for path in given}
    inside = [
        path for folder in folders for path in sorted(folder.glob("*.json")) if not path.name.startswith(".")
    ]
    found: dict[Path, tuple[Path, bool]] = {}
    for path in inside + given:
        found.setdefault(path.resolve(), (path, path.resolve() in named))
    return list(found.values())


def find_results(folders: Iterable[Path], files: Iterable[Path]) -> tuple[list[ResultGroup], list[Skipped]]:
    """Results in the `*.json` of folders and in files, each file once; and the unusable files.

    Args:
        folders: Runs. A JSON file without results is ignored.
        files: Results files. One without results is listed as unusable.
    """
    found: dict[str, ResultGroup] = {}
    skipped: list[Skipped] = []
    for path, is_named in results_files(folders, files):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if not is_named and not (isinstance(data, dict) and "evaluation" in data):
                continue
            if isinstance(data, dict) and data.get("evaluation") == COMPARISON:
                continue
            group = _checked(data, str(path))
        except OSError as error:
            skipped.append(Skipped(str(path), f"cannot be read ({error.strerror or error})"))
        except RecursionError:
            skipped.append(Skipped(str(path), "is nested too deeply"))
        except ValueError as error:
            why = (
                "is not JSON, or not whole"
                if isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
                else str(error)
            )
            skipped.append(Skipped(str(path), why))
        else:
            there = found.setdefault(_same(group), group)
            if there is not group:
                there.rows += group.rows
                there.skipped += group.skipped
                there.left_out += group.left_out
                there.notes += [note for note in group.notes if note not in there.notes]
    return list(found.values()), skipped


def _same(one: ResultGroup) -> str:
    """A key that is equal for files that belong in one table."""
    sides = {}
    for name, side in one.sides.items():
        kept = {key: side.get(key) for key in ("provenance", "images", "objects", "classes")}
        sides[name] = kept | {"index": os.path.normpath(str(side.get("index", "")))}
    return json.dumps([one.evaluation, one.settings, sides], sort_keys=True, default=str)


def _checked(data: Any, file: str) -> ResultGroup:
    """The content of a file.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if not isinstance(data, dict) or not isinstance(data.get("evaluation"), str):
        raise ValueError("is not a results file: it names no evaluation")
    if not isinstance(data.get("rows"), list):
        raise ValueError("is not a results file of this version: it has no rows")
    settings = data.get("settings", {})
    if not isinstance(settings, dict):
        raise ValueError("its settings are no object")
    rows = [_row(row, i, file) for i, row in enumerate(data["rows"])]
    skipped, left_out = _objects(data, "skipped"), _objects(data, "left_out")
    words = [
        ": ".join(
            [", ".join(str(item[key]) for key in ("model", "mode") if key in item), str(item.get("why"))]
        )
        for item in left_out
    ]
    unit = str(data.get("unit", "percent"))
    said = data.get("notes", [])
    notes = [str(note) for note in said] if isinstance(said, list) else []
    origin = _origin(data.get("protocol"))
    return ResultGroup(
        data["evaluation"], settings, _sides(data), rows, len(skipped), words, unit, notes, origin
    )


def _origin(data: Any) -> ProtocolOrigin | None:
    if not isinstance(data, dict):
        return None
    figures = [one for one in _objects(data, "published") if isinstance(one.get("network"), str)]
    numbers = [
        {"network": one["network"], "source": str(one.get("source", ""))}
        | {k: v for k, v in one.items() if isinstance(v, int | float) and -LARGEST < v < LARGEST}
        for one in figures
    ]
    source, chosen = (str(data.get(key) or "not written down") for key in ("source", "chosen"))
    return ProtocolOrigin(source, chosen, data.get("as_published") is True, numbers)


def _sides(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What took part, by name; with several data sets, the parts are prefixed by the name of theirs."""
    sides = {name: data[name] for name in _SIDES if data.get(name) is not None}
    for one in _objects(data, "data_sets"):
        sides |= {f"{one.get('name')}, {name}": one[name] for name in _SIDES if one.get(name) is not None}
    for name, side in sides.items():
        if not isinstance(side, dict):
            raise ValueError(f"its {name} is no object")
    return sides


def _objects(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    items = data.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError(f"its {key} is no list of objects")
    return items


def _row(row: Any, i: int, file: str) -> ResultRow:
    if not isinstance(row, dict) or not isinstance(row.get("model"), str):
        raise ValueError(f"row {i} names no model")
    if not isinstance(row.get("scores"), dict):
        raise ValueError(f"row {i} has no scores")
    scores = {str(name): _score(score, f"score {name!r} of row {i}") for name, score in row["scores"].items()}
    provenance, mode, precision, recipe = (
        "" if row.get(key) is None else str(row[key]) for key in ("provenance", "mode", "precision", "recipe")
    )
    size, step = (row[key] if isinstance(row.get(key), int) else None for key in ("size", "step"))
    bound = row.get("bound") is True
    return ResultRow(file, row["model"], provenance, mode, size, precision, recipe, step, scores, bound)


def _score(score: Any, what: str) -> StoredScore:
    if not isinstance(score, dict) or "value" not in score:
        raise ValueError(f"{what} has no value")
    numbers = []
    for key in ("value", "low", "high"):
        number = score.get(key)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise ValueError(f"{what} has a {key} that is no number")
        numbers.append(float(number) if number is not None and -LARGEST < number < LARGEST else None)
    return StoredScore(*numbers)


def settings_in_words(settings: dict[str, Any]) -> str:
    """Settings as text, such as `k 10, 20; temperature 0.07`."""

    def shown(value: Any) -> str:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return ", ".join(map(shown, value))
        return f"{value:g}" if isinstance(value, float) else str(value)

    given = {name: value for name, value in settings.items() if value is not None and value is not False}
    return "; ".join(name if value is True else f"{name} {shown(value)}" for name, value in given.items())
