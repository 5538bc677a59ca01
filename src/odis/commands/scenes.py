"""`odis scenes`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.index.said import show
from odis.config.options import require

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

REQUIRED = ("out",)
SUMMARY = "Make scenes of handwritten digits with their object index; nothing is downloaded"


def add_options(parser: ArgumentParser) -> None:
    """Where to, how many, and what they look like."""
    parser.add_argument("--out", type=str, help="folder for SPLIT/*.png and SPLIT.parquet, the object index")
    parser.add_argument(
        "--split", type=str, default="train", help="train or val: no digit is in scenes of both"
    )
    parser.add_argument("--count", type=int, default=1000, help="how many scenes")
    parser.add_argument("--size", type=int, default=96, help="side of a scene in pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    parser.add_argument(
        "--context", type=float, default=0.0, help="share of scenes, 0..1, whose ground tells their class"
    )


def run(options: Any) -> None:
    """Write scenes and index, print what the index holds and its path.

    Raises:
        OdisError: See `write_scenes`.
    """
    require(options, *REQUIRED)

    from odis.objects.index import ObjectIndex, statistics
    from odis.objects.scenes.write import write_scenes

    out, split = Path(options.out), options.split
    index = out / f"{split}.parquet"
    write_scenes(
        out,
        index,
        count=options.count,
        split=split,
        seed=options.seed,
        size=options.size,
        context=options.context,
    )
    show(statistics(ObjectIndex.open(index)))
    print(index)
