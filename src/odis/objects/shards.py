"""How a large index is made piece by piece: parts of consecutive images, shared out among calls."""

from __future__ import annotations

import re

from odis.errors import ConfigError

PART_SIZE = 16384
"""Images a part: what an interruption loses at most, and what a file of an index in parts holds."""


def parse_shard(text: str) -> tuple[int, int]:
    """`(i, n)` of `i/n`.

    Raises:
        ConfigError: It is not of this form.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise ConfigError(f"shard: is {text!r}, must be i/n, for example 1/4")
    return int(found[1]), int(found[2])


def check_shard(shard: tuple[int, int], part_size: int) -> None:
    """Refuse a shard outside 1/n to n/n, or parts of no image.

    Raises:
        ConfigError: Naming the option.
    """
    if not 1 <= shard[0] <= shard[1]:
        raise ConfigError(f"shard: is {shard[0]}/{shard[1]}, must be i/n with i from 1 to n")
    if part_size < 1:
        raise ConfigError(f"part-size: is {part_size}, must be 1 or more")
