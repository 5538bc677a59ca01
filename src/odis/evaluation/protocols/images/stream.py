"""Pictures read by worker processes, shown to a network batch by batch, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

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
    read = run.settings.read
    what = f"{encoder.source or 'model'}, {side}"
    numbers: list[int] = []
    parts: list[np.ndarray] = []
    skipped = 0
    for number, item in enumerate(read_items(Pictures(paths, view, turn=turn), read)):
        if isinstance(item, Skipped):
            if read.strict:
                raise DataError(f"{item.what}: {item.why}")
            run.note_skipped([item])
            skipped += 1
        else:
            numbers.append(number)
            parts.append(item)
        if len(parts) == read.batch_size or (parts and number == len(paths) - 1):
            yield PictureBatch(numbers, np.stack(parts))
            numbers, parts = [], []
        if run.progress is not None:
            run.progress(what, number + 1, len(paths))
    run.sides[side] = run.sides.get(side, {}) | {"images": len(paths) - skipped, "skipped": skipped}
