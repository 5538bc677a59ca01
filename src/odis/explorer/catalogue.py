"""What the gallery lists: the images of the index, all or those with an object of a class."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import numpy as np

from odis.errors import DataError
from odis.explorer.refusal import RefusedError
from odis.objects.index import ObjectIndex

MOST = 200
"""Images in one answer."""


class Catalogue:
    """The images of an index, by class.

    Args:
        index: Images and objects.
    """

    def __init__(self, index: ObjectIndex) -> None:
        self.index = index
        len(index)  # opens its files now, in one thread
        rows, labels = index.labelled()
        known = (labels >= 0) & (labels < len(index.classes))
        pairs = np.unique(np.stack([labels[known], rows[known]]), axis=1)
        self._starts = np.searchsorted(pairs[0], np.arange(len(index.classes) + 1))
        self._rows = pairs[1]

    def classes(self) -> list[dict[str, Any]]:
        """Classes with the number of images that show one; those of none are left out."""
        counts = np.diff(self._starts).tolist()
        return [
            {"label": k, "name": name, "images": count}
            for k, (name, count) in enumerate(zip(self.index.classes, counts))
            if count
        ]

    def page(self, label: int | None, start: int, count: int) -> dict[str, Any]:
        """Some images of the gallery, in the order of the index, and how many there are in all.

        Args:
            label: Class of which each has an object; None for all images.
            start: How many are passed over.
            count: How many at most.

        Raises:
            RefusedError: there is no such class, or a number is out of range.
        """
        if start < 0 or not 1 <= count <= MOST:
            raise RefusedError(400, f"from must be 0 or more, count from 1 to {MOST}")
        if label is None:
            total = len(self.index)
            rows = list(range(total)[start : start + count])
        elif 0 <= label < len(self.index.classes):
            of_class = self._rows[self._starts[label] : self._starts[label + 1]]
            total, rows = len(of_class), of_class[start : start + count].tolist()
        else:
            raise RefusedError(404, f"there is no class {label}")
        return {"total": total, "images": [self._entry(row) for row in rows]}

    def _entry(self, row: int) -> dict[str, Any]:
        names: list[str] = []
        if not self.index.is_folder:  # a row of a folder opens its image
            names = [self.class_name(item.label) for item in self.index[row].objects]
        shown = list(dict.fromkeys(name for name in names if name))
        return {"row": row, "name": self.name(row), "classes": shown[:6]}

    def name(self, row: int) -> str:
        """The image's file name."""
        return PurePath(self.index.image_name(row)).name

    def class_name(self, label: int | None) -> str:
        """The name of a class; empty without one."""
        return self.index.classes[label] if label is not None and 0 <= label < len(self.index.classes) else ""

    def label_of(self, row: int, number: int) -> int | None:
        """The class of an object of the index; None without one."""
        try:
            label = self.index[row].objects[number].label
        except (DataError, IndexError):
            return None
        return label if self.class_name(label) or label == 0 else None
