"""`odis index stats`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.index.said import reported, say, show
from odis.errors import ConfigError
from odis.machine.files import written_whole

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
SUMMARY = "Count and measure the images and objects of an index, and with --pixels their channels"


def add_options(parser: ArgumentParser) -> None:
    """The index, and what of its pixels is measured."""
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument(
        "--pixels",
        action="store_true",
        help="read images, and measure what views.channels, value_ranges, mean and std should be",
    )
    parser.add_argument(
        "--channels", type=int | None, default=None, help="with --pixels: channels; by default as most images"
    )
    parser.add_argument("--max-images", type=int, default=2000, help="with --pixels: images to draw")
    parser.add_argument("--seed", type=int, default=0, help="with --pixels: of what is drawn")
    parser.add_argument(
        "--out", type=str | None, default=None, help="with --pixels: recipe to write the settings to (.yaml)"
    )


def run(options: Any) -> None:
    """Print the figures.

    Raises:
        OdisError: See `ObjectIndex.open`, `statistics` and `measure_pixels`.
    """
    if not options.pixels and (options.out is not None or options.channels is not None):
        given = "--out" if options.out is not None else "--channels"
        raise ConfigError(f"{given} goes with --pixels")
    from odis.config.pixels import MOST_CHANNELS

    if options.channels is not None and not 1 <= options.channels <= MOST_CHANNELS:
        raise ConfigError(f"--channels: is {options.channels}, must be from 1 to {MOST_CHANNELS}")
    if options.max_images < 1:
        raise ConfigError(f"--max-images: is {options.max_images}, must be 1 or more")
    from odis.objects.index import ObjectIndex, statistics

    index = ObjectIndex.open(options.index)
    if not options.pixels:
        show(statistics(index))
        return
    _pixels(index, options)


def _pixels(index: Any, options: Any) -> None:
    import yaml
    from rich.table import Table

    from odis.objects.pixel_statistics import measure_pixels

    with reported() as report:
        found = measure_pixels(index, options.channels, options.max_images, options.seed)
        for one in found.others:
            report(one)
    table = Table(show_header=False)
    for name, value in found.table():
        table.add_row(name, value)
    show(table)
    recipe = yaml.safe_dump({"views": found.settings()}, sort_keys=False, default_flow_style=None)
    if options.out is None:
        print(recipe, end="")
        return
    with written_whole(Path(options.out)) as beside:
        beside.write_text(recipe)
    say("settings for --recipe, after a recipe of your own if there is one")
    print(options.out)
