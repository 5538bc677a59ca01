"""GeoTIFF by rasterio: bands with their scale and offset, and where there are no data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from odis.objects.decoding.raw import RawImage
from odis.objects.decoding.source import Check, Source

TAGS = frozenset({33550, 33922, 34264, 34735, 42112, 42113})
"""Of TIFF: where pixels lie on the ground, GDAL's metadata, GDAL's number for no data."""


def size_of(source: Source) -> tuple[int, int]:
    """`(width, height)` in pixels."""
    with _opened(source) as file:
        return int(file.width), int(file.height)


def read(source: Source, check: Check) -> RawImage:
    """All bands, as `stored * scale + offset` where the file states these. Pixels without data in a band are
    missing; so are those that a mask of the file says are.
    """
    with _opened(source) as file:
        check(int(file.width), int(file.height))
        colours = [str(one.name) for one in file.colorinterp]
        values = np.moveaxis(file.read(), 0, 2)
        there = np.moveaxis(file.read_masks(), 0, 2)
        alpha = colours[-1] == "alpha" and file.count > 1
        changed = any(scale != 1.0 for scale in file.scales) or any(offset != 0.0 for offset in file.offsets)
        if changed:
            values = values.astype(np.float32) * np.array(file.scales, np.float32) + np.array(
                file.offsets, np.float32
            )
        if alpha:  # its mask is that of the others
            there[..., -1] = 255
        missing = there == 0
        if values.dtype.kind == "f":
            missing |= ~np.isfinite(values)
        return RawImage(
            np.ascontiguousarray(values),
            order="colour" if colours[:3] == ["red", "green", "blue"] else "bands",
            alpha=alpha,
            stated=_stated(file, values.dtype),
            missing=missing if missing.any() else None,
        )


def _stated(file: Any, kind: np.dtype[Any]) -> tuple[float, float] | None:
    """The range of bands whose bits the file states (GDAL's NBITS)."""
    bits = file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "")
    return (0.0, float(2 ** int(bits) - 1)) if kind.kind == "u" and bits.isdigit() else None


@contextmanager
def _opened(source: Source) -> Iterator[Any]:
    # Opened each time: GDAL's handles must not be shared by threads, nor go through a fork.
    rasterio = source.package("rasterio", "geo")
    warnings = rasterio.errors.NotGeoreferencedWarning
    import warnings as python_warnings

    memory = nullcontext() if source.data is None else rasterio.MemoryFile(source.data)
    with python_warnings.catch_warnings(), memory as held:
        python_warnings.simplefilter("ignore", warnings)
        with rasterio.open(source.path) if held is None else held.open() as file:
            yield file
