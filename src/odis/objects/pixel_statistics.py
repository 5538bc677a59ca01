"""What the pixels of an index's images are: channels, types, ranges, and the statistics to normalise by.

Of each image some pixels are drawn, so that a data set of any size takes the memory of a small one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from odis.config.pixels import MOST_CHANNELS, ValueRanges
from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.clean import reason
from odis.objects.decoding.raw import RawImage, kind_of, luminance, select_channels
from odis.objects.pixels import load_raw
from odis.types import Skipped

if TYPE_CHECKING:
    from odis.objects.index import ObjectIndex

TAILS = (0.1, 99.9)
"""Percentiles of each channel between which its range is measured."""

_PLAIN = (np.dtype(np.uint8), np.dtype(bool))  # what is read without a range

_PIXELS = 2**22  # that are kept of each channel, of all images together


@dataclass(frozen=True, slots=True)
class PixelStatistics:
    """What was measured of so many images. Statistics are of pixels in 0..1, after `value_ranges`.

    Args:
        images: Images that were measured.
        kinds: Images of each kind: their channels and type.
        channels: Of the images that were measured.
        low: Least number of each channel.
        high: Largest number of each channel.
        value_ranges: Measured between `TAILS`; None where the pixels have 8 bits.
        mean: Of each channel.
        std: Of each channel.
        missing: Share of pixels that hold no data; they are in none of the figures.
        others: Images that were left out, and why.
    """

    images: int
    kinds: dict[str, int]
    channels: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    value_ranges: ValueRanges | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    missing: float
    others: list[Skipped]

    def settings(self) -> dict[str, Any]:
        """The settings of `views` that these images need."""
        found: dict[str, Any] = {"channels": self.channels}
        if self.value_ranges is not None:
            found["value_ranges"] = [list(pair) for pair in self.value_ranges]
        return found | {"mean": list(self.mean), "std": list(self.std)}

    def table(self) -> list[tuple[str, str]]:
        """Name and value of each figure, as text."""
        kinds = ", ".join(f"{count:,} of {kind}" for kind, count in self.kinds.items())
        lines = [
            ("images measured", f"{self.images:,}"),
            ("kinds", kinds),
            ("pixels without data", f"{100 * self.missing:.2f} %"),
        ]
        for c in range(self.channels):
            spread = "" if self.value_ranges is None else " to ".join(f"{v:g}" for v in self.value_ranges[c])
            lines.append(
                (
                    f"channel {c + 1}",
                    f"{self.low[c]:g} to {self.high[c]:g}"
                    + (f", {TAILS[1] - TAILS[0]:.1f} % within {spread}" if spread else "")
                    + f"; mean {self.mean[c]:.4f}, std {self.std[c]:.4f}",
                )
            )
        return lines


def measure_pixels(
    index: ObjectIndex,
    channels: int | None = None,
    most: int = 2000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PixelStatistics:
    """Measure the pixels of an index's images, as training with the settings that come of it reads them.

    Args:
        index: The images.
        channels: How many they should have; by default as most of them have. Others are left out.
        most: Images that are drawn at most.
        seed: Of what is drawn.
        progress: Called with how many images are done, and of how many.

    Raises:
        DataError: No image can be measured.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(index))[:most]).tolist()
    drawn: dict[int, list[_Drawn]] = {}
    kinds: Counter[str] = Counter()
    others: list[Skipped] = []
    share = max(1, _PIXELS // max(1, len(rows)))
    for done, row in enumerate(rows):
        path = index.image_path(row)
        try:
            raw = _loaded(path, channels, ranges_stated=True)
            kinds[f"{raw.channels} x {kind_of(raw.values)}"] += 1
            drawn.setdefault(raw.channels, []).append(_Drawn.of(raw, share, rng, path))
        except DataError as error:
            others.append(Skipped(path, reason(error, path)))
        if progress is not None:
            progress(done + 1, len(rows))
    if not drawn:
        raise _none(index, others)
    usual = max(drawn, key=lambda count: len(drawn[count]))
    for count, images in drawn.items():
        if count != usual:
            why = f"has {counted(count, 'channel')}, most images have {usual}"
            others += [Skipped(one.path, why) for one in images]
    images = drawn[usual]
    plain = all(one.kind in _PLAIN for one in images)
    if plain:  # no range is stated then, and each image is read by its own
        images = []
        for one in drawn[usual]:
            try:
                images.append(
                    _Drawn.of(_loaded(one.path, usual), share, rng, one.path) if one.windowed else one
                )
            except DataError as error:
                others.append(Skipped(one.path, reason(error, one.path)))
        if not images:
            raise _none(index, others)
    return _measured(images, usual, kinds, others, plain)


def _none(index: ObjectIndex, others: Sequence[Skipped]) -> DataError:
    why = f"; {others[0].what}: {others[0].why}" if others else ""
    return DataError(f"{index.path}: none of its images can be measured{why}")


def _loaded(path: str, channels: int | None, ranges_stated: bool = False) -> RawImage:
    raw = load_raw(path, ranges_stated=ranges_stated)
    raw = select_channels(raw, channels if channels is not None else _usual(raw), path)
    if channels == 1 and raw.channels == 3:
        return replace(raw, values=luminance(raw.values), missing=raw.missing_anywhere(), order="bands")
    return raw


def _usual(raw: RawImage) -> int:
    """Channels without opacity; of pages that may be images of their own, one."""
    count = 1 if raw.pages else raw.channels - raw.alpha
    return min(count, MOST_CHANNELS + 1)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Some pixels of an image: (n, C), and where they are missing."""

    path: str
    values: np.ndarray
    there: np.ndarray  # bool (n, C)
    low: np.ndarray  # of all pixels, (C,)
    high: np.ndarray
    stated: tuple[float, float] | None
    inverted: bool
    windowed: bool
    kind: np.dtype[Any]

    @classmethod
    def of(cls, raw: RawImage, count: int, rng: np.random.Generator, path: str) -> _Drawn:
        values = raw.values.reshape(-1, raw.channels)
        there = np.isfinite(values)
        if raw.missing is not None:
            missing = raw.missing if raw.missing.ndim == 3 else raw.missing[..., None]
            there &= ~np.broadcast_to(missing, raw.values.shape).reshape(there.shape)
        if not there.any(0).all():
            raise DataError(f"{path}: has a channel without data")
        exact = values.astype(np.float64)
        low = np.where(there, exact, np.inf).min(0)
        high = np.where(there, exact, -np.inf).max(0)
        if len(values) > count:
            chosen = rng.choice(len(values), count, replace=False)
            values, there = values[chosen], there[chosen]
        return cls(path, values, there, low, high, raw.range, raw.inverted, raw.windowed, raw.values.dtype)


def _measured(
    images: Sequence[_Drawn],
    channels: int,
    kinds: Counter[str],
    others: list[Skipped],
    plain: bool,
) -> PixelStatistics:
    values = np.concatenate([one.values for one in images]).astype(np.float32)
    there = np.concatenate([one.there for one in images])
    inverted = np.concatenate([np.full(len(one.values), one.inverted) for one in images])
    ranges = None
    if plain:
        counts = [len(one.values) for one in images]
        own = np.repeat(np.array([one.stated for one in images], np.float64), counts, axis=0).T
    else:
        whole = all(one.kind.kind in "ui" for one in images)
        ranges = tuple(_range(values[there[:, c], c], whole) for c in range(channels))
    means, deviations = [], []
    for c in range(channels):
        low, high = ranges[c] if ranges is not None else own
        pixels = np.clip((values[:, c].astype(np.float64) - low) / (high - low), 0, 1)
        pixels = np.where(inverted, 1 - pixels, pixels)[there[:, c]]
        means.append(round(float(pixels.mean()), 4))
        # A channel that is the same everywhere is divided by one, as good as by anything.
        deviations.append(round(float(pixels.std()), 4) or 1.0)
    return PixelStatistics(
        images=len(images),
        kinds=dict(kinds.most_common()),
        channels=channels,
        low=tuple(np.min([one.low for one in images], 0).tolist()),
        high=tuple(np.max([one.high for one in images], 0).tolist()),
        value_ranges=ranges,
        mean=tuple(means),
        std=tuple(deviations),
        missing=float(1 - there.mean()),
        others=others,
    )


def _range(values: np.ndarray, whole: bool) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(values, TAILS))
    if whole:
        low, high = float(np.floor(low)), float(np.ceil(high))
    else:
        low, high = float(f"{low:.6g}"), float(f"{high:.6g}")
    return (low, high) if low < high else (low, low + 1.0)
