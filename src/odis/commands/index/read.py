"""`odis index FORMAT`: the annotations of a data set in its published layout, as an object index."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from odis.commands.command import Command
from odis.commands.index.said import name_groups, say, show
from odis.config.options import require
from odis.objects.shards import PART_SIZE, parse_shard
from odis.objects.sources import FORMATS
from odis.objects.sources.reader import AnnotationFormat

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def readers() -> dict[str, Command]:
    """A command for each annotation format."""
    return {
        name: Command(one.title, partial(_add_options, one), partial(write, one), ("out",))
        for name, one in FORMATS.items()
    }


def _add_options(form: AnnotationFormat, parser: ArgumentParser) -> None:
    parser.add_argument("root", type=str, help=f"folder of the data set: {form.layout}")
    parser.add_argument("--split", type=str | None, default=None, help=f"part of it: {form.splits}")
    add_common_options(parser)
    if form.states_sizes:
        parser.add_argument(
            "--trust",
            action="store_true",
            help="take the image sizes in the annotations and open no image; "
            "missing and unreadable images then show up in training",
        )
    if form.takes_places:
        parser.add_argument(
            "--images", type=str | None, default=None, help="folder of the images, if elsewhere"
        )
        parser.add_argument(
            "--annotations",
            type=str | None,
            default=None,
            help="file or folder of the annotations, if elsewhere",
        )
    if form.has_masks:
        parser.add_argument(
            "--masks",
            action="store_true",
            help="give objects the masks of SegmentationObject, where there are any",
        )


def add_common_options(parser: ArgumentParser) -> None:
    """What every format takes, besides its folder and split."""
    parser.add_argument(
        "--out", type=str, help="index to write: a file (.parquet), or a folder for one in parts"
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first file or object that cannot be used"
    )
    parser.add_argument(
        "--max-skipped",
        type=float | None,
        default=None,
        help="largest share of the images, and of the objects, that may be left out (default: all but "
        "everything)",
    )
    parser.add_argument(
        "--shard", type=str, default="1/1", help="i/n: write every n-th part from the i-th; --out is a folder"
    )
    parser.add_argument(
        "--part-size", type=int, default=PART_SIZE, help="images a part; an interruption loses at most one"
    )


def write(form: AnnotationFormat, options: Any) -> None:
    """Write the index, and print what it holds.

    Args:
        form: The format.
        options: Those of `add_common_options`, root and split; what else the format takes, if they have it.

    Raises:
        OdisError: See `build_index`.
    """
    require(options, "out")

    from odis.objects.build import build_index
    from odis.objects.index import ObjectIndex, statistics
    from odis.objects.skips import SkipGroups

    shard = parse_shard(options.shard)
    met = SkipGroups()
    try:
        summary = build_index(
            form.name,
            options.root,
            options.out,
            split=options.split,
            strict=options.strict,
            report=met.add,
            trust=bool(options.get("trust")),
            images=options.get("images"),
            annotations=options.get("annotations"),
            masks=bool(options.get("masks")),
            shard=shard,
            part_size=options.part_size,
            max_skipped=options.max_skipped,
        )
    except BaseException:
        name_groups(met)
        raise
    name_groups(summary.skips)  # with those of parts that an earlier call finished
    if summary.skips:
        say(f"all that was left out: {summary.listed}")
    say(summary.line())
    if shard[1] > 1:
        print(options.out)  # there is nothing to open before the other shards have ended
    else:
        show(statistics(ObjectIndex.open(options.out)))
    if summary.loss():
        say(summary.loss())
