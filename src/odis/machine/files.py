"""The one way a file is written: beside its name, brought to the disk, then renamed.

Whoever opens the name finds the old file or the whole new one, also after a kill or a power cut. Logs that
grow line by line are appended to, and are no such files.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from odis.errors import DataError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and what a killed process left stays
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".partial"
_LONGEST = 150  # bytes of the target's name that enter a temporary name; file systems allow 255 in all


@contextlib.contextmanager
def written_whole(
    path: str | Path, *, cache: bool = False, errors: tuple[type[Exception], ...] = ()
) -> Iterator[Path]:
    """A temporary file in the folder of `path`, which takes that name when the block ends.

    If the block raises, the temporary file is removed and an old file stays. The new file has the permissions
    that `open(path, "w")` would give, and takes the place of what a symbolic link points to. Several
    processes may write one target: the last to finish wins. What a killed one left there is removed.

    Args:
        path: The file to write; its folder is made.
        cache: For one of many small files that are checked when they are read and can be made again: what
            the system still holds in memory is not waited for, nor are leftovers looked for.
        errors: What else, beside an `OSError`, a library raises when it cannot write.

    Raises:
        DataError: in one line, if the file cannot be written.
        OSError: of the block's, if it is about another file.
    """
    target = Path(os.path.realpath(path))
    beside: Path | None = None
    failures: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        _check(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not cache:
            _remove_leftovers(target)
        beside, lock = _reserve(target)
        mode = beside.stat().st_mode
        try:
            yield beside
            if beside.stat().st_mode != mode:  # a library that renames too, to a file that only we may read
                beside.chmod(mode)
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


def write_text_whole(path: str | Path, text: str, *, errors: str = "strict") -> None:
    """Write text as UTF-8.

    Args:
        path: The file to write; its folder is made.
        text: What it will hold.
        errors: What becomes of characters that UTF-8 lacks, as in the names of some files: see `str.encode`.

    Raises:
        DataError: if it cannot be written.
    """
    with written_whole(path) as beside:
        beside.write_bytes(text.encode("utf-8", errors))


def write_json_whole(path: str | Path, value: Any) -> None:
    """Write a plain value as JSON, indented. Bytes of file names that are no text are escaped.

    Raises:
        DataError: if it cannot be written.
    """
    # JSON's escape of a lone surrogate is Python's, so the name that is read back is the same.
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_text_whole(path, text, errors="backslashreplace")


def move_whole(source: Path, target: Path) -> None:
    """Rename a file that was written whole, within its file system; `target` is replaced.

    Raises:
        OSError: if it cannot be.
    """
    os.replace(source, target)
    _bring_to_disk(target.parent)


def _check(target: Path) -> None:
    """Refuse what a rename would put a file in place of, as a device, or only after hours, as a folder."""
    if target.is_dir():
        raise IsADirectoryError(None, "is a folder")
    if target.exists() and not target.is_file():
        raise OSError(None, "is there and no regular file")


def _reserve(target: Path) -> tuple[Path, int | None]:
    """A new file beside the target, and the descriptor that keeps it locked, where there are locks."""
    while True:
        beside = target.with_name(f"{_stem(target)}{secrets.token_hex(4)}{SUFFIX}")
        lock = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with contextlib.suppress(OSError):  # there is no old file, or its mode may not be given to another
            beside.chmod(stat.S_IMODE(target.stat().st_mode))
        if fcntl is None:
            os.close(lock)
            return beside, None
        with contextlib.suppress(OSError):  # some file systems have none
            fcntl.flock(lock, fcntl.LOCK_EX)
        if beside.exists():  # else another process took it for a leftover before it was locked
            return beside, lock
        os.close(lock)


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes left of this target: the files that nobody holds locked."""
    if fcntl is None:
        return
    for path in target.parent.glob(f"{glob.escape(_stem(target))}????????{SUFFIX}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _stem(target: Path) -> str:
    """What names of temporary files begin with; a name of 255 bytes leaves no room for more."""
    return f".{os.fsencode(target.name)[:_LONGEST].decode(errors='ignore')}."


def _bring_to_disk(path: Path) -> None:
    """Wait until the disk has a file, or a folder's list of names."""
    if path.is_dir():
        with contextlib.suppress(OSError):  # not every system opens folders
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        return
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _is_about(error: OSError, target: Path, beside: Path | None) -> bool:
    """Whether a file, one of its folders, or no file in particular is what an error is about."""
    return error.filename is None or str(error.filename) in map(str, (beside, target, *target.parents))


def _reason(error: Exception) -> str:
    """Why, in one line."""
    cause = error if isinstance(error, OSError) else error.__context__
    if not isinstance(cause, OSError):
        return str(error).splitlines()[0][:200]
    return cause.strerror or str(cause)
