"""Training state on disk: written beside and renamed, so that what carries the name is whole; loading
executes no code.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from odis.errors import DataError

_NAME = re.compile(r"step-(\d{8})\.pt")


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in `folder`, oldest first."""
    return sorted(p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name))


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state after `step` steps and drop all but the newest `keep` checkpoints.

    Raises:
        DataError: if it cannot be written; those before it stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    beside = path.with_suffix(".tmp")
    try:
        with beside.open("wb") as f:
            torch.save(state, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)
    except (
        OSError,
        RuntimeError,
    ) as e:  # torch answers a full disk with a RuntimeError whose context is the OSError
        cause = e.__context__ if isinstance(e.__context__, OSError) else e
        raise DataError(
            f"{path}: cannot be written ({getattr(cause, 'strerror', None) or cause}); the one before it "
            f"is whole"
        ) from e
    finally:
        beside.unlink(missing_ok=True)
    for old in checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in `path`, on the CPU; of a version that wrote "centre", under today's names.

    Raises:
        DataError: if the file is not a whole odis checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise DataError(
            f"{path}: not a whole checkpoint ({type(e).__name__}); delete it to resume from the one before"
        ) from e
    if not isinstance(state, dict) or not {"step", "student", "teacher", "optimizer"} <= state.keys():
        raise DataError(f"{path}: not an odis checkpoint: it lacks step, student, teacher or optimizer")
    if isinstance(centres := state.pop("centres", None), dict):
        state["centers"] = {name.replace("centre", "center"): value for name, value in centres.items()}
    return state
