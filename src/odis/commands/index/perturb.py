"""`odis index perturb`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odis.commands.index.said import reported, say
from odis.config.options import require

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
REQUIRED = ("out",)
SUMMARY = "Write an index whose objects carry noise, which its provenance names"


def add_options(parser: ArgumentParser) -> None:
    """The noise, and where the index goes."""
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--out", type=str, help="Parquet file to write")
    parser.add_argument(
        "--jitter",
        type=float,
        default=0.0,
        help="move boxes by N(0, jitter x side) on each axis; drops masks",
    )
    parser.add_argument(
        "--scale", type=float, default=0.0, help="scale the sides of boxes by exp(N(0, scale)); drops masks"
    )
    parser.add_argument("--drop", type=float, default=0.0, help="drop an object with this probability")
    parser.add_argument(
        "--false", type=float, default=0.0, help="false boxes to add for each object, on average"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")


def run(options: Any) -> None:
    """Write the index and print its path.

    Raises:
        OdisError: See `perturb_index`.
    """
    require(options, *REQUIRED)

    from odis.objects.edit.perturb import Noise, perturb_index
    from odis.objects.index import ObjectIndex

    noise = Noise(options.jitter, options.scale, options.drop, options["false"], options.seed)
    noise.check()
    with reported() as report:
        done = perturb_index(ObjectIndex.open(options.index), options.out, noise, report=report)
    say(str(done))
    print(options.out)
