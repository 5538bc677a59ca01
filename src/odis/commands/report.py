"""`odis report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.config.arguments import add_arguments, read_arguments
from odis.config.options import require
from odis.config.query import QueryConfig, ReadConfig
from odis.errors import printable

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
REQUIRED = ("out",)
SUMMARY = "Write one HTML page of runs: curves, evaluations, where [OBJ] looks, nearest objects"


_QUERY, _READ = ("size", "context"), ("device", "precision")
_HELPS = {
    "size": "side in pixels that images are resized to; by default one at which objects are about as large "
    "as in training"
}


def add_options(parser: ArgumentParser) -> None:
    """Which runs, what is shown of them, and how their models run."""
    parser.add_argument("runs", type=str, nargs="+", help="folders that odis pretrain wrote")
    parser.add_argument("--out", type=str, help="HTML file to write")
    parser.add_argument(
        "--data",
        type=str | None,
        default=None,
        help="index or folder to show images of (default: the run's val, else data)",
    )
    parser.add_argument("--images", type=int, default=4, help="images to show")
    parser.add_argument(
        "--results",
        type=str,
        nargs="+",
        default=[],
        help="results files of odis evaluate, besides those in the folders",
    )
    parser.add_argument("--seed", type=int, default=0, help="which images")
    add_arguments(parser, QueryConfig(), _QUERY, _HELPS)
    add_arguments(parser, ReadConfig(), _READ)


def run(options: Any) -> None:
    """Write the page, and print its path.

    Raises:
        OdisError: See `write_report`.
    """
    require(options, *REQUIRED)

    from odis.report.write import write_report

    for note in write_report(
        options.out, options.runs, data=options.data, images=options.images, results=options.results or [],
        seed=options.seed, query=read_arguments(QueryConfig(), options, _QUERY),
        read=read_arguments(ReadConfig(), options, _READ),
    ):  # fmt: skip
        print(printable(note), file=sys.stderr)
    print(Path(options.out))
