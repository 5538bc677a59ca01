"""`odis index pack`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.commands.index.said import say
from odis.config.options import require
from odis.config.wording import counted

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

OPENS_INDEX = True
REQUIRED = ("out",)
SUMMARY = "Pack the images of an index into tar shards, for an object store or a network disk"

_NAMED = 5  # images left out that are named


def add_options(parser: ArgumentParser) -> None:
    """Where the shards go, and how large they are."""
    parser.add_argument("index", type=str, help="object index (.parquet) or folder of images")
    parser.add_argument("--out", type=str, help="folder to write the shards and index.parquet to")
    parser.add_argument("--shard-mib", type=int, default=1024, help="MiB after which a new shard begins")


def run(options: Any) -> None:
    """Write the shards and their index, and print its path.

    Raises:
        OdisError: See `pack_index`.
    """
    require(options, *REQUIRED)

    from odis.objects.edit.pack import pack_index
    from odis.objects.index import ObjectIndex

    packed = pack_index(ObjectIndex.open(options.index), Path(options.out), options.shard_mib * 2**20)
    say(
        f"{counted(packed.images, 'image')} ({packed.bytes / 2**20:,.1f} MiB) with "
        f"{counted(packed.objects, 'object')} in {counted(packed.shards, 'shard')}"
    )
    for one in packed.skipped[:_NAMED]:
        say(f"left out {one.what}: {one.why}")
    if (more := len(packed.skipped) - _NAMED) > 0:
        say(f"and {counted(more, 'more image is', 'more images are')} left out")
    print(packed.path)
