"""Bytes of images that were fetched from a store, kept in a local folder of bounded size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from odis.errors import DataError, OdisWarning
from odis.machine.files import is_temporary, written_whole

try:
    import fcntl
except ImportError:  # Windows: without locks, the folder may pass its size by what is written at once
    fcntl = None  # type: ignore[assignment]

BINS = 16
"""Parts of the folder: each has an equal share of the size, and a lock of its own."""

_SEAL = 4  # bytes of the checksum behind the content
_COUNT = 8  # bytes of a bin's total, in the file that is its lock; its checksum follows
_FREED = 10  # one part in so many of a full bin is freed at once, so that it is seldom gone through


class ByteCache:
    """A folder of at most `size` bytes that processes and runs may share.

    What was used longest ago goes first. A file is whole or absent; one that is damaged is fetched again.
    The store is not asked whether an object has changed: delete the folder if one has.

    Args:
        folder: The folder; it is made if need be.
        size: Bytes.
    """

    def __init__(self, folder: str | Path, size: int) -> None:
        self.folder, self.size = Path(folder), size
        self._warned = False
        self._seen: set[Path] = set()  # bins whose total was found by looking, after which it is kept

    def get(self, address: str) -> bytes | None:
        """The bytes, if they are there."""
        file = self._file(address)
        try:
            data = file.read_bytes()
            content = data[:-_SEAL]
            if crc32(content) != int.from_bytes(data[-_SEAL:], "little") or not content:
                return None
            os.utime(file)
        except OSError:
            return None
        return content

    def put(self, address: str, data: bytes) -> None:
        """Keep bytes, and drop others if there is no room."""
        file, needed = self._file(address), len(data) + _SEAL
        most = self.size // BINS - _COUNT - _SEAL
        if needed > most:
            return
        try:
            with _alone(file.parent) as lock:
                self._take(lock, file.parent, needed, most)
                with written_whole(file, cache=True) as beside:
                    beside.write_bytes(data + crc32(data).to_bytes(_SEAL, "little"))
        except (DataError, OSError) as error:  # a full disk must not end a run
            if not self._warned:
                why = error if isinstance(error, DataError) else error.strerror
                warnings.warn(
                    f"{self.folder}: {why}; images are fetched each time", OdisWarning, stacklevel=2
                )
                self._warned = True

    def _take(self, lock: int, folder: Path, needed: int, most: int) -> None:
        """Count the bytes of a file that will be written, after making room for them.

        They count before they are there: what is killed in between leaves a total that is too large, which
        the next look corrects, and never one that is too small.
        """
        total = _total(lock) if fcntl is not None and folder in self._seen else None
        if total is None or total + needed > most:
            total = _make_room(folder, most, needed)
            self._seen.add(folder)
        counted = (total + needed).to_bytes(_COUNT, "little")
        os.lseek(lock, 0, os.SEEK_SET)
        os.write(lock, counted + crc32(counted).to_bytes(_SEAL, "little"))

    def _file(self, address: str) -> Path:
        digest = hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / f"{int(digest[:2], 16) % BINS:02d}" / digest[2:34]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """No other process writes to the folder; gives the file that is its lock."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _total(lock: int) -> int | None:
    """Bytes of a bin as its lock's file says; None if it says nothing."""
    said = os.read(lock, _COUNT + _SEAL)
    counted = said[:_COUNT]
    whole = len(said) == _COUNT + _SEAL and crc32(counted) == int.from_bytes(said[_COUNT:], "little")
    return int.from_bytes(counted, "little") if whole else None


def _make_room(folder: Path, most: int, needed: int) -> int:
    """If there is no room for `needed` bytes among `most`, remove the files used longest ago until there is,
    and more. Gives the bytes of those that stay.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name != ".lock":
                with contextlib.suppress(FileNotFoundError):
                    there = entry.stat()
                    # Nobody else writes here now: a temporary file is what a killed process left.
                    used = 0 if is_temporary(Path(entry.path)) else there.st_mtime_ns
                    found.append((used, there.st_size, entry.path))
    total = sum(size for _, size, _ in found)
    most = most - needed if total + needed <= most else most - most // _FREED - needed
    for used, size, path in sorted(found):
        if total <= most and used:
            break
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        total -= size
    return total
