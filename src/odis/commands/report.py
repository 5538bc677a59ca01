"""`odis report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.config.options import require

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SUMMARY = "Write one HTML page of runs: curves, evaluations, where [OBJ] looks, nearest objects"


def add_options(parser: ArgumentParser) -> None:
    """Which runs, what is shown of them, and where they are asked."""
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
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--size",
        type=int | None,
        default=None,
        help="pixels to ask at (default: where objects are as large as in training)",
    )
    parser.add_argument(
        "--context",
        type=float | None,
        default=None,
        help="ask about objects in a window so many times the box's longer side",
    )


def run(options: Any) -> None:
    """Write the page, and print its path.

    Raises:
        OdisError: See `write_report`.
    """
    require(options, "out")

    from odis.report.write import write_report

    for note in write_report(
        options.out, options.runs, data=options.data, images=options.images, results=options.results or [],
        seed=options.seed, device=options.device, size=options.size, context=options.context,
    ):  # fmt: skip
        print(note, file=sys.stderr)
    print(Path(options.out))
