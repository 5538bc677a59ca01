"""From an object index to COCO instances JSON, for the many tools that read it.

What COCO cannot say is written in its words, so that readers of COCO have no surprise: an object without a
label is of a last category, `object`; a box without a mask has an empty `segmentation`. An object with a
score has it as `score`, as in COCO's result files.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from odis import __version__
from odis.config.wording import counted
from odis.errors import DataError
from odis.machine.files import written_whole
from odis.objects import rle
from odis.objects.clean import reason, usable_objects
from odis.objects.index import ObjectIndex
from odis.objects.listing import IMAGE_SUFFIXES
from odis.types import ImageObjects, Object, Skipped

UNLABELLED = "object"
"""Name of the category of objects without a label; the last one, and only there if there are such objects."""

_IN_MEMORY = 2**24  # bytes of the list of images that are held in memory before they go to a file


@dataclass(slots=True)
class ExportSummary:
    """What was found in the index and what became of it: found = written + left out."""

    out: str
    images: int = 0
    images_written: int = 0
    images_skipped: int = 0
    objects: int = 0
    objects_written: int = 0
    objects_skipped: int = 0
    unlabelled: int = 0  # of those written

    def __str__(self) -> str:
        return (
            f"{self.out}: {self.images_written:,} of {counted(self.images, 'image')} "
            f"({self.images_skipped:,} skipped), {self.objects_written:,} of "
            f"{counted(self.objects, 'object')} ({self.objects_skipped:,} skipped, {self.unlabelled:,} "
            f"without a label)"
        )


def export_coco(
    index: ObjectIndex, out: str | Path, report: Callable[[Skipped], None] | None = None
) -> ExportSummary:
    """Write an object index as COCO instances JSON, row by row; nothing is left at `out` unless all was
    written.

    Image number i is row i - 1 of the index, its `file_name` the path below the index's root; category k is
    label k - 1. Boxes, masks and labels that are read back are the same, bit for bit. The same index makes
    the same file. Objects that cannot be used are left out, and so are images of a folder whose headers
    cannot be read. The images come last but for the categories: only their list, the smaller one, has to
    wait.

    Args:
        index: The object index, or a folder of images opened as one.
        out: JSON file to write; its folder is made. One that is there is replaced.
        report: Called with every image and object left out, as it is met.

    Raises:
        DataError: `out` is the index or a part of it, is a folder, or cannot be written; the index cannot be
            read.
    """
    out = Path(out).absolute()
    _refuse(index, out)
    summary = ExportSummary(str(out))
    with written_whole(out) as beside, beside.open("w", encoding="ascii") as file:
        _write(index, file, out.parent, summary, report or (lambda skipped: None))
    return summary


def _refuse(index: ObjectIndex, out: Path) -> None:
    if out.is_dir():
        raise DataError(f"{out}: is a folder; name a JSON file in it")
    if out.exists() and os.path.exists(index.path) and out.samefile(index.path):
        raise DataError(f"{out}: is the index itself; name another file")
    if out.suffix.lower() in {
        ".parquet",
        *IMAGE_SUFFIXES,
    }:  # a part of an index in several files, or an image of it
        raise DataError(
            f"{out}: would be JSON under a name that ends in {out.suffix}; name a file that ends in .json"
        )


def _write(
    index: ObjectIndex, file: IO[str], folder: Path, summary: ExportSummary, report: Callable[[Skipped], None]
) -> None:
    info = {
        "description": "object index",
        "provenance": index.provenance,
        "root": str(index.image_root),
        "odis_version": __version__,
    }
    file.write(f'{{"info": {json.dumps(info)},\n"licenses": [],\n"annotations": [')
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="ascii", dir=str(folder)) as images:
        for i in range(len(index)):
            summary.images += 1
            try:
                row = index[i]
            except DataError as error:
                if not index.is_folder:
                    raise
                summary.images_skipped += 1
                path = index.image_path(i)
                report(Skipped(path, reason(error, path)))
                continue
            image = {"id": i + 1, "file_name": row.image, "width": row.width, "height": row.height}
            _append(images, image, first=summary.images_written == 0)
            summary.images_written += 1
            usable = usable_objects(row, len(index.classes))
            summary.objects += len(row.objects)
            summary.objects_skipped += len(usable.problems)
            for item in usable.objects:
                annotation = {
                    "id": summary.objects_written + 1,
                    "image_id": i + 1,
                    **_annotation(item, row, len(index.classes)),
                }
                _append(file, annotation, first=summary.objects_written == 0)
                summary.objects_written += 1
                summary.unlabelled += item.label is None
            for skipped in usable.skipped(index.image_path(i)):
                report(skipped)
        file.write('\n],\n"images": [')
        images.seek(0)
        shutil.copyfileobj(images, file)
    file.write(f'\n],\n"categories": {json.dumps(_categories(index.classes, summary.unlabelled > 0))}}}\n')


def _append(file: Any, entry: dict[str, Any], *, first: bool) -> None:
    file.write(f"{'' if first else ','}\n{json.dumps(entry, allow_nan=False)}")


def _annotation(item: Object, row: ImageObjects, classes: int) -> dict[str, Any]:
    x0, y0, x1, y1 = item.box
    width, height = x1 - x0, y1 - y0
    annotation: dict[str, Any] = {
        "category_id": (classes if item.label is None else item.label) + 1,
        "bbox": [x0, y0, width, height],
        "area": width * height if item.mask is None else rle.area(item.mask),
        "iscrowd": 0,
        "segmentation": []
        if item.mask is None
        else {"size": [row.height, row.width], "counts": item.mask.decode("ascii")},
    }
    if item.score is not None:
        annotation["score"] = item.score
    return annotation


def _categories(classes: list[str], unlabelled: bool) -> list[dict[str, Any]]:
    names = (
        [*classes, UNLABELLED if UNLABELLED not in classes else f"{UNLABELLED} without a label"]
        if unlabelled
        else classes
    )
    return [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
