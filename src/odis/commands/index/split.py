"""`odis index split`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.index.said import say, show
from odis.config.options import require
from odis.config.wording import counted

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
REQUIRED = ("out",)
SUMMARY = "Split an index into parts by share and seed; a group is in one part only"

_CLASSES = 40  # lines of the table


def add_options(parser: ArgumentParser) -> None:
    """The parts, and where they go."""
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--out", type=str, help="folder to write NAME.parquet of each part to")
    parser.add_argument(
        "--shares", type=str, default="train=0.8,val=0.2", help="parts and their shares of the images"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument(
        "--group",
        type=str | None,
        default=None,
        help="what keeps images together: folder, folder:N (the first N folders of the path), pattern:REGEX "
        "(what it finds in the path), column:NAME (of the Parquet file)",
    )


def run(options: Any) -> None:
    """Write the parts; print their paths, and images, objects and classes of each.

    Raises:
        OdisError: See `split_index`.
    """
    require(options, *REQUIRED)

    from rich.table import Table

    from odis.objects.edit.split import split_index
    from odis.objects.index import ObjectIndex

    index = ObjectIndex.open(options.index)
    shares = parse_shares(options.shares)
    parts = split_index(index, Path(options.out), shares, options.seed, options.group)
    table = Table("", *(part.name for part in parts))
    for name in ("images", "groups", "objects"):
        if name != "groups" or options.group:
            table.add_row(name, *(f"{getattr(part, name):,}" for part in parts))
    used = [k for k in range(len(index.classes)) if any(part.classes[k] for part in parts)]
    for k in used[:_CLASSES]:
        table.add_row(f"  {index.classes[k]}", *(f"{part.classes[k]:,}" for part in parts))
    if len(used) > _CLASSES:
        table.add_row(f"  and {counted(len(used) - _CLASSES, 'more class')}", *("" for _ in parts))
    show(table)
    for part in parts:
        missing = [index.classes[k] for k in used if not part.classes[k]]
        if missing:
            shown = f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
            say(
                f"{part.name}: has no object of {len(missing):,} of the {counted(len(used), 'class')} "
                f"({shown})"
            )
    for part in parts:
        print(part.path)


def parse_shares(text: str) -> dict[str, float]:
    """The parts of `train=0.8,val=0.2`.

    Raises:
        ConfigError: It is none.
    """
    from odis.errors import ConfigError

    found: dict[str, float] = {}
    for word in text.split(","):
        name, equals, value = word.strip().partition("=")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not equals or share < 0 or name in found:
            raise ConfigError(
                f"shares: is {text!r}, must be NAME=SHARE of each part, such as train=0.8,val=0.2"
            )
        found[name] = share
    return found
