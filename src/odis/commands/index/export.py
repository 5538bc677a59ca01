"""`odis index export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odis.commands.index.said import reported, say
from odis.config.options import require

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
REQUIRED = ("out",)
SUMMARY = "Write an index as COCO instances JSON"


def add_options(parser: ArgumentParser) -> None:
    """The index, and where the JSON goes."""
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--out", type=str, help="JSON file to write")


def run(options: Any) -> None:
    """Write the file and print its path.

    Raises:
        OdisError: See `export_coco`.
    """
    require(options, *REQUIRED)

    from odis.objects.edit.export_coco import export_coco
    from odis.objects.index import ObjectIndex

    with reported() as report:
        done = export_coco(ObjectIndex.open(options.index), options.out, report=report)
    say(str(done))
    print(options.out)
