"""Tables of results: models side by side, each score with its interval and the source of its data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from odis.config.wording import counted
from odis.evaluation import TITLES
from odis.report.page import Html, code, concat, element, paragraph, scrolled
from odis.report.results import ProtocolOrigin, ResultGroup, ResultRow, StoredScore, settings_in_words
from odis.types import Skipped

_NO_MEASURE = ("network", "source")

_NONE_YET = "No results file is in the runs' folders. One is made by, for example, "


def tables(groups: Sequence[ResultGroup], skipped: Sequence[Skipped]) -> Html:
    """One table for each group of comparable rows, and the files that were left out."""
    parts = [paragraph(f"Left out: {item.what}: {item.why}.", class_="note") for item in skipped]
    if groups:
        parts.append(
            paragraph(
                "Scores in percent; below each its 95 % interval. Marked: the best of its column. Where "
                "intervals overlap, the order may be chance. Scores can be compared within a table only: the "
                "same objects, from the same source, queried in the same way."
            )
        )
    else:
        parts.append(
            paragraph(
                _NONE_YET,
                code("odis evaluate knn --model RUN --train INDEX --test INDEX --out RUN/knn.json"),
                ".",
            )
        )
    return concat(parts + [_table(group) for group in groups])


def _table(group: ResultGroup) -> Html:
    titles = TITLES.get(group.evaluation)
    title, reading = (titles.heading, titles.reading) if titles else (group.evaluation, None)
    columns = group.columns
    best = {column: group.best(column) for column in columns}
    heads = ["model", "mode", *columns]
    cells = [element("th", name, scope="col", class_="number" if name in columns else None) for name in heads]
    about = [_side(name, side) for name, side in group.sides.items()]
    if group.unit != "percent":
        about.append(f"Scores in {group.unit}; lower is better.")
    if words := settings_in_words(group.settings):
        about.append(f"Settings: {words}.")
    if group.skipped:
        about.append(f"{counted(group.skipped, 'file or object', 'files or objects')} could not be used.")
    about += [f"Left out: {words}." for words in group.left_out]
    table = element(
        "table",
        element("thead", element("tr", *cells)),
        element("tbody", *[_row(row, columns, best, group.unit) for row in group.rows]),
        class_="scores",
    )
    return concat(
        [
            element("h3", title),
            paragraph(reading) if reading else None,
            paragraph(" ".join(about), class_="quiet") if about else None,
            scrolled(f"{title}: scores", table),
            *[paragraph(f"{note}.", class_="note") for note in group.notes],
            *([] if group.protocol is None else _published(group.protocol, title)),
        ]
    )


def _published(protocol: ProtocolOrigin, title: str) -> list[Html]:
    """Where a protocol is from, and the published figures beside which its scores stand."""
    how = "as published" if protocol.as_published else "with our defaults, which its page lists"
    said = [paragraph(f"After {protocol.source}; {how}. Figures chosen: {protocol.chosen}.", class_="quiet")]
    measures = list(dict.fromkeys(k for one in protocol.published for k in one if k not in _NO_MEASURE))
    if not measures:
        return said
    cells = [element("th", name, scope="col") for name in ("published network", *measures, "source")]
    rows = [
        element(
            "tr",
            element("th", one["network"], scope="row", class_="name"),
            *[element("td", f"{one[name]:g}" if name in one else "-", class_="number") for name in measures],
            element("td", one["source"]),
        )
        for one in protocol.published
    ]
    table = element(
        "table", element("thead", element("tr", *cells)), element("tbody", *rows), class_="scores"
    )
    return [*said, scrolled(f"{title}: published figures", table)]


def _side(name: str, side: dict[str, Any]) -> str:
    counts = [
        f"{_number(side[key])} {key}" for key in ("images", "objects", "classes") if side.get(key) is not None
    ]
    where = (
        f"{side.get('index', 'an index without name')} "
        f"({side.get('provenance') or 'source of objects not written down'})"
    )
    return f"{name[0].upper()}{name[1:]}: {', '.join([where, *counts])}."


def _row(row: ResultRow, columns: Sequence[str], best: dict[str, float | None], unit: str) -> Html:
    kind = "from" if row.bound else "trained on"
    source = f"{kind}: {row.provenance or 'not written down'}"
    made = ", ".join(
        filter(
            None,
            [
                f"recipe {row.recipe}" if row.recipe else "",
                f"step {row.step:,}" if row.step is not None else "",
            ],
        )
    )
    size = ", ".join(filter(None, [f"{row.size} px" if row.size else "", row.precision]))
    model = element(
        "th", row.model, _small(source), _small(made), _small(row.file), scope="row", class_="name"
    )
    how = element("td", row.mode or "-", _small(size))
    return element(
        "tr", model, how, *[_score(row.scores.get(column), best[column], unit) for column in columns]
    )


def _score(score: StoredScore | None, best: float | None, unit: str) -> Html:
    if score is None or score.value is None:
        return element("td", "-", class_="number")
    digits = 1 if unit == "percent" else 3
    value = element("data", f"{score.value:.{digits}f}", value=score.value)
    marked = best is not None and score.value == best
    interval = (
        f"{score.low:.{digits}f} to {score.high:.{digits}f}"
        if score.low is not None and score.high is not None
        else "no interval"
    )
    shown = concat([element("strong", value), " best"]) if marked else value
    return element("td", shown, _small(interval), class_="number best" if marked else "number")


def _small(text: str) -> Html | None:
    return element("small", text) if text else None


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
