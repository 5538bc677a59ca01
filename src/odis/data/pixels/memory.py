"""Decoded images in memory that worker processes share: whoever reads an image first keeps it for all."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odis.data.pixels.decode import Decoded
from odis.errors import OdisWarning

_SHARE = 0.75  # of the memory there is; images beyond that are read from their files
_LEVELS = 8  # shrunk by 1, 2, 4, ... 128
_ENTRY = np.dtype(
    [("start", "i8"), ("height", "i4"), ("width", "i4"), ("shrink", "i4"), ("x", "f8"), ("y", "f8")]
)


class CacheTable:
    """What is known of each image at each shrink: where it begins, its sides, shrink and offset. Shared with
    forked processes.

    Args:
        rows: Images there may be.
    """

    def __init__(self, rows: int) -> None:
        self.lock = multiprocessing.Lock()
        table = mmap.mmap(-1, max(1, rows * _LEVELS * _ENTRY.itemsize))
        self._table = np.frombuffer(table, _ENTRY, rows * _LEVELS).reshape(rows, _LEVELS)

    @staticmethod
    def has(shrink: int) -> bool:
        """Whether there is room for an image at 1 / `shrink` of its size."""
        return shrink.bit_length() <= _LEVELS

    def get(self, row: int, shrink: int) -> tuple[int, int, int, int, float, float] | None:
        """The entry of an image that is there, seen whole; ask with the lock held."""
        entry = self._table[row, shrink.bit_length() - 1].tolist() if self.has(shrink) else None
        return entry if entry and entry[1] else None

    def set(
        self,
        row: int,
        shrink: int,
        start: int,
        sides: tuple[int, int],
        image: tuple[int, tuple[float, float]],
    ) -> None:
        """An image is there: (height, width), and (shrink, offset) as in `Decoded`; say so with the lock
        held, after its pixels.
        """
        shrunk, offset = image
        self._table[row, shrink.bit_length() - 1] = (start, *sides, shrunk, *offset)


class MemoryCache:
    """Images by row and shrink, as they were decoded.

    It is shared with processes that are forked from this one. One that is started anew (`spawn`) gets an
    empty store of its own. Memory is taken as images come.

    Args:
        rows: Images there may be.
        most: Bytes that it may hold, by default its part of three quarters of the memory there is. What does
            not fit is not kept.
    """

    def __init__(self, rows: int, most: int | None = None) -> None:
        ranks = int(
            os.environ.get("LOCAL_WORLD_SIZE", 1)
        )  # of torchrun on this machine, each of which has a store
        self._most = int(_SHARE * memory() / ranks) if most is None else most
        self._rows = rows
        self._entries = CacheTable(rows)
        self._used = np.frombuffer(mmap.mmap(-1, 8), np.int64)
        self._pixels = self._reserve()

    def _reserve(self) -> mmap.mmap:
        """Address space for `most` bytes, or for less where the system promises no more."""
        while True:
            try:
                return mmap.mmap(-1, max(1, self._most))
            except OSError:
                if self._most == 0:
                    raise
                self._most //= 2

    def __reduce__(self) -> tuple[Any, ...]:
        return MemoryCache, (self._rows, self._most)

    def get(self, row: int, shrink: int) -> Decoded | None:
        """The image of a row at 1 / `shrink` of its size, if it is there; nobody may write to its pixels."""
        with self._entries.lock:
            entry = self._entries.get(row, shrink)
        if entry is None:
            return None
        start, height, width, shrunk, x, y = entry
        pixels = torch.frombuffer(self._pixels, dtype=torch.uint8, count=height * width * 3, offset=start)
        return Decoded(pixels.view(height, width, 3).permute(2, 0, 1), shrunk, (x, y))

    def put(self, row: int, shrink: int, image: Decoded) -> None:
        """Keep an image, unless it is there already or does not fit."""
        if not self._entries.has(shrink):
            return
        _, height, width = image.pixels.shape
        with self._entries.lock:
            start, taken = int(self._used[0]), self._entries.get(row, shrink) is not None
            fits = start + 3 * height * width <= self._most
            if fits and not taken:
                self._used[0] += 3 * height * width
        if taken:
            return
        if not fits:
            said = (
                f"loader.cache: {self._most / 2**30:.1f} GiB are full; other images are read from their files"
            )
            warnings.warn(said, OdisWarning, stacklevel=2)
            return
        place = torch.frombuffer(self._pixels, dtype=torch.uint8, count=height * width * 3, offset=start)
        place.view(height, width, 3).copy_(image.pixels.permute(1, 2, 0))
        with self._entries.lock:
            self._entries.set(row, shrink, start, (height, width), (image.shrink, image.offset))


def memory() -> int:
    """Bytes of memory that this process may have: those of the machine, or of its control group if that is
    less.
    """
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        return min(there, int(limit.read_text()))
    except (OSError, ValueError):  # none, or "max"
        return there
