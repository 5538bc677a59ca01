"""Two networks compared (`odis compare`): read and checked, and as a section of the page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odis.evaluation.compare.verdict import BETTER, UNDECIDED, WORSE, side_of
from odis.report.page import Html, code, concat, element, paragraph, scrolled
from odis.report.results import COMPARISON, LARGEST, StoredScore, results_files
from odis.types import Skipped

_NETWORKS = ("before", "after")
_SCORES = (*_NETWORKS, "difference")
_MARKS = {BETTER: "up", WORSE: "down", UNDECIDED: "may be chance"}


@dataclass(frozen=True, slots=True)
class StoredMeasure:
    """One measure of both networks."""

    name: str
    mode: str
    scores: dict[str, StoredScore]  # before, after, difference


@dataclass(frozen=True, slots=True)
class StoredData:
    """One data set of a comparison."""

    name: str
    known: bool
    measures: list[StoredMeasure]
    left_out: list[str]


@dataclass(frozen=True, slots=True)
class StoredComparison:
    """One results file of `odis compare`."""

    file: str
    models: dict[str, str]  # before, after
    about: dict[str, str]
    data: list[StoredData]
    verdict: str
    notes: list[str]


def find_comparisons(
    folders: Iterable[Path], files: Iterable[Path]
) -> tuple[list[StoredComparison], list[Skipped]]:
    """Comparisons in the `*.json` of folders and in files, each file once; and those that are not whole.

    Args:
        folders: Runs. A JSON file of anything else is ignored.
        files: Results files, likewise.
    """
    found: list[StoredComparison] = []
    skipped: list[Skipped] = []
    for path, _ in results_files(folders, files):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # named by `find_results`
        if not isinstance(data, dict) or data.get("evaluation") != COMPARISON:
            continue
        try:
            found.append(_checked(data, str(path)))
        except ValueError as error:
            skipped.append(Skipped(str(path), str(error)))
    return found, skipped


def _checked(data: dict[str, Any], file: str) -> StoredComparison:
    """The content of a file.

    Raises:
        ValueError: Saying what is wrong with it.
    """
    models, about = {}, {}
    for name in _NETWORKS:
        one = data.get(name)
        if not isinstance(one, dict) or not isinstance(one.get("model"), str):
            raise ValueError(f"its {name} names no model")
        models[name] = one["model"]
        words = [
            f"trained on: {one.get('provenance') or 'not written down'}",
            f"{one['size']} px" if isinstance(one.get("size"), int) else "",
            str(one.get("precision") or ""),
        ]
        about[name] = ", ".join(filter(None, words))
    sets = data.get("data")
    if not isinstance(sets, list) or not sets or not all(isinstance(one, dict) for one in sets):
        raise ValueError("its data is no list of data sets")
    notes = data.get("notes", [])
    return StoredComparison(
        file,
        models,
        about,
        [_data_set(one) for one in sets],
        str(data.get("verdict") or "no verdict is in the file"),
        [str(note) for note in notes] if isinstance(notes, list) else [],
    )


def _data_set(one: dict[str, Any]) -> StoredData:
    rows = one.get("measures")
    if not isinstance(rows, list):
        raise ValueError("a data set has no measures")
    measures = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("measure"), str):
            raise ValueError("a measure has no name")
        scores = {name: _score(row.get(name), f"{name} of {row['measure']}") for name in _SCORES}
        measures.append(StoredMeasure(row["measure"], str(row.get("mode") or ""), scores))
    items = one.get("left_out", [])
    left_out = [
        f"{item.get('measure')}: {item.get('why')}"
        for item in (items if isinstance(items, list) else [])
        if isinstance(item, dict)
    ]
    return StoredData(str(one.get("name")), one.get("known") is True, measures, left_out)


def _score(score: Any, what: str) -> StoredScore:
    if not isinstance(score, dict):
        raise ValueError(f"{what} is no score")
    numbers = []
    for key in ("value", "low", "high"):
        number = score.get(key)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise ValueError(f"{what} has a {key} that is no number")
        numbers.append(float(number) if number is not None and -LARGEST < number < LARGEST else None)
    return StoredScore(*numbers)


def comparisons(found: Sequence[StoredComparison], skipped: Sequence[Skipped]) -> Html:
    """Each comparison: its verdict, and a table for each data set."""
    parts = [paragraph(f"Left out: {item.what}: {item.why}.", class_="note") for item in skipped]
    if not found:
        command = "odis compare BEFORE RUN --train INDEX --test INDEX --out RUN/compare.json"
        said = paragraph("No comparison is in the runs' folders. One is made by ", code(command), ".")
        return concat([*parts, said])
    parts.append(
        paragraph(
            "Both networks on the same test images. Scores in percent, differences in points; below each its "
            "95 % interval. That of a difference is paired: the same images are resampled for both."
        )
    )
    return concat([*parts, *[_comparison(one) for one in found]])


def _comparison(one: StoredComparison) -> Html:
    heads = [*(f"{name}: {one.models[name]}" for name in _NETWORKS), "difference"]
    about = "; ".join(f"{name}: {one.about[name]}" for name in _NETWORKS)
    return concat(
        [
            element("h3", f"{one.models['before']} and {one.models['after']}"),
            paragraph(element("strong", one.verdict)),
            paragraph(f"{about}. {one.file}", class_="quiet"),
            *[_table(data, heads) for data in one.data],
            *[paragraph(f"{note}.", class_="note") for note in one.notes],
        ]
    )


def _table(data: StoredData, heads: Sequence[str]) -> Html:
    title = f"{'Known before' if data.known else 'Your data'}: {data.name}"
    rows = []
    for one in data.measures:
        mode = element("small", one.mode) if one.mode else None
        scores = [_cell(one.scores[name], name == "difference") for name in _SCORES]
        rows.append(element("tr", element("th", one.name, mode, scope="row", class_="name"), *scores))
    cells = [element("th", "measure", scope="col")]
    cells += [element("th", head, scope="col", class_="number") for head in heads]
    head, body = element("thead", element("tr", *cells)), element("tbody", *rows)
    table = element("table", head, body, class_="scores")
    return concat(
        [
            element("h4", title),
            scrolled(title, table) if rows else None,
            *[paragraph(f"Left out: {words}.", class_="quiet") for words in data.left_out],
        ]
    )


def _cell(score: StoredScore, difference: bool) -> Html:
    if score.value is None:
        return element("td", "-", class_="number")
    sign = "+" if difference else ""
    value = element("data", f"{score.value:{sign}.1f}", value=score.value)
    interval = "no interval"
    if score.low is not None and score.high is not None:
        interval = f"{score.low:{sign}.1f} to {score.high:{sign}.1f}"
    if not difference:
        return element("td", value, element("small", interval), class_="number")
    side = side_of({"low": score.low, "high": score.high})
    shown = concat([element("strong", value) if side != UNDECIDED else value, f" {_MARKS[side]}"])
    marked = "number best" if side == BETTER else "number"
    return element("td", shown, element("small", interval), class_=marked)
