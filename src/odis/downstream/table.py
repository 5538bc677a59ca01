"""The results of a comparison on screen."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from odis.config.wording import counted


def comparison_table(found: dict[str, Any]) -> RenderableType:
    """A column for each starting point: of every score, which are many, the mean over seeds, its 95 %
    interval, each seed's; then what lies between each and the first.
    """
    seeds = found["settings"]["seeds"]
    title = (
        f"{found['evaluation'].removeprefix('finetune-')}: {counted(found['test']['images'], 'test image')}"
    )
    tables: list[RenderableType] = [_table(title, found["rows"])]
    if found["differences"]:
        first = found["differences"][0]["less"]
        tables.append(_table(f"less {first}", found["differences"]))
    several = f"mean of seeds {', '.join(map(str, seeds))} and the score of each"
    of_seeds = several if len(seeds) > 1 else f"seed {seeds[0]}"
    notes = [f"percent; {of_seeds}, 95 % bootstrap intervals over test images"]
    if skipped := len(found["skipped"]):
        notes.append(
            f"{counted(skipped, 'file or object was', 'files or objects were')} left out; results.json names "
            f"{'it' if skipped == 1 else 'them'}"
        )
    return Group(*tables, *(Text(note, style="italic") for note in [*notes, *found["notes"]]))


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("score")
    for row in rows:
        table.add_column(row["model"], justify="right", overflow="fold")
    for name in dict.fromkeys(name for row in rows for name in row["scores"]):
        table.add_row(name, *(_shown(row["scores"].get(name)) for row in rows))
    return table


def _shown(score: dict[str, Any] | None) -> str:
    if score is None or score["value"] is None:
        return "-"
    interval = "" if score["low"] is None else f"\n{score['low']:.1f} to {score['high']:.1f}"
    seeds = ", ".join("-" if one is None else f"{one:.1f}" for one in score["seeds"])
    return f"{score['value']:.2f}{interval}" + (f"\n{seeds}" if len(score["seeds"]) > 1 else "")
