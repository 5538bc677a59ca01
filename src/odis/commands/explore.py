"""`odis explore`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odis.config.arguments import add_arguments, read_arguments
from odis.config.options import require
from odis.explorer.extra import require_extra
from odis.explorer.settings import ExploreSettings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
REQUIRED = ("data",)
SUMMARY = "Ask networks about objects with the mouse: a page on this machine"

_HELPS = {
    "size": "side in pixels that images are resized to; by default one at which objects are about as large "
    "as in training",
    "batch_size": "images the network sees at once while the index is embedded; few keep the page quick",
}


def add_options(parser: ArgumentParser) -> None:
    """Which networks, which images, and how they are asked."""
    parser.add_argument(
        "runs", type=str, nargs="+", help="run folders, model files, checkpoints or timm:NAME"
    )
    parser.add_argument("--data", type=str, help="index (.parquet) or folder of images to show and search")
    add_arguments(parser, ExploreSettings(), helps=_HELPS)


def run(options: Any) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        OdisError: See `odis.explorer.serve.explore`.
    """
    require(options, *REQUIRED)
    settings = read_arguments(ExploreSettings(), options)
    settings.check()
    require_extra()

    from odis.commands.index.said import say
    from odis.explorer.serve import explore

    explore(options.runs, options.data, settings, say)
