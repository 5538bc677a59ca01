"""Results on disk and on screen."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from rich.table import Table

from odis.errors import DataError


def write_results(path: str | Path, results: dict[str, Any]) -> None:
    """Write results as JSON, beside `path` and then renamed.

    Raises:
        DataError: if the file cannot be written.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error


def knn_table(results: dict[str, Any]) -> Table:
    """Accuracy of each model and mode, with where the objects came from (results of `evaluate_knn`)."""
    train, test, settings = results["train"], results["test"], results["settings"]
    table = Table(
        title=f"k-NN: {test['objects']:,} objects ({test['provenance']}) classified by {train['objects']:,} ({train['provenance']}), "
        f"{train['classes']} classes",
        caption=f"top-1 accuracy in percent; cosine similarity, temperature {settings['temperature']:g}",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("model", "trained on", "size", "mode"):
        table.add_column(name, overflow="fold")  # on a narrow terminal names wrap; figures never do
    for k in settings["k"]:
        table.add_column(f"k = {k}", justify="right", no_wrap=True, min_width=6)
    for model in results["models"]:
        for mode, accuracy in model["accuracy"].items():
            window = settings["context"] if mode == "masked-attention" else None
            shown = mode if window is None else f"{mode}, window {window:g} x box"
            scores = [f"{accuracy[str(k)]:.2f}" for k in settings["k"]]
            table.add_row(model["model"], model["provenance"], str(model["size"]), shown, *scores)
    return table
