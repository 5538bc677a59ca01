"""An index whose images are those of one index and whose objects are those of another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from odis.errors import DataError
from odis.objects.index import WHOLE_IMAGE, ObjectIndex
from odis.types import ImageObjects


class Overlay(ObjectIndex):
    """The rows of `base`, in their order, with the objects found in their images.

    An image that `found` lacks, or every image if there is no `found`, has no object: the whole image stands
    for itself.

    Args:
        base: The images. What objects it has are not looked at.
        found: Objects of some or all of these images, in the same order, such as `corpus.find_objects`
            writes; or None.

    Raises:
        DataError: `found` has an image that `base` does not have, or has them in another order.
    """

    def __init__(self, base: ObjectIndex, found: ObjectIndex | None = None) -> None:
        provenance, classes = (WHOLE_IMAGE, []) if found is None else (found.provenance, found.classes)
        super().__init__(base.path, root=base.root, provenance=provenance, classes=classes)
        self.uri, self.base, self.found = base.uri, base, found
        self._row_of = np.full(len(base), -1, dtype=np.int64)
        if found is not None:
            self._align(found)

    def _align(self, found: ObjectIndex) -> None:
        position = 0
        for row in range(len(found)):
            name = found.image_name(row)
            while position < len(self.base) and self.base.image_name(position) != name:
                position += 1
            if position == len(self.base):
                raise DataError(f"{found.path}: {name} is not in {self.base.path}, or not in this order")
            self._row_of[position] = row
            position += 1

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, i: int) -> ImageObjects:
        row = self._row_of[self._position(i)]
        return replace(self.base[i], objects=()) if self.found is None or row < 0 else self.found[int(row)]

    def image_name(self, i: int) -> str:
        return self.base.image_name(i)

    def count_objects(self) -> int:
        return 0 if self.found is None else self.found.count_objects()

    def fingerprint(self) -> str:
        return self.base.fingerprint()
