"""Features of a whole object index, chunk by chunk, so that an index of any size passes through bounded
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from odis.data.workers import watched
from odis.errors import DataError
from odis.inference.encoder import Encoder
from odis.inference.queries import IndexRows, Query, RowQueries
from odis.objects.index import ObjectIndex
from odis.types import Skipped

CHUNK = 2048  # images


@dataclass(slots=True)
class IndexFeatures:
    """Features of the n objects (or images) of an object index that could be used, in the order of the rows
    that were asked for.
    """

    features: Tensor  # float32 (n, D), on the CPU
    labels: Tensor  # int64 (n,), -1 where there is no label, or for an image not exactly one
    label_sets: list[tuple[int, ...]]  # all labels of each; an image has those of its objects
    rows: Tensor  # int64 (n,), the image: a row of the index
    numbers: Tensor  # int64 (n,), the object: its place in that row; -1 for the image as one object
    boxes: Tensor  # float32 (n, 4)
    images: int  # images that were read
    skipped: list[Skipped]

    def __len__(self) -> int:
        return len(self.features)

    def targets(self, classes: int) -> Tensor:
        """bool (n, classes): which labels each has."""
        targets = torch.zeros(len(self), classes, dtype=torch.bool)
        for i, labels in enumerate(self.label_sets):
            targets[i, list(labels)] = True
        return targets

    def taken(self, which: Tensor) -> IndexFeatures:
        """The objects at `which`, bool (n,) or positions."""
        at = which.nonzero()[:, 0] if which.dtype == torch.bool else which
        tensors = (
            self.features[at],
            self.labels[at],
            [self.label_sets[i] for i in at.tolist()],
            self.rows[at],
        )
        return IndexFeatures(*tensors, self.numbers[at], self.boxes[at], self.images, self.skipped)


def stream_index(
    encoder: Encoder,
    index: ObjectIndex,
    mode: str = "masked-attention",
    *,
    images: bool = False,
    rows: Sequence[int] | None = None,
    size: int | None = None,
    context: float | None = None,
    batch_size: int = 64,
    workers: int = 0,
    chunk: int = CHUNK,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[IndexFeatures]:
    """Features of every object of an index, read image by image, as chunks; what is held is a chunk or two.

    Args:
        encoder: What to ask.
        index: Images and objects.
        mode: One of `MODES`.
        images: Ask about each image as one object, whatever objects it has.
        rows: Rows of the index to take, in this order; by default all.
        size: See `Encoder.embed`.
        context: See `Encoder.embed`.
        batch_size: Queries answered at once.
        workers: Processes that decode and resize; 0 does it here.
        chunk: Images a chunk.
        strict: Raise for the first image or object that cannot be used, instead of naming and counting it.
        progress: Called after each image with the number of images so far.

    Yields:
        Chunk after chunk, in order; the last may be smaller. No rows give no chunk.

    Raises:
        DataError: with `strict`.
        OdisError: see `Encoder.asker`.
    """
    asker = encoder.asker(mode, size, context)
    rows = range(len(index)) if rows is None else rows
    loader: Any = DataLoader(
        IndexRows(index, rows, asker, images), batch_size=None, num_workers=workers, collate_fn=_as_it_is
    )
    read = watched(iter(loader), workers)
    for start in range(0, len(rows), chunk):
        yield _chunk(encoder, read, rows[start : start + chunk], start, asker, batch_size, strict, progress)


def _chunk(
    encoder: Encoder,
    read: Iterator[RowQueries],
    rows: Sequence[int],
    first: int,
    asker: Any,
    batch_size: int,
    strict: bool,
    progress: Callable[[int], None] | None,
) -> IndexFeatures:
    """The next `len(rows)` images."""
    label_sets: list[tuple[int, ...]] = []
    places: list[tuple[int, int]] = []  # row and number of each object
    boxes: list[tuple[float, ...]] = []
    skipped: list[Skipped] = []
    count = 0

    def queries() -> Iterator[tuple[range, Query]]:
        nonlocal count
        for position, row in enumerate(rows):
            item = next(read)
            if strict and item.skipped:
                raise DataError(f"{item.skipped[0].what}: {item.skipped[0].why}")
            skipped.extend(item.skipped)
            count += item.read
            start = len(label_sets)
            label_sets.extend(item.labels)
            boxes.extend(item.boxes)
            places.extend((row, number) for number in item.numbers)
            for i, query in enumerate(item.queries):
                # One query answers for all objects of the image, or each for its own.
                yield (
                    range(start, len(label_sets))
                    if len(item.queries) == 1
                    else range(start + i, start + i + 1),
                    query,
                )
            if progress is not None:
                progress(first + position + 1)

    parts: list[tuple[list[int], Tensor]] = []
    for asked, objects, _ in encoder.answers(queries(), asker, batch_size):
        objects = objects.float().cpu()
        answers = [
            objects[i, : len(query.masks)].expand(len(span), -1) for i, (span, query) in enumerate(asked)
        ]
        parts.append(([n for span, _ in asked for n in span], torch.cat(answers)))
    features = torch.empty(len(label_sets), encoder.width(asker.mode))
    while parts:  # freed as they are copied
        positions, part = parts.pop()
        features[torch.tensor(positions)] = part
    labels = torch.tensor([of_one[0] if len(of_one) == 1 else -1 for of_one in label_sets], dtype=torch.int64)
    row_of, number_of = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).unbind(1)
    at = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return IndexFeatures(features, labels, label_sets, row_of, number_of, at, count, skipped)


def embed_index(
    encoder: Encoder, index: ObjectIndex, mode: str = "masked-attention", **how: Any
) -> IndexFeatures:
    """All of `stream_index` as one; arguments are its. All features are held in memory: about 8 D bytes an
    object at the peak.
    """
    return joined(list(stream_index(encoder, index, mode, **how)), encoder.width(mode))


def joined(chunks: Sequence[IndexFeatures], width: int) -> IndexFeatures:
    """Chunks as one; of no chunk none, of `width` features."""
    if not chunks:
        none = torch.empty(0, dtype=torch.int64)
        return IndexFeatures(torch.empty(0, width), none, [], none, none, torch.empty(0, 4), 0, [])
    features, labels, rows, numbers, boxes = (
        torch.cat([getattr(c, name) for c in chunks])
        for name in ("features", "labels", "rows", "numbers", "boxes")
    )
    sets, skipped = [s for c in chunks for s in c.label_sets], [s for c in chunks for s in c.skipped]
    return IndexFeatures(features, labels, sets, rows, numbers, boxes, sum(c.images for c in chunks), skipped)


def _as_it_is(item: Any) -> Any:
    return item
