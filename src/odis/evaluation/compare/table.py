"""A comparison on screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from odis.evaluation.compare.verdict import BETTER, UNDECIDED, WORSE, side_of

WORDS = {BETTER: "up", WORSE: "down", UNDECIDED: "may be chance"}


def comparison_table(results: Mapping[str, Any]) -> RenderableType:
    """A table for each data set: a measure a row, both networks, and the difference with its interval; then
    the verdict.
    """
    parts: list[RenderableType] = []
    for one in results["data"]:
        title = f"{'known before' if one['known'] else 'your data'}: {one['name']}"
        table = Table(title=title, title_justify="left", show_lines=True)
        table.add_column("measure", overflow="fold")
        for name in ("before", "after", "difference"):
            table.add_column(name, justify="right", overflow="fold", min_width=12)
        for row in one["measures"]:
            scores = (_shown(row[name]) for name in ("before", "after"))
            table.add_row(f"{row['measure']}\n{row['mode']}", *scores, _difference(row["difference"]))
        parts.append(table)
        parts += [_line(f"left out: {item['measure']}: {item['why']}") for item in one["left_out"]]
    for name in ("before", "after"):
        about = results[name]
        parts.append(
            _line(f"{name}: {about['model']}, trained on {about['provenance'] or '-'}, at {about['size']} px")
        )
    parts.append(
        _line("percent, with 95 % bootstrap intervals over test images; that of a difference is paired")
    )
    parts += [_line(note) for note in results["notes"]]
    return Group(*parts, Text(results["verdict"], style="bold"))


def _line(text: str) -> Text:
    return Text(text, style="italic")


def _shown(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return "-"
    interval = "" if score["low"] is None else f"\n{score['low']:.1f} - {score['high']:.1f}"
    return f"{score['value']:.2f}{interval}"


def _difference(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return "-"
    interval = "" if score["low"] is None else f"\n{score['low']:+.1f} to {score['high']:+.1f}"
    return f"{score['value']:+.2f}{interval}\n{WORDS[side_of(score)]}"
