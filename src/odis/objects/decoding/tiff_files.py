"""TIFF and OME-TIFF by tifffile: any number of channels, of any type, in one page or many.

What the axes mean is read from the file's metadata, never guessed from shapes: tifffile stores colour as (3,
H, W) in one file and (H, W, 3) in the next.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from odis.errors import DataError
from odis.objects.decoding.raw import RawImage
from odis.objects.decoding.source import Check, Source, opened_source

if TYPE_CHECKING:
    from tifffile import TiffFile

SAMPLES, MAX_SAMPLE = 277, 281
"""Tags of TIFF: numbers a pixel, the largest number there can be."""

_EXTRA_SAMPLES, _ASSOCIATED, _UNASSOCIATED = 338, 1, 2
_COLOUR = (2, 6)  # photometric RGB, YCbCr
_WHITE_IS_ZERO = 0


def size_of(source: Source) -> tuple[int, int]:
    """`(width, height)` in pixels."""
    with opened(source) as file:
        series = _series(file, source)
        return _side(series, "X"), _side(series, "Y")


def unread(source: Source) -> list[tuple[str, int]]:
    """Planes that are no channels: only the first is read."""
    with opened(source) as file:
        series = _series(file, source)
        planes = 1
        for letter, length in zip(series.axes, series.shape):
            planes *= length if letter not in "CSXYIQ" else 1
        more = len(file.series) - 1
    found = [("further planes (depth, time) of TIFF files", planes - 1)] if planes > 1 else []
    return found + ([("further images of TIFF files", more)] if more else [])


def read(source: Source, check: Check) -> RawImage:
    """The numbers of the first image of the file: its channels and samples, at the first depth and time."""
    with opened(source) as file:
        series = _series(file, source)
        check(_side(series, "X"), _side(series, "Y"))
        page: Any = series.keyframe
        values = np.asarray(series.asarray())
        axes = series.axes
        pages = not set(axes) & set("CS") and any(letter in "IQ" for letter in axes)
        letters = "CSYX" if not pages else "IQYX"
        for place, letter in reversed(list(enumerate(axes))):
            if letter not in letters:
                values = values.take(0, axis=place)
        kept = [letter for letter in axes if letter in letters]
        order = [kept.index(letter) for letter in "YX"]
        bands = [k for k, letter in enumerate(kept) if letter not in "YX"]
        values = values.transpose(order + bands).reshape(*(values.shape[k] for k in order), -1)
        samples = int(page.samplesperpixel)
        colour = page.photometric in _COLOUR and samples >= 3 and values.shape[2] == samples
        tag = page.tags.get(_EXTRA_SAMPLES)
        extra = tuple(np.atleast_1d(tag.value).tolist()) if tag is not None else ()
        alpha = bool(extra) and extra[-1] in (_ASSOCIATED, _UNASSOCIATED) and values.shape[2] == samples
        return RawImage(
            np.ascontiguousarray(values),
            order="colour" if colour else "bands",
            alpha=alpha and samples > 1,
            stated=_stated(file, page, values.dtype),
            inverted=page.photometric == _WHITE_IS_ZERO,
            pages=pages,
        )


def opened(source: Source, file: BinaryIO | None = None) -> TiffFile:
    """The file, its metadata read; from `file` if it is open already."""
    tifffile = source.package("tifffile", "tiff")
    found: TiffFile = tifffile.TiffFile(opened_source(source) if file is None else file)
    return found


def _series(file: TiffFile, source: Source) -> Any:
    """The first image.

    Raises:
        DataError: It has none, or is spread over several files and this is not the first of them, or parts
            are missing.
    """
    if not file.series:
        raise DataError(f"{source.path}: holds no image")
    series: Any = file.series[0]
    if file.is_ome and file.ome_metadata:
        first, *others = list(dict.fromkeys(re.findall(r'FileName="([^"]+)"', file.ome_metadata))) or [""]
        here = Path(source.path).name
        if others and here != first:
            raise DataError(f"{source.path}: is a part of {first}, which is read with all its parts")
    lacking = sum(page is None for page in series.pages)
    if lacking:
        raise DataError(
            f"{source.path}: lacks {lacking} of its {len(series.pages)} pages, which are in files that are "
            f"not there"
        )
    if "X" not in series.axes or "Y" not in series.axes:
        raise DataError(f"{source.path}: holds no image (its axes are {series.axes})")
    return series


def _side(series: Any, letter: str) -> int:
    return int(series.shape[series.axes.index(letter)])


def _stated(file: TiffFile, page: Any, kind: np.dtype[Any]) -> tuple[float, float] | None:
    """The range that the file's metadata states, beyond its type."""
    if kind.kind != "u":
        return None
    if file.is_ome and (found := re.search(r'SignificantBits="(\d{1,2})"', file.ome_metadata or "")):
        return 0.0, float(2 ** int(found[1]) - 1)
    bits = int(page.bitspersample)
    if bits < 8 * kind.itemsize:
        return 0.0, float(2**bits - 1)
    tag = page.tags.get(MAX_SAMPLE)
    most = float(np.max(tag.value)) if tag is not None else 0.0
    return (0.0, most) if 0 < most < 2 ** (8 * kind.itemsize) - 1 else None
