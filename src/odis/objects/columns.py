"""Objects of many images as columns of arrays, of which an image's objects are a stretch.

Where annotations are checked together, to make each an object in Python would cost more than all else that is
done with it. A stretch passes for the tuple of its objects wherever one is wanted, and makes them when they
are looked at; `table.to_batch` takes its arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast, overload

import numpy as np

from odis.types import Object


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Objects one after the other: `boxes` float64 (n, 4), `labels` int64 (n,), and `masks` of each, or None
    if none has any.
    """

    boxes: np.ndarray
    labels: np.ndarray
    masks: list[bytes | None] | None = None

    def between(self, start: int, stop: int) -> tuple[Object, ...]:
        """Objects `start` to `stop`, as what equals their tuple (a `ObjectSlice`)."""
        return cast("tuple[Object, ...]", ObjectSlice(self, start, stop))


class ObjectSlice(Sequence[Object]):
    """Some consecutive objects of `columns`; it equals, and is shown as, the tuple of them."""

    __slots__ = ("columns", "start", "stop")

    def __init__(self, columns: Columns, start: int, stop: int) -> None:
        self.columns, self.start, self.stop = columns, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    @overload
    def __getitem__(self, k: int) -> Object: ...
    @overload
    def __getitem__(self, k: slice) -> tuple[Object, ...]: ...
    def __getitem__(self, k: int | slice) -> Object | tuple[Object, ...]:
        return self._made()[k]

    def __iter__(self) -> Iterator[Object]:
        return iter(self._made())

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, tuple | ObjectSlice) and self._made() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._made())

    def __repr__(self) -> str:
        return repr(self._made())

    def _made(self) -> tuple[Object, ...]:
        part, columns = slice(self.start, self.stop), self.columns
        masks = columns.masks[part] if columns.masks is not None else [None] * len(self)
        boxes = map(tuple, columns.boxes[part].tolist())
        return tuple(map(Object, boxes, masks, columns.labels[part].tolist()))
