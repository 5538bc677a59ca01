"""`odis export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from odis.config.arguments import add_arguments, read_arguments
from odis.config.options import require
from odis.exporting.settings import TARGETS, ExportSettings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
REQUIRED = ("to", "out")
SUMMARY = "Write the model for timm, transformers, ONNX Runtime, torch.export or a hub, checked against odis"


def add_options(parser: ArgumentParser) -> None:
    """Which model, for what, and where to."""
    parser.add_argument("model", type=str, help="run folder, model.safetensors or checkpoint")
    parser.add_argument("--to", type=str, help=f"what it is for: {', '.join(TARGETS)}")
    parser.add_argument("--out", type=str, help="folder to write, new or empty")
    add_arguments(parser, ExportSettings())


def run(options: Any) -> None:
    """Write the folder, and print what was measured.

    Raises:
        OdisError: See `odis.exporting.write.export`.
    """
    require(options, *REQUIRED)
    settings = read_arguments(ExportSettings(), options)
    settings.check(options.to)

    from odis.commands.index.said import reported, say
    from odis.exporting.write import run_export

    with reported() as skip:
        run_export(options.model, options.to, options.out, settings, say=say, skip=skip)
    print(options.out)
