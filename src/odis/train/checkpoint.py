"""Training state on disk. Loading executes no code."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from odis.errors import ConfigError, DataError, OdisError, OdisWarning
from odis.machine.checksums import reason, seal_archive, verify_archive
from odis.machine.files import check_readable, move_whole, remove_folder, written_whole
from odis.machine.ranks import Ranks
from odis.train.shard_files import SUFFIX, Target, read_shards, verify_shards, write_shards

_NAME = re.compile(rf"step-(\d{{8}})(\.pt|{re.escape(SUFFIX)})")

PARTS = ("step", "student", "teacher", "optimizer")
"""What a checkpoint of a pretraining holds at least."""


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, files and folders of shards, oldest first."""
    return sorted(p for p in folder.glob("step-*") if _NAME.fullmatch(p.name))


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
    with _naming_the_last(folder):
        write_checkpoint(path, state)
    forget_old(folder, keep)
    return path


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state as one file.

    Raises:
        DataError: if it cannot be written.
    """
    # On a full disk torch raises a RuntimeError, whose context is the OSError.
    with (
        written_whole(path, errors=(RuntimeError,), seal=seal_archive) as beside,
        beside.open("wb") as file,
    ):
        torch.save(state, file)


def save_sharded(folder: Path, step: int, state: dict[str, Any], keep: int, ranks: Ranks) -> Path:
    """`save_checkpoint` of a state that ranks hold in parts, as a folder of shards. All ranks call it.

    Raises:
        DataError: if it cannot be written. Earlier checkpoints stay.
    """
    path = folder / f"step-{step:08d}{SUFFIX}"
    with _naming_the_last(folder):
        write_shards(path, state, ranks)
    ranks.from_first(lambda: forget_old(folder, keep))
    return path


def consolidate(source: Path, out: Path) -> Path:
    """Write a checkpoint as one file, which `odis.load`, exports and a resume (in `checkpoints/`) read.

    Args:
        source: A run, of which the newest checkpoint that is whole is taken, or a checkpoint.
        out: The file, which ends in `.pt`.

    Returns:
        `out`.

    Raises:
        ConfigError: `out` has another ending.
        DataError: if there is no whole checkpoint, or the file cannot be written.
    """
    if out.suffix != ".pt":
        raise ConfigError(f"--out: is {out}, must end in .pt")
    if _NAME.fullmatch(source.name) or source.suffix == ".pt":
        state = load_checkpoint(source)
    else:
        check_readable(source, "run or checkpoint")
        if (newest := newest_whole(source / "checkpoints")) is None:
            raise DataError(f"{source}: holds no checkpoint")
        for fault in newest.damaged.values():
            warnings.warn(f"{fault}; {newest.path.name} is taken", OdisWarning, stacklevel=2)
        state = newest.state
    write_checkpoint(out, state)
    return out


@contextlib.contextmanager
def _naming_the_last(folder: Path) -> Iterator[None]:
    """A checkpoint that cannot be written is refused in a line that says which one there is."""
    try:
        yield
    except DataError as error:
        before = checkpoints(folder)
        kept = f"the one before it is whole ({before[-1].name})" if before else "there was none before it"
        raise DataError(f"{error}; {kept}") from error


def forget_old(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for old in checkpoints(folder)[:-keep]:
        remove_checkpoint(old)


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint, a file or a folder of shards."""
    remove_folder(path) if path.is_dir() else path.unlink()


def require_whole(paths: Sequence[Path]) -> None:
    """Compare checkpoints of one step with their checksums.

    Raises:
        DataError: None is whole.
    """
    faults = []
    for path in paths:
        try:
            return verify_shards(path) if path.is_dir() else verify_archive(path)
        except DataError as error:
            faults.append(error)
    raise faults[-1]


@dataclass(frozen=True)
class Newest:
    """The newest checkpoint of a folder that is whole.

    Args:
        state: What it holds.
        path: Where it is.
        damaged: Those after it, which are not whole, and what is wrong with each.
    """

    state: dict[str, Any]
    path: Path
    damaged: dict[Path, str]


def newest_whole(
    folder: Path, parts: Sequence[str] = PARTS, target: Target | None = None, ranks: Ranks | None = None
) -> Newest | None:
    """The newest checkpoint that is whole, None if there is no checkpoint. For `target` see
    `load_checkpoint`.

    Args:
        folder: Where the checkpoints are.
        parts: What they must hold.
        target: Where tensors of a folder of shards are read to.
        ranks: All of these call it, share the work of verifying, and take the same one.

    Raises:
        DataError: if there are checkpoints, and none is whole.
    """
    damaged: dict[Path, str] = {}
    there = checkpoints(folder) if ranks is None else ranks.from_first(lambda: checkpoints(folder))
    share = (0, 1) if ranks is None else (ranks.rank, ranks.world_size)
    for path in reversed(there):
        state, fault = None, ""
        try:
            state = load_checkpoint(path, parts, target, share)
        except DataError as error:
            fault = str(error)
        faults = [one for one in ([fault] if ranks is None else ranks.gather(fault)) if one]
        if state is not None and not faults:
            return Newest(state, path, damaged)
        damaged[path] = faults[0]
    if damaged:
        raise DataError(f"{next(iter(damaged.values()))}; no other is whole: remove {folder} to begin again")
    return None


def set_aside(damaged: Iterable[Path]) -> None:
    """Rename checkpoints which are damaged: `.damaged` is put behind the name."""
    for path in damaged:
        move_whole(path, path.with_name(f"{path.name}.damaged"))


def load_checkpoint(
    path: Path,
    parts: Sequence[str] = PARTS,
    target: Target | None = None,
    share: tuple[int, int] = (0, 1),
) -> dict[str, Any]:
    """The state in `path`, on the CPU, with these parts. Names of earlier versions ("centres") are
    translated.

    Args:
        path: A file, or a folder of shards.
        parts: What it must hold.
        target: Where tensors of a folder of shards are read to, see `shard_files.Target`.
        share: Of its shards those are verified that are the first of two numbers, modulo the second.

    Raises:
        DataError: if it is not a whole odis checkpoint.
    """
    check_readable(path)
    try:
        if path.is_dir():
            state = read_shards(path, target, share)
        else:
            verify_archive(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except DataError as e:
        raise DataError(f"{path}: not a whole checkpoint ({reason(e, path)})") from e
    except OdisError:  # of `target`
        raise
    except Exception as e:
        raise DataError(f"{path}: not a whole checkpoint ({type(e).__name__})") from e
    if not isinstance(state, dict) or not set(parts) <= state.keys():
        lacks = f"{', '.join(parts[:-1])} or {parts[-1]}"
        raise DataError(f"{path}: not an odis checkpoint: it lacks {lacks}")
    if isinstance(centres := state.pop("centres", None), dict):
        state["centers"] = {name.replace("centre", "center"): value for name, value in centres.items()}
    return state
