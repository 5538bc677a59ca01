"""Looking over a finished index: what in it cannot be used, and what it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from odis.errors import DataError
from odis.objects.clean import SkippedObject, object_problem, reason, verified_size
from odis.objects.images import load_image
from odis.types import Skipped

if TYPE_CHECKING:
    from odis.objects.index import ObjectIndex

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def problems(index: ObjectIndex, *, decode: bool) -> Iterator[Skipped]:
    """Everything in an index that cannot be used, as it is found.

    Args:
        index: The index.
        decode: Read every image to its last byte (finds truncated files); if false only the headers.
    """
    for i in range(len(index)):
        path = index.image_path(i)
        try:
            row = index[i]
            verified_size(path, (row.width, row.height))
            if decode:
                load_image(path, (row.width, row.height))
        except DataError as error:
            yield Skipped(path, reason(error, path))
            continue
        for k, item in enumerate(row.objects):
            problem = object_problem(item, row.width, row.height, len(index.classes))
            if problem is not None:
                yield SkippedObject(f"{path}, object {k}", problem)


def check_index(index: ObjectIndex, *, decode: bool) -> list[Skipped]:
    """Images that are missing, unreadable or of another size, and objects with unusable boxes, masks or labels.

    Args:
        index: The index.
        decode: Read every image to its last byte (finds truncated files); if false only the headers.
    """
    return list(problems(index, decode=decode))


@dataclass(frozen=True, slots=True)
class Statistics:
    """What an index holds. Quantiles are at `QUANTILES`; they are empty where there is nothing to measure."""

    provenance: str
    images: int
    unreadable: int  # images of a folder whose header cannot be read; they are in no other figure
    without_objects: int
    objects: int
    masks: int
    most_objects: int  # in one image
    image_side: tuple[float, ...]  # sqrt(width * height) in pixels
    object_side: tuple[float, ...]  # sqrt of the box's area in pixels
    object_share: tuple[float, ...]  # the box's area as a share of the image's
    classes: dict[str, int]  # objects of each class, in the order of the index's classes
    unlabelled: int

    @property
    def per_image(self) -> float:
        """Mean objects in an image."""
        return self.objects / max(1, self.images - self.unreadable)

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(show_header=False)
        for name, value in self.table():
            table.add_row(name, value)
        return table

    def table(self) -> list[tuple[str, str]]:
        """Name and value of each figure, as text."""
        used = [count for count in self.classes.values() if count]
        lines = [
            ("provenance", self.provenance),
            ("images", f"{self.images:,}"),
            ("unreadable", f"{self.unreadable:,}"),
            ("images without objects", f"{self.without_objects:,}"),
            ("objects", f"{self.objects:,}"),
            ("with a mask", f"{self.masks:,}"),
            ("with a label", f"{self.objects - self.unlabelled:,}"),
            ("objects an image (mean, most)", f"{self.per_image:.2f}, {self.most_objects}"),
            ("classes (used, of)", f"{len(used)}, {len(self.classes)}"),
            ("objects a used class (least, most)", f"{min(used, default=0):,}, {max(used, default=0):,}"),
        ]
        shown = ", ".join(f"{100 * q:g} %" for q in QUANTILES)
        for name, values, form in (
            ("image side in pixels", self.image_side, ".0f"),
            ("object side in pixels", self.object_side, ".0f"),
            ("object's share of the image", self.object_share, ".3f"),
        ):
            lines.append((f"{name} ({shown})", ", ".join(format(v, form) for v in values)))
        return lines


def statistics(index: ObjectIndex) -> Statistics:
    """Count and measure the images and objects of an index.

    Raises:
        DataError: A Parquet file of the index cannot be read.
    """
    per_image: list[int] = []
    image_areas: list[int] = []
    areas: list[float] = []
    shares: list[float] = []
    labels: Counter[int | None] = Counter()
    masks = unreadable = 0
    for i in range(len(index)):
        try:
            row = index[i]
        except DataError:
            if not index.is_folder:
                raise
            unreadable += 1
            continue
        per_image.append(len(row.objects))
        image_areas.append(row.width * row.height)
        for item in row.objects:
            x0, y0, x1, y1 = item.box
            areas.append(max(0.0, x1 - x0) * max(0.0, y1 - y0))
            shares.append(areas[-1] / max(1, image_areas[-1]))
            labels[item.label] += 1
            masks += item.mask is not None
    return Statistics(
        provenance=index.provenance,
        images=len(index),
        unreadable=unreadable,
        without_objects=sum(n == 0 for n in per_image),
        objects=len(areas),
        masks=masks,
        most_objects=max(per_image, default=0),
        image_side=_quantiles(np.sqrt(image_areas)),
        object_side=_quantiles(np.sqrt(areas)),
        object_share=_quantiles(np.asarray(shares)),
        classes={name: labels[k] for k, name in enumerate(index.classes)},
        unlabelled=labels[None],
    )


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in np.quantile(values, QUANTILES)) if values.size else ()
