"""Training state on disk. Loading executes no code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from odis.errors import DataError
from odis.machine.checksums import reason, seal_archive, verify_archive
from odis.machine.files import check_readable, move_whole, written_whole

_NAME = re.compile(r"step-(\d{8})\.pt")

PARTS = ("step", "student", "teacher", "optimizer")
"""What a checkpoint of a pretraining holds at least."""


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name))


def newest_step(folder: Path) -> int:
    """How many steps the newest checkpoint in `folder` holds; 0 if there is none."""
    found = checkpoints(folder)
    return step_of(found[-1]) if found else 0


def step_of(path: Path) -> int:
    """How many steps a file named `step-NNNNNNNN` holds."""
    return int(path.stem.removeprefix("step-"))


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state after `step` steps, then delete all but the newest `keep` checkpoints.

    Raises:
        DataError: if it cannot be written. Earlier checkpoints stay.
    """
    path = folder / f"step-{step:08d}.pt"
    try:
        # On a full disk torch raises a RuntimeError, whose context is the OSError.
        with (
            written_whole(path, errors=(RuntimeError,), seal=seal_archive) as beside,
            beside.open("wb") as file,
        ):
            torch.save(state, file)
    except DataError as error:
        before = checkpoints(folder)
        kept = f"the one before it is whole ({before[-1].name})" if before else "there was none before it"
        raise DataError(f"{error}; {kept}") from error
    for old in checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def newest_whole(folder: Path, parts: Sequence[str] = PARTS) -> tuple[dict[str, Any] | None, list[str]]:
    """The state in the newest checkpoint that is whole, and what is wrong with those after it; no state if
    there is no checkpoint.

    Raises:
        DataError: if there are checkpoints, and none is whole.
    """
    faults: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            return load_checkpoint(path, parts), faults
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError(f"{faults[0]}; no other is whole: remove {folder} to begin again")
    return None, []


def set_aside(folder: Path, step: int) -> None:
    """Rename the checkpoints after `step`, which are damaged, to `step-NNNNNNNN.pt.damaged`."""
    for path in checkpoints(folder):
        if step_of(path) > step:
            move_whole(path, path.with_name(f"{path.name}.damaged"))


def load_checkpoint(path: Path, parts: Sequence[str] = PARTS) -> dict[str, Any]:
    """The state in `path`, on the CPU, with these parts. Names of earlier versions ("centres") are
    translated.

    Raises:
        DataError: if the file is not a whole odis checkpoint.
    """
    check_readable(path)
    try:
        verify_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DataError as e:
        raise DataError(f"{path}: not a whole checkpoint ({reason(e, path)})") from e
    except Exception as e:
        raise DataError(f"{path}: not a whole checkpoint ({type(e).__name__})") from e
    if not isinstance(state, dict) or not set(parts) <= state.keys():
        lacks = f"{', '.join(parts[:-1])} or {parts[-1]}"
        raise DataError(f"{path}: not an odis checkpoint: it lacks {lacks}")
    if isinstance(centres := state.pop("centres", None), dict):
        state["centers"] = {name.replace("centre", "center"): value for name, value in centres.items()}
    return state
