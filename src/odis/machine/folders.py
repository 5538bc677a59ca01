"""A folder that is there whole, or not at all: made beside its place, and renamed."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from odis.errors import DataError
from odis.machine.files import SUFFIX, move_whole

try:
    import fcntl
except ImportError:  # Windows: no locks, and leftovers of killed processes stay
    fcntl = None  # type: ignore[assignment]


def check_new_folder(path: str | Path) -> None:
    """Refuse a folder that holds something, before the work that would fill it.

    Raises:
        DataError: it is a file, or not empty, or cannot be made.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: is a file; give a new or empty folder")
    try:
        if path.is_dir() and any(path.iterdir()):
            raise DataError(f"{path}: is not empty; give a new or empty folder")
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise DataError(f"{path}: cannot be written ({there} is no folder that may be written to)")


@contextlib.contextmanager
def written_folder(path: str | Path) -> Iterator[Path]:
    """Gives a temporary folder beside `path`, and renames it to `path` when the block ends.

    If the block raises, the temporary folder is removed. Leftovers of killed processes are removed.

    Args:
        path: A new folder, or an empty one.

    Raises:
        DataError: if there is something in it, or it cannot be written.
    """
    check_new_folder(path)
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        beside, lock = _reserve(target)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        yield beside
        for file in sorted(beside.rglob("*")):
            if file.is_file():
                _bring_to_disk(file)
        try:
            move_whole(beside, target)
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(beside, ignore_errors=True)  # it is gone if all went well


def _reserve(target: Path) -> tuple[Path, int | None]:
    """A new folder beside the target, and the descriptor that locks it, on systems with locks."""
    while True:
        beside = target.with_name(f"{_stem(target)}{secrets.token_hex(4)}{SUFFIX}")
        beside.mkdir()
        if fcntl is None:
            return beside, None
        try:
            lock = os.open(beside, os.O_RDONLY)
        except FileNotFoundError:  # another process removed it as a leftover before it was locked
            continue
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if beside.exists():
            return beside, lock
        os.close(lock)


def _remove_leftovers(target: Path) -> None:
    if fcntl is None:
        return
    for path in target.parent.glob(f"{glob.escape(_stem(target))}????????{SUFFIX}"):
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(lock)


def _stem(target: Path) -> str:
    return f".{target.name[:50]}."


def _bring_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
