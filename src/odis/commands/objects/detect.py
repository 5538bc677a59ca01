"""`odis objects detect`: objects by an off-the-shelf detector, or masks for the boxes of an index."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.objects.engine import add_engine, check_engine, run_finder, watch
from odis.config.arguments import add_arguments
from odis.config.options import require
from odis.config.query import ReadConfig
from odis.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jsonargparse import ArgumentParser

    from odis.objects.build import Summary
    from odis.types import Skipped

OPENS_INDEX = True
REQUIRED = ("with", "out")
SUMMARY = "Find objects with an off-the-shelf detector, or masks for boxes; the same command resumes"

BOXES = "boxes"


def add_options(parser: ArgumentParser) -> None:
    """Which images, which detector, what is kept of its answers, and where to."""
    parser.add_argument(
        "data", type=str, help="folder of images, or object index (.parquet) whose images are looked at"
    )
    parser.add_argument(
        "--with",
        type=str,
        help=f"torchvision:NAME, torchvision:NAME@FILE, transformers:FOLDER or "
        f"transformers:OWNER/NAME[@REVISION]; {BOXES}: the objects "
        "that the index has, which --masks gives masks",
    )
    parser.add_argument("--out", type=str, help="index to write: a Parquet file, or a folder of them")
    parser.add_argument(
        "--prompt", type=str | None, default=None, help='what to find, for transformers: "a person, a dog"'
    )
    parser.add_argument(
        "--classes",
        type=str | None,
        default=None,
        help="names of the classes of torchvision:NAME@FILE: a file, one a line",
    )
    parser.add_argument(
        "--masks",
        type=str | None,
        default=None,
        help="SAM network that makes a mask for each box: transformers:...",
    )
    parser.add_argument("--min-score", type=float, default=0.3, help="least score of an object")
    parser.add_argument(
        "--nms",
        type=float,
        default=0.5,
        help="of two boxes that overlap more (IoU), the better stays; 1 keeps both",
    )
    parser.add_argument(
        "--across-classes", action="store_true", help="--nms also between boxes of different classes"
    )
    parser.add_argument(
        "--min-size", type=float, default=8.0, help="least length of a box's shorter side, in pixels"
    )
    parser.add_argument(
        "--max-objects", type=int, default=100, help="at most so many an image, those with the highest scores"
    )
    precision = "of the image encoder: fp32, bf16 or fp16; auto is bf16 on a GPU, else fp32"
    reads = ["batch_size", "device", "precision"]
    add_arguments(parser, ReadConfig(batch_size=8), reads, {"precision": precision})
    add_engine(parser)


def run(options: Any) -> None:
    """Write the index of what was found, and print what it holds.

    Raises:
        OdisError: See `build_detector`, `find_objects` and `mask_objects`.
    """
    require(options, *REQUIRED)
    _masks(options) if options["with"] == BOXES else _detect(options)


def _detect(options: Any) -> None:
    from odis.finding.detect.keep import Limits
    from odis.finding.detect.load import DetectSettings, build_detector, read_class_names
    from odis.objects.index import ObjectIndex

    settings = DetectSettings(
        detector=options["with"],
        prompt=options.prompt,
        masks=options.masks,
        class_names=None if options.classes is None else read_class_names(options.classes),
        limits=Limits(
            options.min_score, options.nms, options.across_classes, options.min_size, options.max_objects
        ),
        device=options.device,
        precision=options.precision,
        threads=options.threads,
    )
    settings.check()
    index = ObjectIndex.open(options.data)
    run_finder(
        options, index, partial(build_detector, settings), settings.of_result(), batch_size=options.batch_size
    )


def _masks(options: Any) -> None:
    from odis.finding.detect.index_masks import build_masks, mask_objects
    from odis.finding.detect.load import masks_source
    from odis.objects.index import ObjectIndex

    require(options, "masks")
    if options.engine != "local":
        raise ConfigError(f"engine: is {options.engine!r}, but --with {BOXES} works in one process (local)")
    if options.prompt is not None or options.classes is not None:
        raise ConfigError(
            f"{'prompt' if options.prompt is not None else 'classes'}: goes with a detector, not with "
            f"--with {BOXES}"
        )
    masks_source(options.masks)
    index = ObjectIndex.open(options.data)
    build = partial(
        build_masks,
        options.masks,
        device=options.device,
        precision=options.precision,
        threads=options.threads,
    )
    settings = {"masks": options.masks, "precision": options.precision}

    def work(report: Callable[[Skipped], None], progress: Callable[[int, int], None]) -> Summary | None:
        return mask_objects(
            index,
            Path(options.out),
            build,
            settings=settings,
            part_size=options.part_size,
            report=report,
            progress=progress,
        )

    check_engine(options)
    watch(options.out, work)
