"""Numbers of an image as its file has them, and how they become 8-bit channels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from odis.config.pixels import PixelFormat
from odis.config.wording import counted
from odis.errors import DataError, OdisWarning

DARK = 4095
"""The largest number of 12 bits."""

MEASURED = "`odis index stats --pixels` measures them"

_TABLES = 64  # of 64 KiB for 16 bits: windows of DICOM files may be as many as the files

_LUMA = np.array([0.2989, 0.587, 0.114], np.float32)  # ITU-R 601, as in grayscale views

Order = Literal["colour", "bands"]


@dataclass(frozen=True, slots=True)
class RawImage:
    """An image's numbers, turned as a viewer shows it.

    Args:
        values: (H, W, C), of whatever type the file has.
        order: `colour` if the first channels are red, green and blue; or `bands`.
        alpha: The last channel is opacity.
        stated: What the file says is black and white; None if it says nothing and its type does not either.
        missing: bool (H, W) or (H, W, C), where the file has no data; None if it has everywhere.
        inverted: Low numbers are bright (DICOM's MONOCHROME1).
        pages: Values hold pages of a file that does not say what they are: channels, or images.
        windowed: The file has a window or table of its own, which was not used since ranges were stated.
    """

    values: np.ndarray
    order: Order = "bands"
    alpha: bool = False
    stated: tuple[float, float] | None = None
    missing: np.ndarray | None = None
    inverted: bool = False
    pages: bool = False
    windowed: bool = False

    @property
    def channels(self) -> int:
        """C."""
        return int(self.values.shape[2])

    @property
    def range(self) -> tuple[float, float] | None:
        """What the file states, or the range of its type if that has 16 bits or fewer without sign."""
        if self.stated is not None:
            return self.stated
        return _BY_TYPE.get(self.values.dtype.newbyteorder("="))

    def missing_anywhere(self) -> np.ndarray | None:
        """Where any channel has no data, bool (H, W)."""
        if self.missing is None or self.missing.ndim == 2:
            return self.missing
        return np.asarray(self.missing.any(axis=2))


_BY_TYPE = {np.dtype(bool): (0.0, 1.0), np.dtype(np.uint8): (0.0, 255.0), np.dtype(np.uint16): (0.0, 65535.0)}


def select_channels(raw: RawImage, channels: int, path: str) -> RawImage:
    """The image with as many channels as are wanted; colour where grey is wanted stays colour.

    Opacity is dropped unless it is asked for, grey is repeated three times, and of pages that may be images
    of their own the first is taken. Nothing else is made to fit.

    Raises:
        DataError: It has another number of channels.
    """
    if raw.pages and raw.channels != channels:
        raw = _first(replace(raw, pages=False), 1)
    if raw.alpha and raw.channels != channels:
        raw = _first(replace(raw, alpha=False), raw.channels - 1)
    if raw.channels == channels or (channels == 1 and raw.channels == 3 and raw.order == "colour"):
        return raw
    if channels == 3 and raw.channels == 1:
        missing = raw.missing
        if missing is not None and missing.ndim == 3:
            missing = missing[..., 0]
        return replace(raw, values=np.repeat(raw.values, 3, axis=2), missing=missing)
    raise DataError(f"{path}: has {counted(raw.channels, 'channel')}, but views.channels is {channels}")


def _first(raw: RawImage, count: int) -> RawImage:
    missing = raw.missing
    if missing is not None and missing.ndim == 3:
        missing = missing[..., :count]
    return replace(raw, values=raw.values[..., :count], missing=missing)


def to_pixels(raw: RawImage, form: PixelFormat, path: str) -> np.ndarray:
    """The image as uint8 (H, W, C): the lower end of the range is 0, the upper one 255, what is beyond is cut
    off, and what is missing is 0.

    Args:
        raw: The image.
        form: How many channels, and their ranges.
        path: For messages.

    Raises:
        DataError: It has another number of channels, or neither the file nor `form` states a range.
    """
    raw = select_channels(raw, form.channels, path)
    ranges = form.ranges
    if ranges is None:
        if raw.range is None:
            raise DataError(
                f"{path}: has {kind_of(raw.values)} pixels; state views.value_ranges ({MEASURED})"
            )
        ranges = (raw.range,)
        if raw.stated is None and raw.values.dtype.itemsize == 2:
            warn_if_dark(raw.values, path)
    if len(ranges) == 1:
        pixels = scaled(raw.values, *ranges[0])
    elif len(ranges) == raw.channels:
        pixels = np.stack([scaled(raw.values[..., c], *pair) for c, pair in enumerate(ranges)], axis=2)
    else:
        raise DataError(f"{path}: has {raw.channels} channels, but {len(ranges)} ranges of values are stated")
    if raw.inverted:
        pixels = 255 - pixels
    if raw.missing is not None:
        pixels[raw.missing] = 0
    return luminance(pixels) if form.channels == 1 and raw.channels == 3 else pixels


def luminance(colours: np.ndarray) -> np.ndarray:
    """The luminance (H, W, 1) of colours (H, W, 3), rounded and of their type if that is one of integers."""
    exact = colours.astype(np.float32) @ _LUMA
    grey: np.ndarray = np.rint(exact).astype(colours.dtype) if colours.dtype.kind in "ui" else exact
    return grey[..., None]


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers from `low` to `high` as uint8 from 0 to 255, rounded; what is no number is 0."""
    if values.dtype == np.uint8 and (low, high) == (0.0, 255.0):
        return values.copy()
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    kind = values.dtype.newbyteorder("=")
    if kind.kind in "ui" and kind.itemsize <= 2:
        table = _table(kind.str, low, high)
        found: np.ndarray = table[values.astype(kind, copy=False).view(f"u{kind.itemsize}")]
        return found
    wide = np.dtype(np.float64 if kind.kind in "ui" or kind.itemsize > 4 else np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        exact = values.astype(wide)
        exact -= low
        exact *= 255.0 / (high - low)
    return _rounded(np.nan_to_num(exact, copy=False, nan=0.0, posinf=255.0, neginf=0.0))


@lru_cache(maxsize=_TABLES)
def _table(kind: str, low: float, high: float) -> np.ndarray:
    """`scaled` of all numbers of a type of one or two bytes, in the order of their bits."""
    bits = np.arange(2 ** (8 * np.dtype(kind).itemsize)).astype(f"u{np.dtype(kind).itemsize}")
    numbers = bits.view(np.dtype(kind)).astype(np.float64)
    return _rounded((numbers - low) * (255.0 / (high - low)))


def _rounded(numbers: np.ndarray) -> np.ndarray:
    pixels: np.ndarray = np.rint(np.clip(numbers, 0, 255)).astype(np.uint8)
    return pixels


def kind_of(values: np.ndarray) -> str:
    """What type numbers have, in words: `float32`, `16-bit`."""
    kind = values.dtype
    if kind.kind == "f":
        return "floating-point"
    if kind.kind in "ui":
        return f"{'signed ' if kind.kind == 'i' else ''}{8 * kind.itemsize}-bit"
    return str(kind)


_warned = False


def warn_if_dark(values: np.ndarray, path: str) -> None:
    """An `OdisWarning`, once a process, for 16-bit numbers that need no more than 12: so they are black."""
    global _warned
    if _warned or not values.size or not 0 < (most := int(values.max())) <= DARK:
        return
    _warned = True
    warnings.warn(
        f"{path}: its 16-bit pixels are at most {most}, almost black on a scale to 65535; state "
        f"views.value_ranges, such as [[0, {DARK}]]",
        OdisWarning,
        stacklevel=3,
    )


def stretched(raw: RawImage) -> np.ndarray:
    """A picture for people, uint8 (H, W, 3): the first three channels, or in grey the first of fewer, each
    stretched from its 1st to its 99th percentile unless it has 8 bits.
    """
    raw = _first(replace(raw, alpha=False, pages=False, order="bands"), 3 if raw.channels >= 3 else 1)
    ranges = tuple(_percentiles(raw, c) for c in range(raw.channels))
    return to_pixels(raw, PixelFormat(3, ranges), "the picture")


def _percentiles(raw: RawImage, channel: int) -> tuple[float, float]:
    values = raw.values[..., channel]
    if values.dtype == np.uint8 and raw.stated is None:
        return 0.0, 255.0
    there = np.isfinite(values)
    if raw.missing is not None:
        there &= ~(raw.missing if raw.missing.ndim == 2 else raw.missing[..., channel])
    if not there.any():
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values[there], (1, 99)))
    return (low, high) if low < high else (low, low + 1.0)
