"""The nearest objects of an index: exact cosine similarity, one product with all features.

Objects are added part by part and can be searched as soon as they are embedded. `benchmarks/explore.py` has
the figures.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from odis.errors import DataError
from odis.report.features import Neighbour


class ObjectSearch:
    """Features of objects, searched by cosine similarity.

    Args:
        expected: How many objects will come; if more do, what is there is copied.
    """

    def __init__(self, expected: int = 0) -> None:
        self._room, self._count = expected, 0
        self._features = torch.empty(0, 0)  # float32 (room, D), rows of length 1; memory is used as it fills
        self._places = torch.empty(0, 2, dtype=torch.int64)  # (room, 2), row and number

    def __len__(self) -> int:
        return self._count

    def add(self, features: Tensor, rows: Tensor, numbers: Tensor) -> None:
        """Add objects.

        Args:
            features: float (n, D).
            rows: int64 (n,), rows of the index.
            numbers: int64 (n,), places of the objects in their rows.

        Raises:
            DataError: for features that are not finite, or of another width.
        """
        features = features.to(torch.float32)
        if not bool(features.isfinite().all()):
            raise DataError("features are not finite")
        if self._count and features.shape[1] != self._features.shape[1]:
            raise DataError(f"features of width {features.shape[1]} among {self._features.shape[1]}")
        end = self._count + len(features)
        if end > len(self._features) or not self._count:
            self._grow(max(end, self._room, 2 * len(self._features) * (self._count > 0)), features.shape[1])
        self._features[self._count : end] = F.normalize(features, dim=1)
        self._places[self._count : end] = torch.stack([rows, numbers], dim=1)
        self._count = end

    def _grow(self, room: int, width: int) -> None:
        features, places = torch.empty(room, width), torch.empty(room, 2, dtype=torch.int64)
        if self._count:
            features[: self._count] = self._features[: self._count]
            places[: self._count] = self._places[: self._count]
        self._features, self._places = features, places

    def nearest(self, feature: Tensor, count: int, other_than: int | None = None) -> list[Neighbour]:
        """The most similar objects, the nearest first; of equally similar ones the earlier first.

        Args:
            feature: float (D,).
            count: How many, if there are so many.
            other_than: A row whose objects are left out.
        """
        if not self._count:
            return []
        rows, numbers = self._places[: self._count].unbind(1)
        cosine = self._features[: self._count] @ F.normalize(feature.to(torch.float32), dim=0)
        if other_than is not None:
            cosine.masked_fill_(rows == other_than, -math.inf)
        found = cosine.topk(min(count, len(cosine))).indices
        # topk does not say in which order equal ones come, nor which of them at the last place.
        equal = (cosine >= cosine[found[-1]]).nonzero()[:, 0]  # in the order of the index
        order = equal[cosine[equal].sort(descending=True, stable=True).indices][:count]
        return [
            Neighbour(int(rows[i]), int(numbers[i]), float(cosine[i]))
            for i in order.tolist()
            if cosine[i] > -math.inf
        ]
