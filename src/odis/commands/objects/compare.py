"""`odis objects compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
SUMMARY = "Score one index against another on their shared images: CorLoc, AP, recall"


def add_options(parser: ArgumentParser) -> None:
    """The two indexes, and where the figures go."""
    parser.add_argument("predicted", type=str, help="object index to score: detected, discovered, noisy")
    parser.add_argument("truth", type=str, help="object index to score it against")
    parser.add_argument(
        "--out", type=str | None, default=None, help="also write the figures to this JSON file"
    )


def run(options: Any) -> None:
    """Print the figures, and write them if asked to.

    Raises:
        OdisError: See `compare`.
    """
    from odis.machine.files import write_json_whole
    from odis.machine.progress import output_console
    from odis.objects.edit.compare import compare
    from odis.objects.index import ObjectIndex

    found = compare(ObjectIndex.open(options.predicted), ObjectIndex.open(options.truth))
    output_console().print(found)
    if options.out is not None:
        write_json_whole(options.out, found.as_dict())
        print(options.out)
