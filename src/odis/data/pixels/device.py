"""Decoded images on the training device: workers send an image once, and from then on only its row."""

from __future__ import annotations

import mmap
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odis.config.wording import counted
from odis.data.pixels.decode import Decoded
from odis.data.pixels.request import ImageRequest
from odis.data.pixels.table import CacheTable
from odis.errors import OdisWarning


@dataclass(frozen=True, slots=True)
class CacheRef:
    """Which image of a `DeviceCache` a batch shows, and its geometry if it comes with the batch."""

    row: int
    shrink: int  # as it was requested
    outer_pixels: tuple[int, int, int, int]  # x0, y0, x1, y1: the part of it that views show
    sent: tuple[int, int] | None  # height and width of the whole image, if it comes with the batch
    shrunk: int = 1
    offset: tuple[float, float] = (0.0, 0.0)


class DeviceCache:
    """Images on the device, kept by the training process; workers forked from it see which are there.

    A worker that is started anew (`spawn`) sees none, and sends them all.

    Args:
        rows: Images there may be.
        most: Bytes that they may take.
        channels: Of an image.
    """

    def __init__(self, rows: int, most: int, channels: int = 3) -> None:
        self._rows, self._most, self._used, self._channels = rows, most, 0, channels
        self._table = CacheTable(rows)
        self._full = np.frombuffer(mmap.mmap(-1, 1), np.bool_)
        self._pixels: dict[tuple[int, int], Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return DeviceCache, (self._rows, self._most, self._channels)

    def get(self, request: ImageRequest) -> Decoded | None:
        """The image without its pixels (they are on the device `meta`), if it is there."""
        with self._table.lock:
            entry = self._table.get(request.row, request.shrink)
        if entry is None:
            return None
        _, height, width, shrunk, x, y = entry
        nothing = torch.empty(self._channels, height, width, dtype=torch.uint8, device="meta")
        return Decoded(nothing, shrunk, (x, y), kept_as=request.shrink)

    def holds(self, request: ImageRequest) -> bool:
        """Whether `get` gives the image."""
        return self.get(request) is not None  # no pixels are read for that

    def put(self, request: ImageRequest, image: Decoded) -> Decoded:
        """The image, marked to be sent whole if there is room for it; `shown` then keeps it."""
        worth = self._table.has_level(request.shrink) and not self._full[0]
        return replace(image, kept_as=request.shrink) if worth else image

    def shown(self, ref: CacheRef, sent: Tensor | None) -> Tensor:
        """What views show of an image, uint8 (h, w, C), on the device; one that was sent is kept, if there is
        room.

        Args:
            ref: Which image.
            sent: uint8 (H, W, C), the whole image on the device, if it came with the batch.
        """
        image = self._pixels.get((ref.row, ref.shrink))
        if image is None:
            assert sent is not None, "a worker took an image to be there that is not"
            image = sent
            self._keep(ref, sent)
        x0, y0, x1, y1 = ref.outer_pixels
        return image[y0:y1, x0:x1]

    def _keep(self, ref: CacheRef, image: Tensor) -> None:
        if self._used + image.numel() > self._most:
            if not self._full[0]:
                self._full[0] = True
                warnings.warn(
                    f"loader.keep device: {self._most / 2**30:.2f} GiB are full with {len(self._pixels)} of "
                    f"{counted(self._rows, 'image')}; others are sent for every batch",
                    OdisWarning,
                    stacklevel=2,
                )
            return
        self._used += image.numel()
        self._pixels[ref.row, ref.shrink] = image.clone()  # not the whole batch that it came with
        with self._table.lock:
            sides = image.shape[0], image.shape[1]
            self._table.set(ref.row, ref.shrink, 0, sides, (ref.shrunk, ref.offset))
