"""What a reader asks its caches for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """An image at 1 / `shrink` of its size."""

    row: int  # of the index
    path: str
    size: tuple[int, int]  # (width, height) at full size that its objects were made for
    shrink: int
