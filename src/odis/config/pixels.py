"""What the numbers in an image's file become: channels of 8 bits, by ranges that are stated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from odis.config.wording import counted

Channels = tuple[float, ...]
"""A number for each channel."""

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)

MOST_CHANNELS = 20

ValueRanges = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the numbers of an image's file become pixels, uint8 (C, height, width).

    Within a range there are 256 steps. That is finer than photometrics and normalisation need, and a quarter
    of the memory, of the traffic between processes, and of the time of a resize that floats would take.

    Args:
        channels: C.
        ranges: What becomes 0 and 255: one pair for all channels, or one for each. None: what the file states
            (8 or 16 bits, bits stored, the window of DICOM).
    """

    channels: int = 3
    ranges: ValueRanges | None = None

    def card(self) -> dict[str, Any]:
        """As it is kept with a network: nothing of what every network was before it could be chosen."""
        kept: dict[str, Any] = {} if self.channels == 3 else {"channels": self.channels}
        return kept if self.ranges is None else kept | {"value_ranges": [list(pair) for pair in self.ranges]}

    @staticmethod
    def of_card(card: dict[str, Any]) -> PixelFormat:
        """From what is kept with a network.

        Raises:
            ValueError: It holds something else there.
        """
        channels, ranges = card.get("channels", 3), card.get("value_ranges")
        if type(channels) is not int or not 1 <= channels <= MOST_CHANNELS:
            raise ValueError(f"its card has {channels!r} channels, must be from 1 to {MOST_CHANNELS}")
        try:
            pairs = None if ranges is None else tuple((float(low), float(high)) for low, high in ranges)
        except TypeError as error:
            raise ValueError(f"its card has value_ranges {ranges!r}, must be pairs of numbers") from error
        if (fault := ranges_fault(pairs, channels)) is not None:
            raise ValueError(f"its card's value_ranges {fault}")
        return PixelFormat(channels, pairs)


RGB = PixelFormat()
"""8-bit red, green and blue."""


def ranges_fault(ranges: ValueRanges | None, channels: int) -> str | None:
    """What is wrong with the ranges of so many channels; None if nothing is."""
    if ranges is None:
        return None
    if len(ranges) not in (1, channels):
        several = f"one, or {channels} for as many channels" if channels > 1 else "one"
        return f"has {len(ranges)} pairs, must have {several}"
    for low, high in ranges:
        if not -math.inf < low < high < math.inf:
            return f"has [{low:g}, {high:g}], must be two rising numbers, both finite"
    return None


def statistics_fault(name: str, values: Channels | None, channels: int) -> str | None:
    """What is wrong with the means or deviations of so many channels; None if nothing is."""
    if values is None:
        if channels == 3:
            return None
        return f"is not given, and views.channels is {channels}; `odis index stats --pixels` measures it"
    if len(values) != channels:
        return f"has {counted(len(values), 'number')}, must have {channels}, one for each of views.channels"
    if name == "std" and not all(value > 0 for value in values):
        return f"is {list(values)}, must be above 0"
    return None
