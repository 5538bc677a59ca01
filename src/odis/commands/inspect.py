"""`odis inspect`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from odis.config.checks import check
from odis.config.options import add_config, require, to_config
from odis.errors import printable

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

REQUIRED = ("out",)
SUMMARY = "Draw images with their objects, and the views and masks that training makes of them"


def add_options(parser: ArgumentParser) -> None:
    """What is drawn, where to, and every setting."""
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--out", type=str, help="picture to write (.png)")
    parser.add_argument("--images", type=int, default=4, help="how many images to draw")
    parser.add_argument("--seed", type=int, default=0, help="seed of the images and views")
    add_config(parser)


def run(options: Any) -> None:
    """Draw the picture and print its path.

    Raises:
        OdisError: For settings that cannot train, or an index that cannot be used.
    """
    require(options, *REQUIRED)
    options.data = options.index
    config = to_config(options)
    check(config)

    from odis.objects.index import ObjectIndex
    from odis.pictures.inspect import inspect_picture

    index = ObjectIndex.open(options.index, config.strict, config.root)
    for skipped in inspect_picture(index, options.out, config, images=options.images, seed=options.seed):
        print(printable(f"skipped {skipped.what}: {skipped.why}"), file=sys.stderr)
    print(options.out)
