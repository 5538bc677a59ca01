"""`odis compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.config.arguments import add_arguments, read_arguments
from odis.config.query import COMMAND_WORKERS, ReadConfig
from odis.config.wording import counted
from odis.evaluation.compare.settings import CompareData, CompareSettings

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
REQUIRED = CompareData.REQUIRED
SUMMARY = "Compare two networks on your data: is one better, and what did it forget?"

_SETTINGS = CompareSettings(read=ReadConfig(workers=COMMAND_WORKERS))
_HELPS = {
    "modes": "how objects are queried, comma-separated: masked-attention, mean-pool, crop; each crop is a "
    "pass of its own, the others share one",
    "size": "side in pixels that images are resized to, in area and at their own aspect; by default the size "
    "AFTER was trained at, for both",
    "max_train": "use at most this many train images of each data set, drawn by the seed",
    "max_test": "use at most this many test images of each data set, drawn by the seed",
}
_SHOWN = 20  # skipped files and objects named on screen; the results file names all


def add_options(parser: ArgumentParser) -> None:
    """The two networks, the data, and how they are measured."""
    model = "run folder, model.safetensors, checkpoint or timm:NAME"
    parser.add_argument("before", type=str, help=model)
    parser.add_argument("after", type=str, help=model)
    add_arguments(parser, CompareData())
    add_arguments(parser, _SETTINGS, helps=_HELPS)
    parser.add_argument("--out", type=str, default="compare.json", help="results file to write")


def run(options: Any) -> None:
    """Compare, print the tables and the verdict, write the results file.

    Raises:
        OdisError: See `odis.compare`.
    """
    data = read_arguments(CompareData(), options)
    data.check()
    settings = read_arguments(_SETTINGS, options)
    settings.check()

    from odis.commands.functions import run_comparison
    from odis.evaluation.compare.table import comparison_table
    from odis.machine.progress import ProgressBar, error_console, output_console

    stderr = error_console()
    with ProgressBar(stderr) as bar:
        results = run_comparison(options.before, options.after, data, settings, options.out, bar)
    for item in results["skipped"][:_SHOWN]:
        stderr.print(f"skipped {item['what']}: {item['why']}", soft_wrap=True)
    if (more := len(results["skipped"]) - _SHOWN) > 0:
        stderr.print(
            f"{counted(more, 'more file or object was', 'more files or objects were')} skipped; "
            f"{options.out} names {'it' if more == 1 else 'them'}"
        )
    output_console().print(comparison_table(results))
    print(Path(options.out))
