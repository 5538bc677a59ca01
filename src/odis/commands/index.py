"""`odis index`: annotations to an object index, an index to another or back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from odis.config.options import new_parser, parse, require
from odis.errors import ConfigError
from odis.objects.build import PART_SIZE, build_index
from odis.objects.edit.export_coco import export_coco
from odis.objects.edit.perturb import Noise, perturb_index
from odis.objects.edit.rows import Filter, filter_index, merge_indexes, sample_index
from odis.objects.index import ObjectIndex, statistics
from odis.objects.sources import SOURCES, STATES_SIZES
from odis.types import Skipped

_TRUST = (
    f"take the sizes that annotations state and open no image ({', '.join(sorted(STATES_SIZES))}): "
    f"missing and unreadable images, "
    "and those of another size, are then found in training, or by a check of the index"
)


def run_index(arguments: list[str]) -> None:
    """Read a data set into an index, or do something with an index.

    Raises:
        OdisError: for an unknown option, and whatever the command refuses.
    """
    command = _COMMANDS.get(arguments[0]) if arguments else None
    if command is not None:
        return command(arguments[1:])
    about = (
        f"Read SOURCE annotations of the data set in ROOT into an object index. Of an index: odis "
        f"index {' | '.join(_COMMANDS)} --help."
    )
    parser = new_parser("index", about)
    parser.add_argument("source", choices=sorted(SOURCES), help="annotation format")
    parser.add_argument(
        "root",
        type=str,
        help="folder of the data set in its published layout (scenes: where to put the pictures)",
    )
    parser.add_argument(
        "--out", type=str, help="index to write: a file (.parquet), or a folder for one in parts"
    )
    parser.add_argument(
        "--split", type=str | None, default=None, help="part of the data set: train, val, train2017, ..."
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first file or object that cannot be used"
    )
    parser.add_argument("--trust", action="store_true", help=_TRUST)
    parser.add_argument(
        "--shard",
        type=str,
        default="1/1",
        help="i/n: make every n-th part, from the i-th; --out must be a folder then",
    )
    parser.add_argument(
        "--part-size",
        type=int,
        default=PART_SIZE,
        help="images a part: an interruption loses one part at most",
    )
    parser.add_argument("--count", type=int, default=1000, help="scenes only: how many to make")
    parser.add_argument("--size", type=int, default=96, help="scenes only: side of a scene in pixels")
    parser.add_argument("--seed", type=int, default=0, help="scenes only: seed")
    parser.add_argument(
        "--context",
        type=float,
        default=0.0,
        help="scenes only: share of scenes, 0..1, whose ground tells their class",
    )
    options = parse(parser, arguments)
    require(options, "out")
    if options.source == "scenes":
        from odis.objects.scenes.compose import write_scenes

        split = options.split or "train"
        write_scenes(
            options.root,
            options.out,
            count=options.count,
            split=split,
            seed=options.seed,
            size=options.size,
            context=options.context,
        )
    else:
        shard = _shard(options.shard)
        summary = build_index(
            options.source,
            options.root,
            options.out,
            split=options.split,
            strict=options.strict,
            report=_name,
            trust=options.trust,
            shard=shard,
            part_size=options.part_size,
        )
        _say(str(summary))
        if shard[1] > 1:
            print(options.out)  # there is nothing to open before the other shards have ended
            return
    _print(statistics(ObjectIndex.open(options.out)))


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise ConfigError(f"shard: is {text!r}, must be i/n, for example 1/4")
    return int(found[1]), int(found[2])


def _perturb(arguments: list[str]) -> None:
    parser = new_parser(
        "index perturb",
        "Write an index whose objects carry noise, which its provenance names: a study of noisy boxes.",
    )
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--out", type=str, help="Parquet file to write")
    parser.add_argument(
        "--jitter",
        type=float,
        default=0.0,
        help="move a box by N(0, jitter x its side) on each axis; its mask goes",
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=0.0,
        help="multiply each side of a box by exp(N(0, scale)); its mask goes",
    )
    parser.add_argument("--drop", type=float, default=0.0, help="leave an object out with this probability")
    parser.add_argument(
        "--false", type=float, default=0.0, help="add so many false boxes for each object, on average"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    options = parse(parser, arguments)
    require(options, "out")
    noise = Noise(options.jitter, options.scale, options.drop, options["false"], options.seed)
    noise.check()
    _say(str(perturb_index(ObjectIndex.open(options.index), options.out, noise, report=_name)))
    print(options.out)


def _export(arguments: list[str]) -> None:
    parser = new_parser("index export", "Write an index as COCO instances JSON.")
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--out", type=str, help="JSON file to write")
    options = parse(parser, arguments)
    require(options, "out")
    _say(str(export_coco(ObjectIndex.open(options.index), options.out, report=_name)))
    print(options.out)


def _filter(arguments: list[str]) -> None:
    parser = new_parser("index filter", "Write the objects of an index that are good enough.")
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--out", type=str, help="Parquet file to write")
    parser.add_argument(
        "--min-score", type=float | None, default=None, help="least score; an object without one stays"
    )
    parser.add_argument(
        "--min-size", type=float, default=0.0, help="least length of a box's shorter side, in pixels"
    )
    parser.add_argument("--classes", type=str | None, default=None, help="names, with commas between")
    parser.add_argument("--with-objects", action="store_true", help="leave out images without an object")
    options = parse(parser, arguments)
    require(options, "out")
    classes = None if options.classes is None else [name.strip() for name in options.classes.split(",")]
    kept = Filter(options.min_score, options.min_size, classes, options.with_objects)
    _wrote(options.out, *filter_index(ObjectIndex.open(options.index), Path(options.out), kept))


def _sample(arguments: list[str]) -> None:
    parser = new_parser("index sample", "Write some images of an index, drawn by a seed.")
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--out", type=str, help="Parquet file to write")
    parser.add_argument("--images", type=int, default=1000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    options = parse(parser, arguments)
    require(options, "out")
    _wrote(
        options.out,
        *sample_index(ObjectIndex.open(options.index), Path(options.out), options.images, options.seed),
    )


def _merge(arguments: list[str]) -> None:
    parser = new_parser(
        "index merge", "Write the images of several indexes into one; classes are joined by name."
    )
    parser.add_argument("indexes", type=str, nargs="+", help="object indexes (.parquet) or folders of images")
    parser.add_argument("--out", type=str, help="Parquet file to write")
    options = parse(parser, arguments)
    require(options, "out")
    _wrote(
        options.out, *merge_indexes([ObjectIndex.open(path) for path in options.indexes], Path(options.out))
    )


def _stats(arguments: list[str]) -> None:
    parser = new_parser("index stats", "Count and measure the images and objects of an index.")
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    _print(statistics(ObjectIndex.open(parse(parser, arguments).index)))


_COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "perturb": _perturb,
    "export": _export,
    "filter": _filter,
    "sample": _sample,
    "merge": _merge,
    "stats": _stats,
}


def _say(text: str) -> None:
    Console(stderr=True, markup=False, emoji=False).print(text, highlight=False, soft_wrap=True)


def _name(skipped: Skipped) -> None:
    _say(f"skipped {skipped.what}: {skipped.why}")  # names of files are shown as they are


def _wrote(out: str, images: int, objects: int) -> None:
    _say(f"{images:,} images, {objects:,} objects")
    print(out)


def _print(what: Any) -> None:
    Console(markup=False, emoji=False).print(what)
