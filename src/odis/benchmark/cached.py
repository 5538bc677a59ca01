"""Runs that keep their images in memory: how many are read from files all the same, and input that reads
none.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from odis.config.keep import parse_keep
from odis.config.training import PretrainConfig
from odis.data.loader import ViewLoader, make_loader
from odis.objects.index import ObjectIndex
from odis.types import Batch, ImageObjects

ENDLESS = 2**31
"""Steps of a loader that is closed when enough was measured."""

_IMAGES = 256


class PartialIndex(ObjectIndex):
    """Some rows of another index, as an index of their own.

    Args:
        base: The index.
        rows: int64 (n,), positions in it.
    """

    def __init__(self, base: ObjectIndex, rows: np.ndarray) -> None:
        super().__init__(base.path, root=base.root, provenance=base.provenance, classes=base.classes)
        self.uri, self.base, self.rows = base.uri, base, rows

    @property
    def is_folder(self) -> bool:
        return self.base.is_folder

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> ImageObjects:
        return self.base[int(self.rows[self._position(i)])]

    def image_name(self, i: int) -> str:
        return self.base.image_name(int(self.rows[self._position(i)]))


def keeps_in_memory(config: PretrainConfig) -> bool:
    """Whether images stay in memory, so that later epochs read none."""
    return any(place.where == "memory" for place in parse_keep(config.loader.keep, config.loader.render))


def uncached(config: PretrainConfig) -> PretrainConfig:
    """The same run reading every image from its file, or from its copy on disk, as the first epoch does."""
    places = parse_keep(config.loader.keep, config.loader.render)
    on_disk = [entry for entry, place in zip(config.loader.keep, places) if place.where == "disk"]
    return replace(config, loader=replace(config.loader, keep=on_disk))


def cached_batches(
    config: PretrainConfig, index: ObjectIndex, patch_size: int, seconds: float, start_step: int = 0
) -> Iterator[Batch]:
    """The batches of a run, without end, from images that are all in memory before the first batch.

    Args:
        config: With `memory` in `loader.keep`.
        index: Up to 256 random images of it are used: as many as can be read in the time given, but at least
            four.
        patch_size: Side of a patch in pixels of a view.
        seconds: About how long reading them may take.
        start_step: As of `make_loader`.

    Raises:
        DataError: for images that cannot be used.
    """
    rows = np.random.default_rng(0).permutation(len(index))

    def read(count: int) -> ViewLoader:
        loader = make_loader(
            PartialIndex(index, rows[:count]),
            config,
            patch_size=patch_size,
            start_step=start_step,
            steps=ENDLESS,
        )
        for row in range(count):
            loader.dataset[0, row]  # before the workers start, which share what is there
        return loader

    began, few = time.perf_counter(), min(4, len(rows))
    read(few)
    affordable = int(seconds * few / max(time.perf_counter() - began, 1e-9))
    return iter(read(min(_IMAGES, len(rows), max(few, affordable))))


def memories(workers: int) -> int:
    """In how many memories a loader's workers keep images: one if they are forked, since they share it, else
    one each."""
    return 1 if multiprocessing.get_start_method() == "fork" else max(1, workers)


def reads(images: int, total: int, memories: int, span: int | None = None) -> float:
    """Expected number of images of a run that are read from files, because that memory has not held them yet.

        in epoch 0, 1, ...: an image has met the same memory in no epoch before with
            probability (1 - 1 / memories) ** epoch

    Args:
        images: Of the data.
        total: Images of the whole run, epoch after epoch.
        memories: See `memories`.
        span: Images after which workers are started anew (re-discovery); None if they last the whole run.
    """
    if span is not None and 0 < span < total:
        whole, rest = divmod(total, span)
        return whole * reads(images, span, memories) + reads(images, rest, memories)
    new = 1 - 1 / max(1, memories)
    epochs, rest = divmod(total, images)
    chances = new ** np.arange(epochs + 1, dtype=np.float64)
    return float(images * chances[:-1].sum() + rest * chances[-1])
