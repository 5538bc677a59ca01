"""`odis benchmark`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odis.config.checks import check
from odis.config.options import add_config, recipe_name, require, to_config
from odis.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

REQUIRED = ("data",)
SUMMARY = "Measure what a recipe costs on your data and machine: images/s, memory, time of the whole run"


def add_options(parser: ArgumentParser) -> None:
    """How long to measure, where the figures go, and every setting."""
    parser.add_argument(
        "--out", type=str | None, default=None, help="also write the figures to this JSON file"
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="measure about this long; start-up comes on top"
    )
    add_config(parser)


def run(options: Any) -> None:
    """Measure, print a table, write the figures.

    Raises:
        OdisError: For settings that cannot train, or data that cannot be used.
    """
    require(options, *REQUIRED)
    config = to_config(options)
    check(config)
    if not options.seconds > 0:
        raise ConfigError(f"seconds: is {options.seconds}, must be above 0")

    from odis.benchmark.figures import measure, table
    from odis.config.training import as_dict
    from odis.machine.files import write_json_whole
    from odis.machine.progress import output_console

    figures = measure(config, options.seconds, recipe=recipe_name(options))
    output_console().print(table(figures))
    if options.out is not None:
        write_json_whole(options.out, figures | {"config": as_dict(config)})
        print(options.out)
