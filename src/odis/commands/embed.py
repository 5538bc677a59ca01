"""`odis embed`: options, progress, and the line that reads the features back."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from odis.config.options import new_parser, parse, require
from odis.inference.feature_tables import ExportSettings, export_features
from odis.inference.load import load
from odis.inference.queries import MODES
from odis.machine.allocator import keep_freed_memory
from odis.machine.ranks import launch
from odis.objects.index import ObjectIndex
from odis.types import Skipped


def run_embed(arguments: list[str]) -> None:
    """Write the features of an index or folder.

    Raises:
        OdisError: see `export_features`.
    """
    parser = new_parser(
        "embed",
        "Write the features of the objects (or images) of an index or folder as Parquet; the same "
        "command resumes.",
    )
    parser.add_argument("data", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--model", type=str, help="run folder, model.safetensors, checkpoint or timm:NAME")
    parser.add_argument("--out", type=str, help="folder to write: part-00000.parquet and so on")
    parser.add_argument(
        "--mode", type=str, default="masked-attention", help=f"how to ask about an object: {', '.join(MODES)}"
    )
    parser.add_argument(
        "--images",
        action="store_true",
        help="one row an image, asked as one object, instead of one row an object",
    )
    parser.add_argument("--dtype", type=str, default="fp32", help="of the vectors: fp32 or fp16")
    parser.add_argument(
        "--size", type=int | None, default=None, help="pixels to ask at (default: as trained)"
    )
    parser.add_argument(
        "--context",
        type=float | None,
        default=None,
        help="ask in a window so many times the box's longer side",
    )
    parser.add_argument("--part-images", type=int, default=2048, help="images a file")
    parser.add_argument(
        "--device",
        type=str,
        default="auto",
        help="auto, cpu, cuda or cuda:N; under torchrun each rank takes its own GPU",
    )
    parser.add_argument(
        "--precision", type=str, default="auto", help="fp32, bf16 or fp16; auto is bf16 on a GPU, else fp32"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that decode images")
    parser.add_argument("--batch-size", type=int, default=64, help="images the network sees at once")
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first image or object that cannot be used"
    )
    options = parse(parser, arguments)
    require(options, "model", "out")

    here = launch()
    rank, world_size = here.rank, here.world_size
    settings = ExportSettings(
        options.mode, options.images, options.dtype, options.size, options.context, options.part_images,
        options.batch_size, options.workers, options.strict,
    )  # fmt: skip
    settings.check()
    index = ObjectIndex.open(options.data)
    encoder = load(options.model, device=options.device, precision=options.precision)
    if encoder.device.type == "cpu":
        keep_freed_memory()
    stderr = Console(stderr=True, markup=False, emoji=False)
    count = 0

    def skip(skipped: Skipped) -> None:
        nonlocal count
        count += 1
        stderr.print(f"skipped {skipped.what}: {skipped.why}", highlight=False, soft_wrap=True)

    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(
        *columns, console=stderr, transient=True, disable=rank > 0 or not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task("images", total=None)
        out = Path(options.out)
        parts = export_features(
            encoder, index, out, settings, rank=rank, world_size=world_size, skip=skip,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    of_rank = f" by rank {rank} of {world_size}" if world_size > 1 else ""
    skipped = f"; {count} files or objects skipped, named above" if count else ""
    stderr.print(f"{len(parts)} parts written or found{of_rank}{skipped}", highlight=False)
    if rank == 0:
        print(out)
