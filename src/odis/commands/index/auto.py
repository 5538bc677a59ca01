"""`odis index auto`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.index.read import add_common_options, write
from odis.commands.index.said import say
from odis.objects.sources import FORMATS

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SUMMARY = "Say which annotation format a folder is in, and read it if --out is given"


def add_options(parser: ArgumentParser) -> None:
    """The folder, and what every format takes."""
    parser.add_argument("root", type=str, help="folder of the data set, or a table")
    parser.add_argument("--split", type=str | None, default=None, help="part of it, as the format names it")
    add_common_options(parser)


def run(options: Any) -> None:
    """Print the format, and write the index if it has a place.

    Raises:
        OdisError: No format fits, or several do; and whatever reading it refuses.
    """
    from odis.objects.sources.recognise import recognised

    found = recognised(Path(options.root))
    say(f"{options.root}: {found.form}, as {found.because} shows")
    if options.out is None:
        split = f" --split {options.split}" if options.split else ""
        print(f"odis index {found.form} {options.root}{split} --out INDEX.parquet")
    else:
        write(FORMATS[found.form], options)
