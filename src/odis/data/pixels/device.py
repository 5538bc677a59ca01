"""Decoded images that stay on the training device: workers send the pixels of an image once, and then only
what its views show of it.
"""

from __future__ import annotations

import mmap
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odis.data.pixels.decode import Decoded
from odis.data.pixels.memory import CacheTable
from odis.errors import OdisWarning


@dataclass(frozen=True, slots=True)
class Place:
    """Which image of a store a batch shows, and what it is if it is not there yet."""

    row: int
    shrink: int  # as it was asked for
    outer_pixels: tuple[int, int, int, int]  # x0, y0, x1, y1: the part of it that views show
    sent: (
        tuple[int, int] | None
    )  # height and width of the pixels that come with the batch: the whole image; None if it is there
    shrunk: int = 1
    offset: tuple[float, float] = (0.0, 0.0)


class DeviceCache:
    """Images by row and shrink. The process that trains puts them there; workers that are forked from it see
    which are there.

    A worker that is started anew (`spawn`) sees none, and sends them all.

    Args:
        rows: Images there may be.
        most: Bytes that they may take.
    """

    def __init__(self, rows: int, most: int) -> None:
        self._rows, self._most, self._used = rows, most, 0
        self._entries = CacheTable(rows)
        self._full = np.frombuffer(mmap.mmap(-1, 1), np.bool_)
        self._pixels: dict[tuple[int, int], Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return DeviceCache, (self._rows, self._most)

    def find(self, row: int, shrink: int) -> Decoded | None:
        """The image of a row at 1 / `shrink` of its size, without its pixels (they are on the device `meta`),
        if it is there.
        """
        with self._entries.lock:
            entry = self._entries.get(row, shrink)
        if entry is None:
            return None
        _, height, width, shrunk, x, y = entry
        return Decoded(torch.empty(3, height, width, dtype=torch.uint8, device="meta"), shrunk, (x, y))

    def takes(self, shrink: int) -> bool:
        """Whether an image at 1 / `shrink` of its size is worth sending whole."""
        return self._entries.has(shrink) and not self._full[0]

    def shown(self, place: Place, sent: Tensor | None) -> Tensor:
        """What views show of an image, uint8 (h, w, 3), on the device; one that was not there is kept, if
        there is room.

        Args:
            place: Which image.
            sent: uint8 (H, W, 3), the whole image if it came along, on the device.
        """
        key = place.row, place.shrink
        image = self._pixels.get(key)
        if image is None:
            assert sent is not None, "a worker took an image to be there that is not"
            image = sent
            self._keep(place, sent)
        x0, y0, x1, y1 = place.outer_pixels
        return image[y0:y1, x0:x1]

    def _keep(self, place: Place, image: Tensor) -> None:
        if self._used + image.numel() > self._most:
            if not self._full[0]:
                self._full[0] = True
                warnings.warn(
                    f"loader.resident_gib: {self._most / 2**30:.2f} GiB are full with {len(self._pixels)} "
                        f"of {self._rows} images; "
                    "others are sent for every batch", OdisWarning, stacklevel=2,
                )  # fmt: skip
            return
        self._used += image.numel()
        self._pixels[place.row, place.shrink] = image.clone()  # not the whole batch that it came with
        with self._entries.lock:
            sides = image.shape[0], image.shape[1]
            self._entries.set(place.row, place.shrink, 0, sides, (place.shrunk, place.offset))
