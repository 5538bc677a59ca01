"""From a data set in its published layout to an object index, with an account of everything that was left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from odis.errors import DataError
from odis.objects.clean import Crowd, SkippedObject
from odis.objects.index import write_index
from odis.objects.sources import SOURCES
from odis.types import ImageObjects, Skipped


@dataclass(slots=True)
class Summary:
    """What was found and what became of it: found = written (kept) + skipped (+ crowds)."""

    out: str
    provenance: str
    images: int = 0
    written: int = 0
    images_skipped: int = 0
    objects: int = 0
    kept: int = 0
    objects_skipped: int = 0
    crowds: int = 0

    def __str__(self) -> str:
        return (
            f"{self.out}: {self.written:,} of {self.images:,} images ({self.images_skipped:,} skipped), "
            f"{self.kept:,} of {self.objects:,} objects ({self.objects_skipped:,} skipped, {self.crowds:,} crowds), {self.provenance}"
        )


def build_index(
    source: str,
    root: str | Path,
    out: str | Path,
    split: str | None = None,
    strict: bool = False,
    report: Callable[[Skipped], None] | None = None,
) -> Summary:
    """Read a data set with the source named `source` and write its object index.

    Images that cannot be opened and objects that cannot be used are left out, counted and reported; crowds are left out and
    counted. An image without objects is written.

    Args:
        source: A name in `SOURCES`.
        root: The data set's folder, in its published layout.
        out: Parquet file to write.
        split: Part of the data set, as the source names it.
        strict: Stop at the first file or object that cannot be used; then nothing is written.
        report: Called with every file and object left out, as it is met.

    Raises:
        DataError: An unknown source, a missing file or split, no usable image, or, with `strict`, the first thing skipped.
    """
    if source not in SOURCES:
        raise DataError(f"unknown source {source!r}; there are {', '.join(sorted(SOURCES))}")
    root = Path(root).absolute()
    if source != "scenes" and not root.is_dir():
        raise DataError(f"{root}: no such folder")
    summary = Summary(str(out), "")
    first: list[Skipped] = []

    def skip(skipped: Skipped) -> None:
        if isinstance(skipped, Crowd):
            summary.crowds += 1
            return
        if strict:
            raise DataError(f"{skipped.what}: {skipped.why}")
        if isinstance(skipped, SkippedObject):
            summary.objects_skipped += 1
        else:
            summary.images_skipped += 1
        first.append(skipped) if not first else None
        if report is not None:
            report(skipped)

    read = import_module(SOURCES[source]).read(root, split, skip)

    def counted() -> Iterator[ImageObjects]:
        for row in read.rows:
            summary.written += 1
            summary.kept += len(row.objects)
            yield row
        if not summary.written:
            reason = f"; the first: {first[0].what}: {first[0].why}" if first else ""
            raise DataError(f"{root}: no image that can be used{reason}")

    write_index(out, counted(), root=read.root, provenance=read.provenance, classes=read.classes)
    summary.provenance = read.provenance
    summary.images = summary.written + summary.images_skipped
    summary.objects = summary.kept + summary.objects_skipped + summary.crowds
    return summary
