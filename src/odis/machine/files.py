"""The one way to write a file: to a temporary file beside the target, fsync, rename.

A reader finds the old file or the whole new one, also after a kill or a power cut. Logs that grow line by
line are appended to and do not go through here.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import shutil
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odis.errors import DataError, OdisWarning
from odis.machine.checksums import Seal

try:
    import fcntl
except ImportError:  # Windows: no locks, and leftovers of killed processes stay
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".partial"
SLOW = 60.0
"""Seconds after which a write is said to take long."""

_LONGEST = 150  # bytes of the target's name in a temporary name; file systems allow 255 in all


@contextlib.contextmanager
def written_whole(
    path: str | Path,
    *,
    cache: bool = False,
    errors: tuple[type[Exception], ...] = (),
    seal: Seal | None = None,
) -> Iterator[Path]:
    """Gives a temporary file beside `path`, and renames it to `path` when the block ends.

    If the block raises, the temporary file is removed and the old file stays. Permissions are those that
    `open(path, "w")` would give. A symbolic link is followed. Several processes may write the same target:
    the last one wins. Leftovers of killed processes are removed.

    Args:
        path: The file to write. Its folder is created.
        cache: Skip fsync and the search for leftovers: for many small files that are checked when they are
            read and can be made again.
        errors: Exceptions besides `OSError` that a library raises when it cannot write.
        seal: Gives the file its checksum; see `checksums.py`.

    Raises:
        DataError: if the file cannot be written, in one line.
        OSError: from the block, if it is about another file.
    """
    target = Path(os.path.realpath(path))
    beside: Path | None = None
    failures: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        _check(target)
        make_folder(target.parent)
        if not cache:
            _remove_leftovers(target)
        beside, lock = _reserve(target)
        mode = beside.stat().st_mode
        try:
            yield beside
            if beside.stat().st_mode != mode:  # safetensors puts another file there, for its owner only
                beside.chmod(mode)
            if seal is not None:
                place, content = seal(beside)
                with beside.open("rb+") as file:
                    file.seek(place)
                    file.write(content)
            if not cache:
                _bring_to_disk(beside)
            os.replace(beside, target)
        finally:
            if lock is not None:
                os.close(lock)
        if not cache:
            _bring_to_disk(target.parent)
    except failures as error:
        if isinstance(error, OSError) and not _is_about(error, target, beside):
            raise
        raise DataError(f"{path}: cannot be written ({_reason(error)})") from error
    finally:
        if beside is not None:
            with contextlib.suppress(OSError):  # it is gone if all went well
                beside.unlink()


@contextlib.contextmanager
def told_if_slow(path: Path, what: str) -> Iterator[None]:
    """Within the block something is written to `path`. If it takes long, a warning says so while it does:
    nothing else tells of a disk behind a network that is away, and all ranks wait.

    Args:
        path: Where it is written.
        what: What is, in words.
    """
    text = f"{path}: writing {what} has taken {SLOW:g} s so far, and goes on: is its disk there?"
    timer = threading.Timer(SLOW, warnings.warn, (text, OdisWarning))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_temporary(path: Path) -> bool:
    """Whether this is the name of a temporary file of `written_whole`."""
    return path.match(f".*.????????{SUFFIX}")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in a folder that this process owns: temporary files and folders of
    `written_whole` and `remove_folder`, of safetensors, and of earlier versions of odis.
    """
    for path in folder.glob(f".*.????????{SUFFIX}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            _remove_unlocked(path)
    for pattern in (".tmp??????", "config.tmp", "step-????????.tmp"):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                path.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a folder: all of it or, if the process is killed, nothing that is still found by its name."""
    trash = folder.with_name(f"{_stem(folder)}{secrets.token_hex(4)}{SUFFIX}")
    with contextlib.suppress(OSError):  # it may be gone
        os.replace(folder, trash)
        shutil.rmtree(trash, ignore_errors=True)
    for path in folder.parent.glob(f"{glob.escape(_stem(folder))}????????{SUFFIX}"):
        if path.is_dir():  # of a process that was killed here
            shutil.rmtree(path, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they last.

    Raises:
        OSError: It cannot be made.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        _bring_to_disk(one.parent)


def write_text_whole(path: str | Path, text: str, *, errors: str = "strict") -> None:
    """Write text as UTF-8.

    Args:
        path: The file to write. Its folder is created.
        text: Its content.
        errors: How lone surrogates are encoded, which some file names have: see `str.encode`.

    Raises:
        DataError: if it cannot be written.
    """
    with written_whole(path) as beside:
        beside.write_bytes(text.encode("utf-8", errors))


def write_json_whole(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON. Lone surrogates, which some file names have, are escaped.

    Raises:
        DataError: if it cannot be written.
    """
    # JSON escapes a surrogate as Python does, so that the same name is read back.
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_text_whole(path, text, errors="backslashreplace")


def append_line(path: Path, text: str) -> None:
    """Append a line to a log, which a kill or a full disk cuts short by one line at most.

    Raises:
        DataError: if it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({_reason(error)})") from error


def bring_to_disk(path: Path) -> None:
    """fsync a log, so that it does not have less than what is written whole after it; none is none.

    Raises:
        DataError: if that fails.
    """
    try:
        _bring_to_disk(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({_reason(error)})") from error


def check_readable(path: str | Path, what: str = "file") -> None:
    """Refuse a file or folder that is missing, or that this user may not read: libraries call both missing.

    Args:
        path: The file or folder.
        what: What is missing then, in words.

    Raises:
        DataError: in one line.
    """
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            os.scandir(path).close()
        else:
            open(path, "rb").close()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: no such {what}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)})") from error


def move_whole(source: Path, target: Path) -> None:
    """Rename a file that was written whole, within its file system. Replaces `target`.

    Raises:
        OSError: if it cannot be renamed.
    """
    os.replace(source, target)
    _bring_to_disk(target.parent)


def _check(target: Path) -> None:
    """Refuse what a rename would replace by a file (a device) or refuse only at the end (a folder)."""
    if target.is_dir():
        raise IsADirectoryError(None, "is a folder")
    if target.exists() and not target.is_file():
        raise OSError(None, "is there and no regular file")


def _reserve(target: Path) -> tuple[Path, int | None]:
    """A new file beside the target, and the descriptor that locks it, on systems with locks."""
    while True:
        beside = target.with_name(f"{_stem(target)}{secrets.token_hex(4)}{SUFFIX}")
        lock = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with contextlib.suppress(OSError):  # no old file
            beside.chmod(stat.S_IMODE(target.stat().st_mode))
        if fcntl is None:
            os.close(lock)
            return beside, None
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if beside.exists():  # else another process removed it as a leftover before it was locked
            return beside, lock
        os.close(lock)


def _remove_leftovers(target: Path) -> None:
    """Remove this target's temporary files that no living process holds locked."""
    if fcntl is None:
        return
    for path in target.parent.glob(f"{glob.escape(_stem(target))}????????{SUFFIX}"):
        _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    if fcntl is None:
        return
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _stem(target: Path) -> str:
    """The start of temporary names. It is cut, since a name of 255 bytes leaves no room for more."""
    return f".{os.fsencode(target.name)[:_LONGEST].decode(errors='ignore')}."


def _bring_to_disk(path: Path) -> None:
    """fsync a file, or a folder so that its renames last."""
    if path.is_dir():
        with contextlib.suppress(OSError):  # not every system can open a folder
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        return
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _is_about(error: OSError, target: Path, beside: Path | None) -> bool:
    """Whether an error is about this file, one of its folders, or no named file."""
    if error.filename is None or str(error.filename) in map(str, (beside, target, *target.parents)):
        return True
    # One that could not be made: its name says nothing to a user.
    named = Path(os.fsdecode(error.filename))
    return named.parent == target.parent and named.name.startswith(_stem(target)) and named.suffix == SUFFIX


def _reason(error: Exception) -> str:
    """Why, in one line."""
    cause = error if isinstance(error, OSError) else error.__context__
    if not isinstance(cause, OSError):
        return str(error).splitlines()[0][:200]
    return cause.strerror or str(cause)
