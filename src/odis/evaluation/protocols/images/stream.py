"""Pictures read by worker processes, shown to a network batch by batch, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar, cast

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from odis.config.query import ReadConfig
from odis.data.workers import WorkerLoader
from odis.errors import DataError
from odis.evaluation.protocols.images.views import PictureView
from odis.evaluation.runner import EvaluationRun
from odis.inference import Encoder
from odis.objects.images import load_image, opened, reason_of, to_rgb
from odis.types import Box, Skipped

T = TypeVar("T")
R = TypeVar("R")


def read_picture(path: str, *, turn: bool = True) -> Image.Image:
    """An image as 8-bit RGB.

    Args:
        path: The file.
        turn: Turn it as its EXIF says, as a viewer does; the references do not.

    Raises:
        DataError: Naming the file.
    """
    if turn:
        return load_image(path)
    with opened(path) as image:
        try:
            return to_rgb(image, path)
        except DataError:
            raise
        except Exception as error:  # a decoder raises almost anything on bad bytes
            raise DataError(f"{path}: cannot be decoded ({reason_of(error)})") from error


class Pictures(Dataset["np.ndarray | Skipped"]):
    """Images as a protocol shows them, each cut to its box first if it has one; in the place of one that
    cannot be read, why.
    """

    def __init__(
        self,
        paths: Sequence[str],
        view: PictureView,
        *,
        turn: bool = True,
        boxes: Sequence[Box | None] | None = None,
    ) -> None:
        self.paths, self.view, self.turn, self.boxes = paths, view, turn, boxes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray | Skipped:
        path = self.paths[i]
        try:
            picture = read_picture(path, turn=self.turn)
            box = None if self.boxes is None else self.boxes[i]
            return self.view(picture if box is None else picture.crop(box))
        except DataError as error:
            return Skipped(path, str(error).removeprefix(f"{path}: "))


def read_items(dataset: Dataset[T], read: ReadConfig) -> Iterator[T]:
    """The items of a dataset in order, made by `read.workers` processes."""
    return iter(WorkerLoader(dataset, workers=read.workers, batch_size=None))


def read_batches(
    run: EvaluationRun, dataset: Dataset[T | Skipped], what: str
) -> Iterator[list[tuple[int, T]]]:
    """Items of a dataset behind their numbers, in order, `--batch-size` at a time. Those that cannot be read
    are skipped and named.

    Args:
        run: Is told what was skipped.
        dataset: Has a length.
        what: What the progress is called.

    Raises:
        DataError: With `--strict`, for the first that cannot be read.
    """
    read, count = run.settings.read, length_of(dataset)
    waiting: list[tuple[int, T]] = []
    for number, item in enumerate(read_items(dataset, read)):
        if isinstance(item, Skipped):
            run.skip(item)
        else:
            waiting.append((number, item))
        if waiting and (len(waiting) == read.batch_size or number == count - 1):
            yield waiting
            waiting = []
        if run.progress is not None:
            run.progress(what, number + 1, count)


def read_steps(run: EvaluationRun, dataset: Dataset[T | Skipped], batch: int) -> Iterator[list[T]]:
    """Items of a dataset in order, for one step of a training after the other: `batch` each, the last may
    have fewer, less those that cannot be read.

    Raises:
        DataError: With `--strict`, for the first that cannot be read.
    """
    items = read_items(dataset, run.settings.read)
    for _ in range(0, length_of(dataset), batch):
        found: list[T] = []
        for item in islice(items, batch):
            if isinstance(item, Skipped):
                run.skip(item)
            else:
                found.append(item)
        yield found


def in_order(
    run: EvaluationRun,
    dataset: Dataset[T | Skipped],
    numbers: Sequence[int],
    finish: Callable[[list[T]], Iterable[R]],
) -> Iterator[tuple[int, R | Skipped]]:
    """What becomes of items that are shown `--batch-size` at a time, behind their numbers and in order; in
    the place of one that cannot be read, why. What `FeatureStore.stream` makes.

    Args:
        run: Says how items are read.
        dataset: As many items as there are numbers.
        numbers: What they are called.
        finish: What becomes of some items.
    """
    waiting: list[tuple[int, T | Skipped]] = []
    shown: list[T] = []
    for number, item in zip(numbers, read_items(dataset, run.settings.read), strict=True):
        waiting.append((number, item))
        if not isinstance(item, Skipped):
            shown.append(item)
        if len(shown) == run.settings.read.batch_size or number == numbers[-1]:
            made = iter(finish(shown) if shown else ())
            for n, one in waiting:
                yield n, one if isinstance(one, Skipped) else next(made)
            waiting, shown = [], []


def length_of(dataset: Dataset[T]) -> int:
    """How many items a dataset has."""
    return len(cast(Sized, dataset))


@dataclass(slots=True)
class PictureBatch:
    """A batch of pictures."""

    numbers: list[int]  # which pictures, of those asked for
    pixels: np.ndarray  # uint8 (B, 3, H, W)


def show_pictures(
    run: EvaluationRun,
    encoder: Encoder,
    paths: Sequence[str],
    view: PictureView,
    side: str,
    *,
    turn: bool = True,
) -> Iterator[PictureBatch]:
    """Batches of pictures of one size, in order; those that cannot be read are skipped, named and counted.

    Args:
        run: Is told what was read, in `sides[side]`, and skipped.
        encoder: Whom they are shown to, for the progress.
        paths: The files.
        view: How they are shown; every view has the same size.
        side: `train` or `test`.
        turn: See `read_picture`.

    Raises:
        DataError: With `--strict`, for the first picture that cannot be read.
    """
    shown = 0
    for batch in read_batches(run, Pictures(paths, view, turn=turn), f"{encoder.source or 'model'}, {side}"):
        shown += len(batch)
        yield PictureBatch([number for number, _ in batch], np.stack([pixels for _, pixels in batch]))
    run.sides[side] = run.sides.get(side, {}) | {"images": shown, "skipped": len(paths) - shown}
