"""`odis index tiles`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odis.commands.index.said import reported, say
from odis.config.options import require
from odis.config.wording import counted

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

REQUIRED = ("out",)
SUMMARY = "Index the tiles of slides that hold tissue (OpenSlide)"


def add_options(parser: ArgumentParser) -> None:
    """The slides, and how they are cut."""
    parser.add_argument("slides", type=str, help="folder of slides, or one (.svs, .ndpi, .mrxs, .scn, .tif)")
    parser.add_argument("--out", type=str, help="index to write (.parquet)")
    parser.add_argument("--side", type=int, default=512, help="pixels of a tile's side")
    parser.add_argument(
        "--mpp",
        type=float | None,
        default=None,
        help="micrometres of a pixel, such as 0.5 (20 x); by default the slide's largest level as it is",
    )
    parser.add_argument("--tissue", type=float, default=0.25, help="share of a tile that must be tissue")


def run(options: Any) -> None:
    """Write the index, and print its path.

    Raises:
        OdisError: See `tile_slides`.
    """
    require(options, *REQUIRED)

    from odis.objects.tiles import Tiling, tile_slides

    with reported() as report:
        tiling = Tiling(options.side, options.mpp, options.tissue)
        counts = tile_slides(options.slides, options.out, tiling, report)
    say(
        f"{counted(counts.tiles, 'tile')} of {counted(counts.slides, 'slide')}; "
        f"{counted(counts.blank, 'other has', 'others have')} too little tissue"
    )
    print(options.out)
