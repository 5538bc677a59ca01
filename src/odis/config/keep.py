"""`loader.keep`: where decoded images are kept, in order of preference."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from odis.errors import ConfigError

Where = Literal["device", "memory", "disk"]
PLACES: tuple[Where, ...] = get_args(Where)

_UNITS = {
    f"{prefix}{suffix}".lower(): base**power
    for suffix, base in (("iB", 1024), ("B", 1000))
    for power, prefix in enumerate("KMGT", start=1)
} | {"b": 1}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


@dataclass(frozen=True, slots=True)
class CachePlace:
    """One entry of `loader.keep`."""

    where: Where
    size: int | None = None  # bytes, of `device` and `memory`
    folder: str | None = None  # of `disk`


def parse_keep(entries: Sequence[str], render: str) -> list[CachePlace]:
    """The entries of `loader.keep`.

    Args:
        entries: Each `device:SIZE`, `memory`, `memory:SIZE` or `disk:DIR`; a size is a number and a unit.
        render: `loader.render`: images stay on the device only if views are rendered there.

    Raises:
        ConfigError: Naming the first entry that is wrong, and what is allowed.
    """
    places: list[CachePlace] = []
    for entry in entries:
        place = _parse(entry)
        if any(place.where == other.where for other in places):
            raise ConfigError(f"loader.keep: {place.where} is there twice")
        if place.where == "device" and render != "device":
            raise ConfigError(
                f"loader.keep: has {entry}, but loader.render {render} renders views in the workers; set "
                f"loader.render device"
            )
        places.append(place)
    return places


def parse_fetch_cache(entry: str | None) -> tuple[str, int] | None:
    """Folder and bytes of `loader.fetch_cache`; None without one.

    Raises:
        ConfigError: It is not `DIR:SIZE`.
    """
    if entry is None:
        return None
    folder, _, size = entry.rpartition(":")
    if not folder.strip():
        raise ConfigError(f"loader.fetch_cache: is {entry!r}, must be DIR:SIZE, such as fetched:20GiB")
    return folder.strip(), _bytes(entry, size, "loader.fetch_cache")


def _parse(entry: str) -> CachePlace:
    where, colon, rest = entry.partition(":")
    where = where.strip()
    if where == "disk":
        if not rest.strip():
            raise ConfigError("loader.keep: disk needs a folder, such as disk:copies")
        return CachePlace("disk", folder=rest.strip())
    if where == "device":
        if not colon:
            raise ConfigError("loader.keep: device needs a size, such as device:20GiB")
        return CachePlace("device", size=_bytes(entry, rest))
    if where == "memory":
        return CachePlace("memory", size=_bytes(entry, rest) if colon else None)
    raise ConfigError(
        f"loader.keep: {entry!r} is no place to keep images; write device:SIZE, memory, memory:SIZE or "
        f"disk:DIR"
    )


def _bytes(entry: str, text: str, setting: str = "loader.keep") -> int:
    matched = _SIZE.fullmatch(text)
    factor = _UNITS.get(matched[2].lower()) if matched else None
    size = 0.0 if matched is None or factor is None else float(matched[1]) * factor
    if not 1 <= size < math.inf:
        raise ConfigError(
            f"{setting}: {entry!r} has no size above 0; write a number and a unit (B, KB, MB, GB, TB, KiB, "
            f"MiB, GiB, TiB), such as 20GiB"
        )
    return int(size)
