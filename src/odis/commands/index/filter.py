"""`odis index filter`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.index.said import wrote
from odis.config.options import require

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
REQUIRED = ("out",)
SUMMARY = "Write the objects of an index that pass a score, a size or a list of classes"


def add_options(parser: ArgumentParser) -> None:
    """What an object must be, and where the index goes."""
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--out", type=str, help="Parquet file to write")
    parser.add_argument(
        "--min-score", type=float | None, default=None, help="least score; objects without a score are kept"
    )
    parser.add_argument(
        "--min-size", type=float, default=0.0, help="least length of a box's shorter side, in pixels"
    )
    parser.add_argument("--classes", type=str | None, default=None, help="class names, separated by commas")
    parser.add_argument("--with-objects", action="store_true", help="drop images that have no object left")


def run(options: Any) -> None:
    """Write the index and print its path.

    Raises:
        OdisError: See `filter_index`.
    """
    require(options, *REQUIRED)

    from odis.objects.edit.rows import Filter, filter_index
    from odis.objects.index import ObjectIndex

    classes = None if options.classes is None else [name.strip() for name in options.classes.split(",")]
    kept = Filter(options.min_score, options.min_size, classes, options.with_objects)
    wrote(options.out, *filter_index(ObjectIndex.open(options.index), Path(options.out), kept))
