"""Looking over a finished index: what in it cannot be used, and what it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from odis.errors import DataError
from odis.objects.clean import reason, usable_objects, verified_size
from odis.objects.table import to_batch
from odis.types import Skipped

if TYPE_CHECKING:
    from odis.objects.index import ObjectIndex

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def problems(index: ObjectIndex) -> Iterator[Skipped]:
    """Images that are missing, unreadable or of another size, and objects with unusable boxes, masks or
    labels, as they are found. Of images only the headers are read.
    """
    for i in range(len(index)):
        path = index.image_path(i)
        try:
            row = index[i]
            verified_size(path, (row.width, row.height))
        except DataError as error:
            yield Skipped(path, reason(error, path))
            continue
        yield from usable_objects(row, len(index.classes)).skipped(path)


def require_objects(index: ObjectIndex) -> None:
    """Refuse to take an index that should have objects and has none for one of whole images.

    Raises:
        DataError: It has no object, and its provenance is not that of whole images.
    """
    if not index.is_folder and index.provenance != "whole-image" and not index.count_objects():
        raise DataError(
            f"{index.path}: is {index.provenance} and holds no object, so that every image would be one; "
            f"if that is meant, set objects.use false"
        )


def require_labels(index: ObjectIndex) -> None:
    """Refuse to join the objects of each class in an index without labels.

    Raises:
        DataError: None of its objects has a label.
    """
    labelled = bool(index.classes) if index.is_folder else any(map(_labels_of, index.batches()))
    if not labelled:
        raise DataError(
            f"{index.path}: none of its objects has a label, but objects.unit is classes; set it to instances"
        )


def all_have_masks(index: ObjectIndex) -> bool:
    """Whether an index has objects and each has a mask of its own; a folder's whole images have none."""
    masks = sum(len(batch.column("masks").flatten().drop_null()) for batch in index.batches())
    return 0 < masks == index.count_objects()


def _labels_of(batch: pa.RecordBatch) -> int:
    return len(batch.column("labels").flatten().drop_null())


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
    counted = _Counts()
    if index.is_folder:
        for i in range(len(index)):
            try:
                row = index[i]
            except DataError:
                counted.unreadable += 1
                continue
            counted.add(to_batch([row]))
    else:
        for batch in index.batches():
            counted.add(batch)
    per_image, areas = np.concatenate(counted.per_image), np.concatenate(counted.areas)
    sizes = np.concatenate(counted.image_areas)
    return Statistics(
        provenance=index.provenance,
        images=len(index),
        unreadable=counted.unreadable,
        without_objects=int((per_image == 0).sum()),
        objects=len(areas),
        masks=counted.masks,
        most_objects=int(per_image.max(initial=0)),
        image_side=_quantiles(np.sqrt(sizes)),
        object_side=_quantiles(np.sqrt(areas)),
        object_share=_quantiles(areas / np.maximum(1, np.repeat(sizes, per_image))),
        classes={name: counted.labels[k] for k, name in enumerate(index.classes)},
        unlabelled=len(areas) - counted.labelled,
    )


class _Counts:
    """Figures of the batches seen so far, column by column: a row at a time would cost a hundred times as
    much.
    """

    def __init__(self) -> None:
        self.per_image, self.image_areas, self.areas = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0)]
        self.labels: Counter[int] = Counter()
        self.labelled = self.masks = self.unreadable = 0

    def add(self, batch: pa.RecordBatch) -> None:
        width, height = (
            batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
            for name in ("width", "height")
        )
        boxes = batch.column("boxes")
        flat = boxes.flatten().flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, 4)
        self.per_image.append(np.diff(boxes.offsets.to_numpy()).astype(np.int64))
        self.image_areas.append(width * height)
        self.areas.append(np.maximum(0.0, flat[:, 2] - flat[:, 0]) * np.maximum(0.0, flat[:, 3] - flat[:, 1]))
        masks = batch.column("masks").flatten()
        self.masks += len(masks) - masks.null_count
        labels = batch.column("labels").flatten().drop_null().to_numpy(zero_copy_only=False)
        self.labelled += len(labels)
        for label, count in zip(*(values.tolist() for values in np.unique(labels, return_counts=True))):
            self.labels[label] += count


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in np.quantile(values, QUANTILES)) if values.size else ()
