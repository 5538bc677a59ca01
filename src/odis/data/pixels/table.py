"""Which images a cache holds, shared by forked processes."""

from __future__ import annotations

import mmap
import multiprocessing

import numpy as np

_LEVELS = 8  # shrunk by 1, 2, 4, ... 128
_ENTRY = np.dtype(
    [("start", "i8"), ("height", "i4"), ("width", "i4"), ("shrink", "i4"), ("x", "f8"), ("y", "f8")]
)


class CacheTable:
    """Of each image at each shrink: where its pixels begin, its sides, shrink and offset.

    Args:
        rows: Images there may be.
    """

    def __init__(self, rows: int) -> None:
        self.lock = multiprocessing.Lock()
        table = mmap.mmap(-1, max(1, rows * _LEVELS * _ENTRY.itemsize))
        self._table = np.frombuffer(table, _ENTRY, rows * _LEVELS).reshape(rows, _LEVELS)

    @staticmethod
    def has_level(shrink: int) -> bool:
        """Whether an image at 1 / `shrink` of its size has a place in the table."""
        return shrink.bit_length() <= _LEVELS

    def get(self, row: int, shrink: int) -> tuple[int, int, int, int, float, float] | None:
        """Start, height, width, shrink, x and y offset of an image that is there. Hold the lock."""
        entry = self._table[row, shrink.bit_length() - 1].tolist() if self.has_level(shrink) else None
        return entry if entry and entry[1] else None

    def set(
        self,
        row: int,
        shrink: int,
        start: int,
        sides: tuple[int, int],
        image: tuple[int, tuple[float, float]],
    ) -> None:
        """Enter an image, after its pixels are there. Hold the lock.

        Args:
            row: Its row.
            shrink: The requested shrink.
            start: Where its pixels begin.
            sides: Height and width of the pixels.
            image: Shrink and offset, as in `Decoded`.
        """
        shrunk, offset = image
        self._table[row, shrink.bit_length() - 1] = (start, *sides, shrunk, *offset)
