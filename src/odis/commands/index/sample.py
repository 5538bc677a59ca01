"""`odis index sample`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.index.said import wrote
from odis.config.options import require

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
REQUIRED = ("out",)
SUMMARY = "Write some images of an index, drawn by a seed"


def add_options(parser: ArgumentParser) -> None:
    """How many images, and where the index goes."""
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--out", type=str, help="Parquet file to write")
    parser.add_argument("--images", type=int, default=1000, help="how many images to draw")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")


def run(options: Any) -> None:
    """Write the index and print its path.

    Raises:
        OdisError: See `sample_index`.
    """
    require(options, *REQUIRED)

    from odis.objects.edit.rows import sample_index
    from odis.objects.index import ObjectIndex

    index = ObjectIndex.open(options.index)
    wrote(options.out, *sample_index(index, Path(options.out), options.images, options.seed))
