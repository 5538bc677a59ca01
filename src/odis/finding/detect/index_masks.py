"""Masks for the boxes that an index has: its objects stay as they are, and each box gets the mask of the
object in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odis.errors import ConfigError, DataError
from odis.finding.corpus import count_parts, finish, write_part
from odis.finding.detect.candidates import Masks
from odis.finding.detect.load import masks_source
from odis.finding.finder import Found
from odis.machine.devices import resolve_device, resolve_precision
from odis.objects.build import Summary
from odis.objects.clean import reason, usable_objects
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex
from odis.objects.parts import Parts, is_made
from odis.types import ImageObjects, Skipped


def build_masks(source: str, *, device: str = "auto", precision: str = "auto", threads: int = 0) -> Masks:
    """Load the network that `--masks` names; see `DetectSettings` for the arguments.

    Raises:
        OdisError: It cannot be had, or is none for this.
    """
    from odis.finding.detect.sam import BoxMasks

    name = masks_source(source)
    if threads < 0:
        raise ConfigError(f"threads: is {threads}, must be 0 or more")
    if threads:
        torch.set_num_threads(threads)
    where = resolve_device(device)
    return BoxMasks(name, where, resolve_precision(precision, where).dtype)


def mask_objects(
    index: ObjectIndex,
    out: Path,
    build: Callable[[], Masks],
    *,
    settings: dict[str, Any],
    part_size: int = 512,
    report: Callable[[Skipped], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary | None:
    """Write an index with the objects of another, each with a mask; the same call goes on where one was
    interrupted.

    Boxes, labels and scores are unchanged, and masks that were there are replaced. An object whose mask comes
    out empty has none. An image that cannot be read, or on which the network fails, is left out, counted and
    reported.

    Args:
        index: Images and their objects.
        out: The index to write: a file (`.parquet`) or a folder of them.
        build: Makes the network.
        settings: All that the masks depend on, besides the index: plain JSON values.
        part_size: Images a part: what is lost at most by an interruption.
        report: Called with everything left out, when its part is done.
        progress: Called with the images that are done and all images.

    Returns:
        What was written; None if the index is there already, made with the same settings of the same index.

    Raises:
        ConfigError: For a part size under 1.
        DataError: The index is a plain folder; no image could be used; something else is at `out`; it cannot
            be written.
    """
    if part_size < 1:
        raise ConfigError(f"part-size: is {part_size}, must be 1 or more")
    if index.is_folder:
        raise DataError(
            f"{index.path}: is a folder of images and has no boxes; give an object index (.parquet)"
        )
    settings = {**settings, "objects": index.fingerprint(), "part_size": part_size}
    if is_made(out, settings):
        return None
    total = count_parts(index, part_size)
    parts = Parts(out, root=index.image_root, settings=settings)
    pending = [k for k in range(total) if k not in parts.done()]
    try:
        masks = build() if pending else None
    except BaseException:
        if not parts.done():
            parts.discard()  # nothing was begun
        raise
    for k in range(total):
        if k in pending:
            assert masks is not None
            found = _part(index, masks, range(k * part_size, min(len(index), (k + 1) * part_size)))
            write_part(parts, k, found)
            if report is not None:
                for item in found.skipped:
                    report(item)
        if progress is not None:
            progress(min(len(index), (k + 1) * part_size), len(index))
    return finish(parts, total)


def _part(index: ObjectIndex, masks: Masks, rows: range) -> Found:
    found = Found(
        provenance=f"{index.provenance}+masks:{masks.name}@{masks.revision}", classes=list(index.classes)
    )
    for i in rows:
        row, path = index[i], index.image_path(i)
        try:
            image = np.asarray(load_image(path, (row.width, row.height)))
        except DataError as error:
            found.skipped.append(Skipped(path, reason(error, path)))
            continue
        boxes = replace(row, objects=tuple(replace(item, mask=None) for item in row.objects))
        usable = usable_objects(boxes, len(index.classes))
        found.skipped += usable.skipped(path)
        objects = usable.objects
        try:
            made = masks(image, [item.box for item in objects])
        except (
            Exception
        ) as error:  # a network raises whatever it likes, and the other images are not to suffer from it
            found.skipped.append(
                Skipped(
                    path,
                    f"making masks in it failed ({' '.join(str(error).split()) or type(error).__name__})",
                )
            )
            continue
        masked = tuple(replace(item, mask=mask) for item, mask in zip(objects, made, strict=True))
        found.rows.append(ImageObjects(row.image, row.width, row.height, masked))
    return found
