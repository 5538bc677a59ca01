"""Finding objects in all images of a corpus: in parts that can be lost and made again, on this machine or on many.

What finds them is a `Finder`: a detector, or discovery in a network's features. It knows arrays only; here images are read, failures
kept to the image that caused them, and what was found checked and written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from odis.errors import ConfigError, DataError
from odis.objects.build import Summary
from odis.objects.clean import SkippedObject, object_problem, reason
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex
from odis.objects.parts import Parts, is_made
from odis.types import ImageObjects, Object, Skipped

Engine = Literal["local", "ray"]

_GIVE_UP = 16  # images in a row, and none before, on which a finder fails: it is the finder then, not the images

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
            return np.asarray(load_image(self.index.image_path(row), size))
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
                raise DataError(f"{self.finder.provenance}: failed on each of its first {_GIVE_UP} images; on {path}: {why}") from error
            found.skipped.append(Skipped(path, f"finding objects in it failed ({why})"))
            return
        self._ever_worked = True
        for (row, pixels), objects in zip(batch, answers, strict=True):
            self._keep(row, pixels, objects, found)

    def _keep(self, row: int, pixels: np.ndarray, objects: Iterable[Object], found: Found) -> None:
        height, width = pixels.shape[:2]
        path, kept = self.index.image_path(row), []
        for k, item in enumerate(objects):
            problem = object_problem(item, width, height, len(self.finder.classes))
            if problem is None:
                kept.append(item)
            else:
                found.skipped.append(SkippedObject(f"{path}, found object {k}", problem))
        found.rows.append(ImageObjects(self.index.image_name(row), width, height, tuple(kept)))


def count_parts(index: ObjectIndex, part_size: int) -> int:
    """How many parts the images of an index make."""
    return -(-len(index) // part_size)


def find_objects(
    index: ObjectIndex,
    out: Path,
    build: Callable[[], Finder],
    *,
    settings: dict[str, Any],
    batch_size: int = 8,
    part_size: int = 512,
    engine: Engine = "local",
    workers: int = 1,
    gpus: float = 0,
    report: Callable[[Skipped], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary | None:
    """Find objects in every image and write the index; the same call goes on where one was interrupted.

    An image that cannot be read, or on which the finder fails, is left out, counted and reported. An image in which nothing is found is
    written without objects.

    Args:
        index: The images.
        out: The index to write: a file (`.parquet`) or a folder of them.
        build: Makes the finder; picklable, since Ray makes one in each of its workers.
        settings: All that the result depends on, besides the images: plain JSON values.
        batch_size: Images the finder is given at once.
        part_size: Images a part: what is lost at most by an interruption.
        engine: `local`, or `ray`: Ray Data, on the cluster that RAY_ADDRESS names or on this machine.
        workers: Finders that work at the same time (`ray` only).
        gpus: GPUs, or a share of one, for each of Ray's workers.
        report: Called with everything left out, when its part is done.
        progress: Called with the images that are done and all images.

    Returns:
        What was found; None if the index is there already, made with the same settings of the same images.

    Raises:
        ConfigError: For sizes under 1.
        DataError: No image could be used; the finder fails on all of them; something else is at `out`; it cannot be written.
        OdisError: Ray is not installed.
    """
    for name, value in (("batch-size", batch_size), ("part-size", part_size), ("workers", workers)):
        if value < 1:
            raise ConfigError(f"{name}: is {value}, must be 1 or more")
    if engine == "local" and workers > 1:
        raise ConfigError(f"workers: is {workers}, which goes with --engine ray; the local engine is one")
    settings = {**settings, "images": index.fingerprint(), "batch_size": batch_size, "part_size": part_size}
    total = count_parts(index, part_size)
    if is_made(out, settings):
        return None
    parts = Parts(out, root=index.root, settings=settings)
    pending = [k for k in range(total) if k not in parts.done()]
    if engine == "ray":
        from odis.objects.ray_engine import ray_parts

        made = ray_parts(pending, index, build, part_size=part_size, batch_size=batch_size, workers=workers, gpus=gpus)
    else:
        made = _local_parts(pending, index, build, part_size, batch_size)
    done = total - len(pending)
    if progress is not None:
        progress(min(len(index), done * part_size), len(index))
    for k, found in made:
        write_part(parts, k, found)
        if report is not None:
            for item in found.skipped:
                report(item)
        done += 1
        if progress is not None:
            progress(min(len(index), done * part_size), len(index))
    return finish(parts, total)


def _local_parts(
    pending: list[int], index: ObjectIndex, build: Callable[[], Finder], part_size: int, batch_size: int
) -> Iterator[tuple[int, Found]]:
    if pending:
        worker = PartWorker(index, build(), part_size=part_size, batch_size=batch_size)
        for k in pending:
            yield k, worker(k)


def write_part(parts: Parts, part: int, found: Found) -> None:
    """Write a part with its account.

    Raises:
        DataError: See `Parts.write`.
    """
    objects = sum(isinstance(item, SkippedObject) for item in found.skipped)
    account = {
        "written": len(found.rows),
        "kept": sum(len(row.objects) for row in found.rows),
        "objects_skipped": objects,
        "images_skipped": len(found.skipped) - objects,
        "skipped": [[item.what, item.why] for item in found.skipped],
        "provenance": found.provenance,
    }
    parts.write(part, found.rows, account, provenance=found.provenance, classes=found.classes)


def finish(parts: Parts, total: int) -> Summary:
    """Make the index of all parts and say what it holds.

    Raises:
        DataError: There is no image in it: then it is not made, and nothing stays; or it cannot be written.
    """
    accounts = [parts.account(k) for k in range(total)]
    summary = Summary(str(parts.out), accounts[0]["provenance"] if accounts else "")
    for account in accounts:
        for name in ("written", "kept", "objects_skipped", "images_skipped"):
            setattr(summary, name, getattr(summary, name) + account[name])
    summary.images = summary.written + summary.images_skipped
    summary.objects = summary.kept + summary.objects_skipped
    if not summary.written:
        first = next((item for account in accounts for item in account["skipped"]), None)
        parts.discard()
        raise DataError(f"{parts.root}: no image that can be used" + (f"; the first: {first[0]}: {first[1]}" if first else ""))
    parts.finish(total)
    return summary
