"""A part of a corpus: its images are read, something finds their objects, and what it found is checked.

What finds them is a `Finder`: a detector, or discovery in a network's features. It knows arrays only. A
failure stays with the image that caused it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from odis.errors import DataError
from odis.objects.clean import reason, usable_objects
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex
from odis.types import ImageObjects, Object, Skipped

_GIVE_UP = (
    16  # images in a row, and none before, on which a finder fails: it is the finder then, not the images
)

_READERS = 4  # threads that decode ahead; Pillow decodes outside of Python's lock


class Finder(Protocol):
    """What finds objects in images.

    Attributes:
        provenance: `detected:NAME@REVISION` or `discovered:METHOD@MODEL`.
        classes: Class names; a label is a position in it. Empty if it knows none.
    """

    provenance: str
    classes: list[str]

    def __call__(self, images: list[np.ndarray]) -> list[list[Object]]:
        """The objects of each image, in pixels of it.

        Args:
            images: uint8 (height, width, 3), RGB, each of its own size.
        """
        ...


@dataclass(slots=True)
class Found:
    """A part: its images with their objects, what was left out, and where the objects came from."""

    rows: list[ImageObjects] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    provenance: str = ""
    classes: list[str] = field(default_factory=list)


class PartWorker:
    """Makes parts of an index: the same on this machine, on a rank, and in a worker of Ray.

    Args:
        index: The images; objects that it has are not looked at.
        finder: What finds objects.
        part_size: Images a part.
        batch_size: Images the finder is given at once.
    """

    def __init__(self, index: ObjectIndex, finder: Finder, *, part_size: int, batch_size: int) -> None:
        self.index, self.finder, self.part_size, self.batch_size = index, finder, part_size, batch_size
        self._failed_in_a_row, self._ever_worked = 0, False

    def __call__(self, part: int) -> Found:
        """The part with this number, counted from 0.

        Raises:
            DataError: The finder failed on each of the first images it was given.
        """
        found = Found(provenance=self.finder.provenance, classes=list(self.finder.classes))
        rows = range(part * self.part_size, min(len(self.index), (part + 1) * self.part_size))
        with ThreadPoolExecutor(_READERS) as readers:
            batch: list[tuple[int, np.ndarray]] = []
            for row, pixels in self._read(rows, readers):
                if isinstance(pixels, DataError):
                    path = self.index.image_path(row)
                    found.skipped.append(Skipped(path, reason(pixels, path)))
                    continue
                batch.append((row, pixels))
                if len(batch) == self.batch_size:
                    self._find(batch, found)
                    batch = []
            if batch:
                self._find(batch, found)
        return found

    def _read(self, rows: range, readers: ThreadPoolExecutor) -> Iterator[tuple[int, np.ndarray | DataError]]:
        """Pixels of each row in order, or why there are none; two batches are read ahead."""
        waiting: list[tuple[int, Future[np.ndarray | DataError]]] = []
        for row in rows:
            waiting.append((row, readers.submit(self._pixels, row)))
            if len(waiting) > 2 * self.batch_size:
                first, pixels = waiting.pop(0)
                yield first, pixels.result()
        for row, pixels in waiting:
            yield row, pixels.result()

    def _pixels(self, row: int) -> np.ndarray | DataError:
        try:
            size = None
            if not self.index.is_folder:
                known = self.index[row]
                size = (known.width, known.height)
            return np.array(load_image(self.index.image_path(row), size))
        except DataError as error:
            return error

    def _find(self, batch: Sequence[tuple[int, np.ndarray]], found: Found) -> None:
        try:
            answers = self.finder([pixels for _, pixels in batch])
        except Exception as error:  # a finder is somebody else's network: it raises whatever it likes
            if len(batch) > 1:
                for one in batch:
                    self._find([one], found)
                return
            path = self.index.image_path(batch[0][0])
            why = " ".join(str(error).split()) or type(error).__name__
            self._failed_in_a_row += 1
            if not self._ever_worked and self._failed_in_a_row >= _GIVE_UP:
                raise DataError(
                    f"{self.finder.provenance}: failed on each of its first {_GIVE_UP} images; on {path}: "
                    f"{why}"
                ) from error
            found.skipped.append(Skipped(path, f"finding objects in it failed ({why})"))
            return
        self._ever_worked = True
        for (row, pixels), objects in zip(batch, answers, strict=True):
            self._keep(row, pixels, objects, found)

    def _keep(self, row: int, pixels: np.ndarray, objects: Iterable[Object], found: Found) -> None:
        height, width = pixels.shape[:2]
        answer = ImageObjects(self.index.image_name(row), width, height, tuple(objects))
        usable = usable_objects(answer, len(self.finder.classes))
        found.skipped += usable.skipped(self.index.image_path(row), "found object")
        found.rows.append(usable.row)
