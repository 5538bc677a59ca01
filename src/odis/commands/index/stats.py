"""`odis index stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odis.commands.index.said import show

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
SUMMARY = "Count and measure the images and objects of an index"


def add_options(parser: ArgumentParser) -> None:
    """The index."""
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")


def run(options: Any) -> None:
    """Print the figures.

    Raises:
        OdisError: See `ObjectIndex.open` and `statistics`.
    """
    from odis.objects.index import ObjectIndex, statistics

    show(statistics(ObjectIndex.open(options.index)))
