"""Tiles of slides by OpenSlide, by their addresses (`storage.address.Tile`)."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import numpy as np

from odis.errors import DataError
from odis.objects.decoding.raw import RawImage
from odis.objects.decoding.source import Check, Source
from odis.objects.storage.address import Tile, parse_tile

SUFFIXES = frozenset({".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide"})
"""Endings of slides. Pyramids in TIFF files (`.tif`, `.tiff`) are slides too where they are given as such."""

_KEPT_OPEN = 8  # slides of a process


def size_of(source: Source) -> tuple[int, int]:
    """`(width, height)` of the tile, if it is one of the slide."""
    tile, _ = _opened_tile(source)
    return tile.width, tile.height


def _opened_tile(source: Source) -> tuple[Tile, Any]:
    """The tile and its slide, if it is one of the slide."""
    tile = parse_tile(source.path)
    assert tile is not None, "the reader of tiles is asked for these alone"
    slide = open_slide(tile.slide, source)
    if tile.level >= slide.level_count:
        raise DataError(f"{source.path}: has level {tile.level}, but the slide has {slide.level_count}")
    scale = slide.level_downsamples[tile.level]
    if tile.x + tile.width * scale > slide.dimensions[0] + scale or (
        tile.y + tile.height * scale > slide.dimensions[1] + scale
    ):
        width, height = slide.dimensions
        raise DataError(f"{source.path}: reaches beyond the slide of {width} x {height} pixels")
    return tile, slide


def read(source: Source, check: Check) -> RawImage:
    """The tile in 8-bit colours; what was not scanned is white."""
    tile, slide = _opened_tile(source)
    check(tile.width, tile.height)
    region = slide.read_region((tile.x, tile.y), tile.level, (tile.width, tile.height))
    rgba = np.asarray(region, dtype=np.uint8)
    opacity = rgba[..., 3:].astype(np.uint16)
    # What was not scanned is transparent.
    over = (rgba[..., :3].astype(np.uint16) * opacity + 255 * (255 - opacity) + 127) // 255
    return RawImage(over.astype(np.uint8), order="colour")


def open_slide(path: str, source: Source | None = None) -> Any:
    """The slide, kept open in this process.

    Raises:
        DataError: It is not there, or no slide.
    """
    where = source or Source(path)
    openslide = where.package("openslide", "slides")
    try:
        state = os.stat(path)
        # A handle must not go through a fork, and a file that was replaced is another one.
        return _opened(path, os.getpid(), state.st_size, state.st_mtime_ns)
    except FileNotFoundError as error:
        raise DataError(f"{where.path}: there is no slide {path}") from error
    except (openslide.OpenSlideError, OSError) as error:
        raise DataError(f"{where.path}: is no slide that can be read ({error})") from error


@lru_cache(maxsize=_KEPT_OPEN)
def _opened(path: str, process: int, size: int, changed: int) -> Any:
    import openslide

    return openslide.OpenSlide(path)
