"""Features of a whole object index, streamed in chunks: memory stays bounded whatever the index holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from odis.config.query import QueryConfig, ReadConfig
from odis.data.workers import WorkerLoader
from odis.errors import DataError
from odis.inference.encoder import Encoder
from odis.inference.queries import IndexRows, Query, QueryBuilder, RowQueries
from odis.objects.index import ObjectIndex
from odis.types import Skipped

CHUNK = 2048  # images


@dataclass(slots=True)
class IndexFeatures:
    """Features of the n usable objects (or images) of an object index, in the order of the rows given."""

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

    def select(self, which: Tensor) -> IndexFeatures:
        """The objects at `which`: bool (n,), or positions."""
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
    query: QueryConfig,
    read: ReadConfig,
    *,
    rows: Sequence[int] | None = None,
    chunk: int = CHUNK,
    progress: Callable[[int], None] | None = None,
) -> Iterator[IndexFeatures]:
    """Features of every object of an index, image by image, as chunks. One or two chunks are held at a time.

    Args:
        encoder: The model.
        index: Images and objects.
        query: Mode (one), size and context; objects or images.
        read: How images are read.
        rows: Rows of the index to take, in this order; by default all.
        chunk: Images in a chunk.
        progress: Called after each image with the number of images so far.

    Yields:
        Chunk after chunk, in order; the last may be smaller. No rows give no chunk.

    Raises:
        DataError: with `read.strict`, for the first image or object that cannot be used.
        OdisError: see `Encoder.query_builder`.
    """
    read.check()
    builder = encoder.query_builder(query)
    rows = range(len(index)) if rows is None else rows
    items = iter(
        WorkerLoader(IndexRows(index, rows, builder, query.images), workers=read.workers, batch_size=None)
    )
    for start in range(0, len(rows), chunk):
        done = None if progress is None else partial(_counted, progress, start)
        yield _chunk(encoder, builder, items, rows[start : start + chunk], read, done)


def _counted(progress: Callable[[int], None], start: int, done: int) -> None:
    progress(start + done)


def _chunk(
    encoder: Encoder,
    builder: QueryBuilder,
    items: Iterator[RowQueries],
    rows: Sequence[int],
    read: ReadConfig,
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
            item = next(items)
            if read.strict and item.skipped:
                raise DataError(f"{item.skipped[0].what}: {item.skipped[0].why}")
            skipped.extend(item.skipped)
            count += item.read
            start = len(label_sets)
            label_sets.extend(item.labels)
            boxes.extend(item.boxes)
            places.extend((row, number) for number in item.numbers)
            # One query answers for all objects of the image, or each for its own.
            together = len(item.queries) == 1
            for i, query in enumerate(item.queries, start):
                yield range(start, len(label_sets)) if together else range(i, i + 1), query
            if progress is not None:
                progress(position + 1)

    parts: list[tuple[list[int], Tensor]] = []
    for batch, objects, _ in encoder.run_queries(queries(), builder, read.batch_size):
        objects = objects.float().cpu()
        answers = [
            objects[i, : len(query.masks)].expand(len(span), -1) for i, (span, query) in enumerate(batch)
        ]
        parts.append(([n for span, _ in batch for n in span], torch.cat(answers)))
    features = torch.empty(len(label_sets), encoder.width(builder.mode, builder.readout))
    while parts:  # freed as they are copied
        positions, part = parts.pop()
        features[torch.tensor(positions)] = part
    labels = torch.tensor([of_one[0] if len(of_one) == 1 else -1 for of_one in label_sets], dtype=torch.int64)
    row_of, number_of = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).unbind(1)
    at = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return IndexFeatures(features, labels, label_sets, row_of, number_of, at, count, skipped)


def embed_index(
    encoder: Encoder,
    index: ObjectIndex,
    mode: str = "masked-attention",
    *,
    rows: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> IndexFeatures:
    """All features of an index in memory: about 8 D bytes an object at the peak.

    Args:
        encoder: The model.
        index: Images and objects.
        mode: One of `MODES`.
        rows: See `stream_index`.
        progress: See `stream_index`.
        settings: Fields of `QueryConfig` (`images`, `size`, `context`, `readout`, `mask_coverage`,
            `mask_margin`) and of `ReadConfig` (`batch_size`, `workers`, `strict`).

    Raises:
        DataError: see `stream_index`.
        OdisError: see `stream_index`.
    """
    names = {one.name for one in fields(QueryConfig)} - {"modes"}
    query = QueryConfig((mode,), **{name: settings.pop(name) for name in names & settings.keys()})
    chunks = stream_index(encoder, index, query, ReadConfig(**settings), rows=rows, progress=progress)
    return concat(list(chunks), encoder.width(mode, query.readout))


def concat(chunks: Sequence[IndexFeatures], width: int) -> IndexFeatures:
    """Chunks as one; no chunks give no objects, of `width` features."""
    if not chunks:
        none = torch.empty(0, dtype=torch.int64)
        return IndexFeatures(torch.empty(0, width), none, [], none, none, torch.empty(0, 4), 0, [])
    features, labels, rows, numbers, boxes = (
        torch.cat([getattr(c, name) for c in chunks])
        for name in ("features", "labels", "rows", "numbers", "boxes")
    )
    sets, skipped = [s for c in chunks for s in c.label_sets], [s for c in chunks for s in c.skipped]
    return IndexFeatures(features, labels, sets, rows, numbers, boxes, sum(c.images for c in chunks), skipped)
