"""Images and annotations that a file lists apart, put together in the order of the images with bounded
memory.

Annotations may stand in any order, before the images or behind them. Both are written to a temporary file, in
blocks of consecutive images, and a block is read back when it is asked for. What stays in memory grows with
the images only: 16 bytes each where they are called by numbers of 64 bits (a sorted table), about 150 where
by text or larger numbers (a dict). The file has no name, so that it is gone with the process, however it
ends; it lies in the system's folder for temporary files (`TMPDIR`), and up to `IN_MEMORY` bytes are not
written at all.
"""

from __future__ import annotations

import marshal
import tempfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from odis.errors import DataError

BLOCK = 8192
"""Images of a block."""

IN_MEMORY = 64 * 2**20

_RECORDS = 2**19  # annotations held before they are written

_PARCELS = 16  # lists of annotations held before they are written, if some do not fit into a record

_INTEGERS = {int, bool}

_RANGE = np.iinfo(np.int64)

ANNOTATION = np.dtype(
    [
        ("place", np.int32),
        ("crowd", np.bool_),
        ("more", np.bool_),
        ("number", np.int64),
        ("category", np.int64),
        ("box", np.float64, 4),
    ]
)
"""What is kept of an annotation: the place of its image in the block, its numbers, its box (x0, y0, x1, y1),
and whether there is more.
"""

Orphan = Callable[[np.void, Any, Any], None]


class AnnotationJoin:
    """The images of a file and the annotations of each. Fill it with `add_...`, then `close` it, then ask for
    blocks.

    Args:
        path: The file, for messages.
        orphan: Called with every annotation of an image that is not listed: its record, what more there is,
            and what it calls the image.
        same: What is equal for entries of one image, from what is kept of it; None of what equals no other.
            Annotations of all such entries come with the first.
    """

    def __init__(
        self, path: Path, orphan: Orphan, same: Callable[[tuple[Any, ...]], str | None] | None = None
    ) -> None:
        self._path, self._orphan, self._same = path, orphan, same
        self._places = _Places()
        self._keys = array("q")  # a number for `same` of each image
        self._firsts: np.ndarray | None = None  # of each image: the position of the first that is the same
        # - open as long as the object lives
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        self._end = 0
        self._images: list[tuple[int, int]] = []  # of each block: where it is in the file, and its length
        self._annotations: dict[
            int, array[int]
        ] = {}  # of each block that has any: where a part is, and the lengths of its two halves
        self._waiting: list[tuple[int, int]] = []  # parts with annotations that came before the images
        self._rest: list[tuple[Any, ...]] = []  # images of the block that is not full
        self._held: list[
            tuple[np.ndarray, np.ndarray, np.ndarray]
        ] = []  # annotations to be written: position of the image, record, more

    def __len__(self) -> int:
        """How many images there are, those listed again too."""
        return len(self._places)

    def add_images(self, ids: list[Any], rows: list[tuple[Any, ...]]) -> None:
        """The next images: what they are called, an integer or text; and what is to be kept of them, a tuple
        of what JSON holds.
        """
        self._places.add(ids)
        if self._same is not None:
            self._keys.extend(map(hash, map(self._same, rows)))
        self._rest += rows
        while len(self._rest) >= BLOCK:
            self._images.append(self._write(self._dumped(self._rest[:BLOCK])))
            del self._rest[:BLOCK]

    def add_annotations(self, images: list[Any], records: np.ndarray, more: list[Any]) -> None:
        """The next annotations. Images are complete now, or come later.

        Args:
            images: What their images are called.
            records: `ANNOTATION` (n,), without `place`.
            more: What else is kept of those whose record has `more`: what JSON holds, tuples too.
        """
        if len(self):
            self._distribute(images, records, more)
        else:
            self._waiting.append(self._write(self._dumped((images, records.tobytes(), more))))

    def close(self) -> None:
        """Say that all were added."""
        self._find_same()
        self._images.append(self._write(self._dumped(self._rest)))
        self._rest = []
        for part in self._waiting:
            images, records, more = self._read(part)
            self._distribute(images, np.frombuffer(records, ANNOTATION).copy(), more)
        self._flush()
        self._waiting = []

    def repeated(self) -> Iterator[int]:
        """Positions of images listed again, rising; annotations are those of the first."""
        return iter(self._places.repeated().tolist())

    def position(self, one: Any) -> int:
        """Where the annotations go that name an image so: to the first that is called so, or is the same."""
        found = int(self._places.find([one])[0])
        return found if self._firsts is None else int(self._firsts[found])

    def same(self) -> Iterator[tuple[int, int]]:
        """Positions of images that are the same as an earlier one, and of the first; rising."""
        if self._firsts is not None:
            for position in np.flatnonzero(self._firsts != np.arange(len(self._firsts))).tolist():
                yield position, int(self._firsts[position])

    def _find_same(self) -> None:
        """Fill `_firsts`, if some images are the same; all images are here."""
        if not self._keys:
            return
        assert self._same is not None
        keys = np.array(self._keys, np.int64)
        self._keys = array("q")
        order = np.argsort(keys, kind="stable")
        equal = keys[order][1:] == keys[order][:-1]
        if not equal.any():
            return
        maybe = np.zeros(len(keys), bool)  # equal numbers may be those of different images
        maybe[order[1:][equal]] = maybe[order[:-1][equal]] = True
        maybe[self._places.repeated()] = False
        firsts = np.arange(len(keys))
        met: dict[str, int] = {}
        for k in np.unique(np.flatnonzero(maybe) // BLOCK).tolist():
            images = self._read(self._images[k]) if k < len(self._images) else self._rest
            for place in np.flatnonzero(maybe[k * BLOCK : (k + 1) * BLOCK]).tolist():
                one = self._same(images[place])
                if one is not None:
                    firsts[k * BLOCK + place] = met.setdefault(one, k * BLOCK + place)
        self._firsts = firsts

    def images(self, k: int) -> list[tuple[Any, ...]]:
        """What was kept of images `k * BLOCK` and on."""
        images: list[tuple[Any, ...]] = self._read(self._images[k])
        return images

    def block(self, k: int) -> tuple[list[tuple[Any, ...]], np.ndarray, list[Any]]:
        """What was kept of images `k * BLOCK` and on; and of their annotations: `ANNOTATION` (n,), and what
        more there is or None.

        Annotations are in the order of the images, those of one image in the order of the file.
        """
        parts = self._annotations.get(k, array("Q"))
        records, more = [np.zeros(0, ANNOTATION)], [np.zeros(0, object)]
        for start, length, rest in zip(parts[::3], parts[1::3], parts[2::3]):
            self._file.seek(start)
            records.append(np.frombuffer(self._file.read(length), ANNOTATION))
            more.append(_spread(records[-1], marshal.loads(self._file.read(rest)) if rest else []))
        found, others = np.concatenate(records), np.concatenate(more)
        order = np.argsort(found["place"], kind="stable")
        return self.images(k), found[order], others[order].tolist()

    def _distribute(self, images: list[Any], records: np.ndarray, more: list[Any]) -> None:
        self._find_same()
        positions, others = self._places.find(images), _spread(records, more)
        if self._firsts is not None:
            positions = np.where(positions < 0, positions, self._firsts[positions])
        for i in np.flatnonzero(positions < 0).tolist():
            self._orphan(records[i], others[i], images[i])
        self._held.append((positions, records, others))
        heavy = sum(bool(records["more"].any()) for _, records, _ in self._held)
        if heavy >= _PARCELS or sum(len(positions) for positions, _, _ in self._held) >= _RECORDS:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        positions, records, others = (np.concatenate(parts) for parts in zip(*self._held))
        self._held = []
        order = np.argsort(positions, kind="stable")[np.count_nonzero(positions < 0) :]
        blocks, places = np.divmod(positions[order], BLOCK)
        records, others = records[order], others[order]
        records["place"] = places
        starts = np.flatnonzero(np.diff(blocks, prepend=-1))
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(blocks)]):
            part = records[start:stop]
            more = others[start:stop][part["more"]].tolist()
            rest = self._dumped(more) if more else b""
            at, length = self._write(part.tobytes() + rest)
            self._annotations.setdefault(int(blocks[start]), array("Q")).extend(
                (at, length - len(rest), len(rest))
            )

    def _dumped(self, content: Any) -> bytes:
        try:
            return marshal.dumps(
                content, 2
            )  # later versions of the format look for what occurs twice, which costs more than it saves
        except ValueError as error:
            raise DataError(
                f"{self._path}: cannot be read (lists or objects in each other, too deep)"
            ) from error

    def _write(self, data: bytes) -> tuple[int, int]:
        try:
            self._file.seek(self._end)
            self._file.write(data)
        except OSError as error:
            raise DataError(
                f"a temporary file in {tempfile.gettempdir()} cannot be written ({error.strerror or error})"
            ) from error
        part = self._end, len(data)
        self._end += len(data)
        return part

    def _read(self, part: tuple[int, int]) -> Any:
        self._file.seek(part[0])
        return marshal.loads(self._file.read(part[1]))


def _spread(records: np.ndarray, more: list[Any]) -> np.ndarray:
    """object (n,): what more there is of each annotation, None where there is nothing."""
    spread = np.full(len(records), None, object)
    where = np.flatnonzero(records["more"]) if more else ()
    for i, one in zip(where, more):
        spread[i] = one
    return spread


class _Places:
    """From what images are called to their positions, the first one where it was called so twice."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._other: dict[Any, int] | None = (
            None  # instead of the array, as soon as something is no integer of 64 bits
        )
        self._length = 0
        self._again: list[int] = []  # positions, with `_other`
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return self._length

    def add(self, ids: list[Any]) -> None:
        if self._other is None and not are_integers(ids):
            self._other = {}
            self._fill(self._numbers.tolist(), 0)
            self._numbers = array("q")
        if self._other is None:
            self._numbers.extend(ids)
        else:
            self._fill(ids, self._length)
        self._length += len(ids)

    def find(self, ids: list[Any]) -> np.ndarray:
        """int64 (n,): positions, -1 for what is called nothing here."""
        if self._other is not None:
            return np.array([self._other.get(one, -1) for one in ids], np.int64)
        numbers, order = self._table()
        if not are_integers(ids):
            known = [one if are_integers([one]) else None for one in ids]
            found = self.find([one or 0 for one in known])
            return np.where([one is None for one in known], -1, found)
        asked = np.array(ids, np.int64)
        at = np.searchsorted(numbers, asked)
        at[at == len(numbers)] = 0
        return np.where(numbers[at] == asked, order[at], -1) if len(numbers) else np.full(len(ids), -1)

    def repeated(self) -> np.ndarray:
        """int64: positions of what was called as something before, rising."""
        if self._other is not None:
            return np.array(self._again, np.int64)
        numbers, order = self._table()
        return np.sort(order[1:][numbers[1:] == numbers[:-1]])

    def _fill(self, ids: list[Any], start: int) -> None:
        assert self._other is not None
        for position, one in enumerate(ids, start=start):
            if self._other.setdefault(one, position) != position:
                self._again.append(position)

    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers in order, and their positions; where a number is there twice, the first position comes
        first.
        """
        if self._sorted is None:
            numbers = np.array(self._numbers, np.int64)
            order = np.argsort(numbers, kind="stable")
            self._sorted = numbers[order], order
            self._numbers = array("q")
        return self._sorted


def are_integers(ids: list[Any]) -> bool:
    """Whether all are integers of 64 bits."""
    return set(map(type, ids)) <= _INTEGERS and (
        not ids or (min(ids) >= _RANGE.min and max(ids) <= _RANGE.max)
    )
