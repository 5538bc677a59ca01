"""One owner: a lock on what a command writes, which a dead process does not leave behind.

The lock is the kernel's, on a small hidden file, and ends with the process that holds it, however it ends. It
is not inherited by worker processes. It also works between machines on NFS; where a file system has no locks,
a warning says so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from odis.errors import DataError, OdisWarning

try:
    import fcntl
except ImportError:  # Windows: no locks
    fcntl = None  # type: ignore[assignment]

_guard = threading.Lock()
_held: set[str] = set()  # of this process, to which its own locks are open


@contextlib.contextmanager
def sole_owner(path: str | Path, what: str = "", *, inside: bool = False) -> Iterator[None]:
    """While the block runs, no other process and no other call in this one owns `path`.

    Args:
        path: What is written.
        what: Part of it that is owned, so that others can own other parts: `1-of-4`.
        inside: `path` is a folder, which is made, and has the lock in it: `.lock`. Otherwise the lock is
            `.NAME.lock` beside `path`.

    Raises:
        DataError: It has another owner, or the lock cannot be written.
    """
    lock = lock_file(Path(os.path.abspath(path)), what, inside=inside)
    made = _make_folder(lock.parent, path)
    key = os.path.realpath(lock)
    with _guard:
        if key in _held:
            raise DataError(f"{path}: another call in this process is writing it; wait for it to end")
        handle = _acquire(lock, path)
        _held.add(key)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()  # while it is held: who opened it meanwhile sees that it is gone
        with _guard:
            _held.discard(key)
            if handle is not None:
                os.close(handle)
        for folder in made:  # a call that was refused leaves nothing
            with contextlib.suppress(OSError):
                folder.rmdir()


def lock_file(path: Path, what: str = "", *, inside: bool = False) -> Path:
    """Where the lock is; see `sole_owner`."""
    name = "" if inside else f".{path.name}"
    return (path if inside else path.parent) / f"{name}{f'.{what}' if what else ''}.lock"


def _make_folder(folder: Path, path: str | Path) -> list[Path]:
    """The folders that had to be made, the innermost first."""
    made = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    return made


def _acquire(lock: Path, path: str | Path) -> int | None:
    """The descriptor that holds the lock; None where there are no locks."""
    while fcntl is not None:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise DataError(
                    f"{path}: another process is writing it ({owner or 'just started'}); wait for it to end, "
                    f"or give another place"
                ) from error
            warnings.warn(
                f"{lock.parent}: this file system has no locks ({error.strerror}): let no two commands write "
                f"there at the same time",
                OdisWarning,
                stacklevel=4,
            )
            return None
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(handle), os.stat(lock)):
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return handle
        os.close(handle)  # its owner ended and removed it before we held it
    return None
