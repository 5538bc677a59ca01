"""`odis checkpoint consolidate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.config.options import require

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

REQUIRED = ("out",)
SUMMARY = "Write a checkpoint of train.parallel fsdp, a folder of shards, as one file"


def add_options(parser: ArgumentParser) -> None:
    """Which checkpoint, and where the file goes."""
    parser.add_argument(
        "checkpoint",
        type=str,
        help="step-NNNNNNNN.sharded, or a run: its newest whole checkpoint",
    )
    parser.add_argument("--out", type=str, help="file to write (.pt)")


def run(options: Any) -> None:
    """Write the file, and print its path.

    Raises:
        OdisError: See `odis.train.checkpoint.consolidate`.
    """
    require(options, *REQUIRED)

    from odis.train.checkpoint import consolidate

    print(consolidate(Path(options.checkpoint), Path(options.out)))
