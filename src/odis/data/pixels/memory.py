"""Decoded images in memory that worker processes share: the first to read an image keeps it for all."""

from __future__ import annotations

import mmap
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odis.data.pixels.decode import Decoded
from odis.data.pixels.request import ImageRequest
from odis.data.pixels.table import CacheTable
from odis.errors import OdisWarning
from odis.machine.ranks import launch

_SHARE = 0.75  # of the memory there is


class MemoryCache:
    """Images as they were decoded.

    Processes that are forked from this one share it. A process that is started anew (`spawn`) gets an empty
    cache of its own. Memory is taken as images come; images that do not fit are not kept.

    Args:
        rows: Images there may be.
        size: Bytes that all ranks on this machine may take together, at most three quarters of its memory,
            which is the default.
        channels: Of an image.
    """

    def __init__(self, rows: int, size: int | None = None, channels: int = 3) -> None:
        self._rows, self._size, self._channels = rows, size, channels
        self._most = _share_of(size)
        self._table = CacheTable(rows)
        self._used = np.frombuffer(mmap.mmap(-1, 8), np.int64)
        self._pixels = self._reserve()

    def _reserve(self) -> mmap.mmap:
        """Address space for `_most` bytes, or for less where the system promises no more."""
        while True:
            try:
                return mmap.mmap(-1, max(1, self._most))
            except OSError:
                if self._most == 0:
                    raise
                self._most //= 2

    def __reduce__(self) -> tuple[Any, ...]:
        return MemoryCache, (self._rows, self._size, self._channels)

    def get(self, request: ImageRequest) -> Decoded | None:
        """The image, if it is there; nobody may write to its pixels."""
        with self._table.lock:
            entry = self._table.get(request.row, request.shrink)
        if entry is None:
            return None
        start, height, width, shrunk, x, y = entry
        return Decoded(self._at(start, height, width).permute(2, 0, 1), shrunk, (x, y))

    def holds(self, request: ImageRequest) -> bool:
        """Whether `get` gives the image."""
        return self.get(request) is not None  # no pixels are read for that

    def put(self, request: ImageRequest, image: Decoded) -> Decoded:
        """Keep an image, unless it is there already or does not fit."""
        row, shrink = request.row, request.shrink
        if not self._table.has_level(shrink):
            return image
        _, height, width = image.pixels.shape
        needed = self._channels * height * width
        with self._table.lock:
            start, taken = int(self._used[0]), self._table.get(row, shrink) is not None
            fits = start + needed <= self._most
            if fits and not taken:
                self._used[0] += needed
        if taken:
            return image
        if not fits:
            full = f"loader.keep memory: {self._most / 2**30:.1f} GiB are full"
            warnings.warn(f"{full}; other images are read again every epoch", OdisWarning, stacklevel=2)
            return image
        self._at(start, height, width).copy_(image.pixels.permute(1, 2, 0))
        with self._table.lock:
            self._table.set(row, shrink, start, (height, width), (image.shrink, image.offset))
        return image

    def _at(self, start: int, height: int, width: int) -> Tensor:
        """uint8 (height, width, C) in the shared memory."""
        count = height * width * self._channels
        pixels = torch.frombuffer(self._pixels, dtype=torch.uint8, count=count, offset=start)
        return pixels.view(height, width, self._channels)


def _share_of(size: int | None) -> int:
    """Bytes of one rank's cache; every rank that torchrun started on this machine has one."""
    most = int(_SHARE * memory())
    return (most if size is None else min(size, most)) // launch().local_world_size


def memory() -> int:
    """Bytes of memory this process may have: the machine's, or its control group's if that is less."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        return min(there, int(limit.read_text()))
    except (OSError, ValueError):  # none, or "max"
        return there
