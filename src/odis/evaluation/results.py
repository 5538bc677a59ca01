"""Results on disk and on screen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from odis.config.query import MASKED
from odis.config.wording import counted
from odis.errors import DataError
from odis.evaluation import TITLES
from odis.machine.files import write_json_whole


def check_writable(path: str | Path) -> None:
    """Refuse a results file that cannot be written, before hours of work.

    Raises:
        DataError: it is a folder, or its folder is read-only. Missing folders are made later.
    """
    path = Path(path)
    folder = next((p for p in path.absolute().parents if p.exists()), Path("/"))
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        why = "is a folder" if path.is_dir() else f"{folder} is no folder that may be written to"
        raise DataError(f"{path}: cannot be written ({why})")


def write_results(path: str | Path, results: dict[str, Any]) -> None:
    """Write results as JSON.

    Raises:
        DataError: if the file cannot be written.
    """
    write_json_whole(path, results)


_ABREAST = 4  # scores side by side


def results_table(results: dict[str, Any]) -> RenderableType:
    """A row for each model and mode, with its scores, their 95 % intervals, and where its training came from.

    The table fits 80 columns: model, mode and training share a cell, and more than `_ABREAST` scores continue
    below.
    """
    sides: dict[str, str] = {
        side: _side(results[side], results["settings"])
        for side in ("train", "test", "gallery")
        if side in results
    }
    title = TITLES[results["evaluation"]].table.format(
        **{"gallery": "the same", "test": "", "train": ""} | sides
    )
    names = list(dict.fromkeys(name for row in results["rows"] for name in row["scores"]))
    tables: list[RenderableType] = []
    unit = results.get("unit", "percent")
    decimals = 2 if unit == "percent" else 3
    for start in range(0, max(1, len(names)), _ABREAST):
        table = Table(title=title if not start else None, title_justify="left", show_lines=True)
        table.add_column("model, mode", overflow="fold")
        for name in names[start : start + _ABREAST]:
            table.add_column(name, justify="right", overflow="fold", min_width=12)
        for row in results["rows"]:
            shown = (_shown(row["scores"].get(name), decimals) for name in names[start : start + _ABREAST])
            table.add_row(_described(row, results["settings"]), *shown)
        tables.append(table)
    notes = [f"{unit}, with 95 % bootstrap intervals over {results.get('resampled', 'test images')}"]
    notes += results.get("notes", [])
    notes += [f"left out: {item['model']}, {item['mode']}: {item['why']}" for item in results["left_out"]]
    if "protocol" in results:
        tables.append(_published(results["protocol"]))
        notes += [f"differs from the reference: {what}" for what in results["protocol"]["differs"]]
    return Group(*tables, *(Text(note, style="italic") for note in notes))


def _published(protocol: dict[str, Any]) -> RenderableType:
    """The figures that a protocol's results can be held against, and how they were chosen."""
    measures = list(
        dict.fromkeys(
            name for one in protocol["published"] for name in one if name not in ("network", "source")
        )
    )
    tables = []
    for start in range(0, len(measures), _ABREAST):
        some = measures[start : start + _ABREAST]
        table = Table(title="published" if not start else None, title_justify="left")
        table.add_column("network", overflow="fold")
        for name in some:
            table.add_column(name, justify="right", overflow="fold")
        table.add_column("source", overflow="fold")
        digits = {name: max(_digits(one.get(name)) for one in protocol["published"]) for name in some}
        for one in protocol["published"]:
            if any(name in one for name in some):
                figures = (f"{one[name]:.{digits[name]}f}" if name in one else "-" for name in some)
                table.add_row(one["network"], *figures, one["source"])
        tables.append(table)
    return Group(*tables, Text(f"chosen: {protocol['chosen']}", style="italic"))


def _digits(figure: float | None) -> int:
    """Behind the point."""
    return 0 if figure is None else len(f"{figure:g}".partition(".")[2])


def _described(row: dict[str, Any], settings: dict[str, Any]) -> str:
    context, window = settings.get("context"), ""
    if context is not None and row["mode"] == "masked-attention":
        window = f", window {context:g} x box"
    if row["mode"] in MASKED:
        for name in ("mask_coverage", "mask_margin"):
            if settings.get(name) is not None:
                window += f", {name.replace('_', ' ')} {settings[name]:g}"
    if str(row.get("readout")).startswith("[CLS]"):
        window += f", {row['readout']}"
    if row["size"] is None:  # no model: an index
        return f"{row['model']}\n{row['mode']}{window}\nfrom {row['provenance'] or '-'}"
    size = row["size"] if isinstance(row["size"], str) else f"{row['size']} px"
    return f"{row['model']}\n{row['mode']}{window}\ntrained on {row['provenance'] or '-'}, at {size}"


def _side(side: dict[str, Any], settings: dict[str, Any]) -> str:
    unit = "images" if settings.get("images") or "objects" not in side else "objects"
    count = side.get("objects", side["images"])
    classes = f", {counted(side['classes'], 'class')}" if side["classes"] else ""  # masks and depth have none
    return f"{count:,} {unit} ({side['provenance']}{classes})"


def _shown(score: dict[str, float | None] | None, decimals: int) -> str:
    if score is None or score["value"] is None:
        return "-"
    digits = 1 if decimals == 2 else decimals
    interval = "" if score["low"] is None else f"\n{score['low']:.{digits}f} - {score['high']:.{digits}f}"
    return f"{score['value']:.{decimals}f}{interval}"
