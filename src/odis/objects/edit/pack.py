"""The images of an index, packed into tar shards that odis reads at random and webdataset one by one."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from odis.config.wording import counted
from odis.errors import ConfigError, DataError
from odis.machine.files import written_whole
from odis.objects.clean import reason
from odis.objects.index import ObjectIndex, write_index
from odis.objects.storage.address import Member, is_elsewhere, parse_tile
from odis.objects.storage.reading import read_bytes
from odis.objects.storage.tar_shards import ShardWriter
from odis.types import Box, ImageObjects, Skipped

SHARD_SIZE = 2**30
"""Bytes of a shard, unless asked otherwise."""

INDEX_NAME = "index.parquet"

_ENDING = re.compile(r"\.[a-z0-9]{1,8}")


@dataclass(slots=True)
class PackedShards:
    """What was packed."""

    path: Path  # the index
    images: int
    objects: int
    shards: int
    bytes: int
    skipped: list[Skipped]


def pack_index(index: ObjectIndex, out: Path, shard_size: int = SHARD_SIZE) -> PackedShards:
    """Write the images of an index, as they are, into `out/000000.tar` and so on, with `out/index.parquet`.

    Each image is a member `NUMBER.jpg` (its own ending), with `NUMBER.json` behind it: its name, size, boxes,
    labels, scores and masks. Paths in the new index are relative to `out`, which can be moved, or copied to
    a store and named by `--root`. The index is written last.

    Args:
        index: Images and objects.
        out: A folder that holds no shards; it is made.
        shard_size: Bytes after which a new shard begins. An image is in one shard.

    Raises:
        ConfigError: `shard_size` is below 1.
        DataError: `out` holds shards, an image is a tile of a slide, no image can be read, or something
            cannot be written.
        UnreachableError: The store of an image does not answer.
    """
    if shard_size < 1:
        raise ConfigError(f"shard-size: is {shard_size}, must be 1 or more bytes")
    if out.is_file():
        raise DataError(f"{out}: is a file; shards go into a folder")
    if found := sorted(out.glob("*.tar")) or sorted(out.glob(INDEX_NAME)):
        raise DataError(f"{out}: holds {found[0].name} already; give an empty or new folder with --out")
    packed = PackedShards(out / INDEX_NAME, 0, 0, 0, 0, [])
    written: list[Path] = []
    try:
        rows = _pack(index, out, shard_size, packed, written)
        write_index(packed.path, rows, root=out, provenance=index.provenance, classes=index.classes)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return packed


def _pack(
    index: ObjectIndex, out: Path, shard_size: int, packed: PackedShards, written: list[Path]
) -> Iterator[ImageObjects]:
    """The rows, as their images are written."""
    with contextlib.ExitStack() as stack:
        shard: ShardWriter | None = None
        for i in range(len(index)):
            path = index.image_path(i)
            if parse_tile(path) is not None:
                raise DataError(
                    f"{path}: is a tile of a slide, and tiles are not packed; move the slides themselves, "
                    f"and name their folder by --root"
                )
            try:
                row = index[i]
                data = read_bytes(path) if is_elsewhere(path) else _file(path)
            except DataError as error:
                packed.skipped.append(Skipped(path, reason(error, path)))
                continue
            if shard is not None and shard.size >= shard_size:
                stack.close()
                shard = None
            if shard is None:
                target = out / f"{packed.shards:06d}.tar"
                beside = stack.enter_context(written_whole(target))
                shard = ShardWriter(beside)
                stack.callback(shard.close)
                written.append(target)
                packed.shards += 1
            ending = os.path.splitext(row.image)[1].lower()
            ending = ending if _ENDING.fullmatch(ending) else ".img"
            key = f"{packed.images:09d}"
            offset = shard.add(f"{key}{ending}", data)
            shard.add(f"{key}.json", json.dumps(_described(row, index.classes)).encode())
            packed.images += 1
            packed.objects += len(row.objects)
            packed.bytes += len(data)
            name = row.image.rpartition("/")[2] if "://" in row.image else row.image
            yield replace(row, image=Member(target.name, offset, len(data), name).address)
    if not packed.images:
        why = f"; {packed.skipped[0].what}: {packed.skipped[0].why}" if packed.skipped else ""
        raise DataError(f"{index.path}: none of its {counted(len(index), 'image')} can be packed{why}")


def _file(path: str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not data:
        raise DataError(f"{path}: is empty (0 bytes)")
    return data


def _described(row: ImageObjects, classes: list[str]) -> dict[str, Any]:
    """The row as other readers of the shard find it, in the form of Hugging Face's imagefolder."""
    items = row.objects
    objects: dict[str, list[Any]] = {"bbox": [_sides(item.box) for item in items]}
    if any(item.label is not None for item in items):
        objects["category"] = [_class(item.label, classes) for item in items]
    if any(item.score is not None for item in items):
        objects["score"] = [item.score for item in items]
    if any(item.mask is not None for item in items):
        size = [row.height, row.width]
        objects["segmentation"] = [
            None if item.mask is None else {"size": size, "counts": item.mask.decode("ascii")}
            for item in items
        ]
    return {"image": row.image, "width": row.width, "height": row.height, "objects": objects}


def _sides(box: Box) -> list[float]:
    """COCO's x, y, width, height; x and width make x1 again, to the bit."""
    x0, y0, x1, y1 = map(float, box)
    return [x0, y0, x1 - x0, y1 - y0]


def _class(label: int | None, classes: list[str]) -> str | int | None:
    return classes[label] if label is not None and 0 <= label < len(classes) else label
