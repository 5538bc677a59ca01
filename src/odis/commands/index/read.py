"""`odis index FORMAT`: the annotations of a data set in its published layout, as an object index."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from odis.commands.index.said import name_skipped, say, show
from odis.config.options import require
from odis.errors import ConfigError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

FORMATS = {
    "coco": "COCO 2017",
    "lvis": "LVIS v1",
    "objects365": "Objects365 v2",
    "voc": "Pascal VOC, boxes",
    "imagenet": "ImageNet CLS-LOC with its boxes",
    "open-images": "Open Images, boxes",
    "yolo": "YOLO text files, boxes or polygons",
    "sa-1b": "SA-1B",
    "label-maps": "Label maps as PNG: VOC or ADE20K",
    "tiny-imagenet": "Tiny-ImageNet",
    "folder": "A folder of images without annotations",
    "scenes": "Scenes that are made here",
}


def add_options(name: str, parser: ArgumentParser) -> None:
    """Where the data set is, which part of it, and where the index goes."""
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
    parser.add_argument(
        "--trust", action="store_true", help="take the image sizes in the annotations; open no image"
    )
    parser.add_argument(
        "--shard", type=str, default="1/1", help="i/n: write every n-th part, from the i-th; needs a folder"
    )
    parser.add_argument(
        "--part-size", type=int, default=16384, help="images a part; an interruption loses one part at most"
    )
    if name == "scenes":
        parser.add_argument("--count", type=int, default=1000, help="how many scenes to make")
        parser.add_argument("--size", type=int, default=96, help="side of a scene in pixels")
        parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
        parser.add_argument(
            "--context", type=float, default=0.0, help="share of scenes, 0..1, whose ground tells their class"
        )


def run(name: str, options: Any) -> None:
    """Write the index, and print what it holds.

    Raises:
        OdisError: See `build_index`.
    """
    require(options, "out")

    from odis.objects.index import ObjectIndex, statistics

    if name == "scenes":
        from odis.objects.scenes.compose import write_scenes

        write_scenes(
            options.root,
            options.out,
            count=options.count,
            split=options.split or "train",
            seed=options.seed,
            size=options.size,
            context=options.context,
        )
    else:
        from odis.objects.build import build_index

        shard = _shard(options.shard)
        summary = build_index(
            name,
            options.root,
            options.out,
            split=options.split,
            strict=options.strict,
            report=name_skipped,
            trust=options.trust,
            shard=shard,
            part_size=options.part_size,
        )
        say(str(summary))
        if shard[1] > 1:
            print(options.out)  # there is nothing to open before the other shards have ended
            return
    show(statistics(ObjectIndex.open(options.out)))


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise ConfigError(f"shard: is {text!r}, must be i/n, for example 1/4")
    return int(found[1]), int(found[2])
