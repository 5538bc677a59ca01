"""`odis embed`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.index.said import reported
from odis.config.arguments import add_arguments, read_arguments
from odis.config.feature_tables import FeatureTableConfig
from odis.config.options import require
from odis.config.query import COMMAND_WORKERS, MODES, ReadConfig
from odis.config.wording import counted

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from odis.types import Skipped

OPENS_INDEX = True
REQUIRED = ("model", "out")
SUMMARY = "Write the features of objects or images as Parquet; the same command resumes"

_SETTINGS = FeatureTableConfig(read=ReadConfig(workers=COMMAND_WORKERS))
_HELPS = {
    "modes": f"how objects are queried: one of {', '.join(MODES)}",
    "device": "auto, cpu, cuda, cuda:N or mps; under torchrun auto is each rank's own GPU",
}


def add_options(parser: ArgumentParser) -> None:
    """What is embedded, by which model, how, and where to."""
    parser.add_argument("data", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--model", type=str, help="run folder, model.safetensors, checkpoint or timm:NAME")
    parser.add_argument("--out", type=str, help="folder to write: part-00000.parquet and so on")
    add_arguments(parser, _SETTINGS, helps=_HELPS)


def run(options: Any) -> None:
    """Write the features of an index or folder.

    Raises:
        OdisError: See `export_features`.
    """
    require(options, *REQUIRED)

    settings = read_arguments(_SETTINGS, options)
    settings.check()

    from odis.commands.functions import run_embedding
    from odis.machine.progress import ProgressBar, error_console
    from odis.machine.ranks import launch

    rank, world_size = launch().rank, launch().world_size
    stderr = error_console()
    count = 0
    out = Path(options.out)
    with reported() as report, ProgressBar(stderr, shown=rank == 0) as bar:
        bar("images", 0, None)

        def skip(skipped: Skipped) -> None:
            nonlocal count
            count += 1
            report(skipped)

        def progress(done: int, total: int) -> None:
            bar("images", done, total)

        parts = run_embedding(options.model, options.data, out, settings, skip, progress)
    of_rank = f" by rank {rank} of {world_size}" if world_size > 1 else ""
    skipped = (
        f"; {counted(count, 'file or object', 'files or objects')} skipped, named above" if count else ""
    )
    stderr.print(f"{counted(len(parts), 'part')} written or found{of_rank}{skipped}")
    if rank == 0:
        print(out)
