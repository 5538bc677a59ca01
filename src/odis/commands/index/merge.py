"""`odis index merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.index.said import wrote
from odis.config.options import require

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
REQUIRED = ("out",)
SUMMARY = "Write the images of several indexes into one; classes are matched by name"


def add_options(parser: ArgumentParser) -> None:
    """The indexes, and where the new one goes."""
    parser.add_argument("indexes", type=str, nargs="+", help="object indexes (.parquet) or folders of images")
    parser.add_argument("--out", type=str, help="Parquet file to write")


def run(options: Any) -> None:
    """Write the index and print its path.

    Raises:
        OdisError: See `merge_indexes`.
    """
    require(options, *REQUIRED)

    from odis.objects.edit.rows import merge_indexes
    from odis.objects.index import ObjectIndex

    wrote(options.out, *merge_indexes([ObjectIndex.open(p) for p in options.indexes], Path(options.out)))
