"""Batches of a run: which rows of the index, in which order, on which rank, and the workers that make them.

Everything is a function of (seed, step): a batch depends neither on the number of workers nor on where a run
began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset, Sampler

from odis.config.training import PretrainConfig, ViewsConfig
from odis.data.batch import collate
from odis.data.dataset import ViewDataset
from odis.data.pixels.device import DeviceCache
from odis.data.raw_batch import RawBatch, RawSample, collate_raw
from odis.data.workers import WorkerLoader
from odis.errors import DataError
from odis.machine.devices import has_gpu
from odis.objects.index import ObjectIndex
from odis.types import Batch, Sample


def sample_order(n: int, seed: int, start: int, count: int) -> list[tuple[int, int]]:
    """(epoch, row) of `count` samples of a run, from its sample number `start` on.

    Each epoch is a permutation of the rows of its own. Sample g is of epoch g // n, so that batches cross the
    borders of epochs and no image is left out, whatever the batch size.

    Args:
        n: Rows of the index.
        seed: The run's seed.
        start: Number of the first sample, counted from the start of the run.
        count: Samples wanted.
    """
    return [(g // n, int(_permutation(n, seed, g // n)[g % n])) for g in range(start, start + count)]


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    # The spawn key keeps this stream apart from that of sample (seed, epoch, 0): numpy pads seeds with zeros.
    return np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(0,))).permutation(n)


class BatchPlan(Sampler[list[tuple[int, int]]]):
    """The (epoch, row) keys of this rank's micro-batches, step after step.

    A step's samples are cut into `accumulate` micro-batches and each of these into `world_size` parts; rank r
    takes the r-th.

    Args:
        n: Rows of the index.
        config: `train.seed`, `train.batch_size` and `train.accumulate` are read.
        start_step: Steps already taken.
        steps: Steps of the whole run.
        rank: This rank.
        world_size: Ranks.
    """

    def __init__(
        self,
        n: int,
        config: PretrainConfig,
        *,
        start_step: int,
        steps: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.n, self.seed, self.accumulate = n, config.train.seed, config.train.accumulate
        self.share = config.train.batch_size // (self.accumulate * world_size)
        self.start_step, self.steps, self.rank, self.world_size = start_step, steps, rank, world_size

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = self.start_step * self.accumulate
        for micro_batch in range(first, first + len(self)):
            yield sample_order(
                self.n, self.seed, (micro_batch * self.world_size + self.rank) * self.share, self.share
            )


class _Answered(Dataset[Any]):
    """The dataset with errors as values: an exception in a worker would arrive as a page of traceback."""

    def __init__(self, dataset: ViewDataset) -> None:
        self.device_cache = dataset.reader.device
        self.fetched = dataset.fetched
        on_device = dataset.config.loader.render == "device"
        self.make: Callable[[tuple[int, int]], Sample | RawSample] = (
            dataset.raw_sample if on_device else dataset.__getitem__
        )

    def __getitem__(self, key: tuple[int, int]) -> Sample | RawSample | DataError:
        try:
            return self.make(key)
        except DataError as error:
            return error

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Sample | RawSample | DataError]:
        """The samples of a batch, by which `DataLoader` asks."""
        with self.fetched(keys):
            return [self[key] for key in keys]


def _collate_answers(
    answers: list[Any], views: ViewsConfig, missing_pairs: Literal["skip", "zero"]
) -> Batch | RawBatch | DataError:
    for answer in answers:
        if isinstance(answer, DataError):
            return answer
    if isinstance(answers[0], RawSample):
        return collate_raw(answers, collate([raw.sample for raw in answers], missing_pairs), views)
    return collate(answers, missing_pairs)


class ViewLoader(WorkerLoader):
    """A loader of batches that raises `DataError` where the dataset did."""

    def __iter__(self) -> Any:
        return _unwrapped(super().__iter__(), self.dataset.device_cache)  # type: ignore[attr-defined]  # an _Answered


def _unwrapped(
    batches: Iterator[Batch | RawBatch | DataError], device_cache: DeviceCache | None
) -> Iterator[Batch | RawBatch]:
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        if isinstance(batch, RawBatch):
            batch.device_cache = device_cache
        yield batch


def make_loader(
    index: ObjectIndex,
    config: PretrainConfig,
    *,
    patch_size: int,
    start_step: int,
    steps: int,
    rank: int = 0,
    world_size: int = 1,
) -> ViewLoader:
    """A loader that yields this rank's micro-batches of steps `start_step` to `steps - 1`, in order.

    Each has train.batch_size / world_size / train.accumulate images. It is a `Batch`, or with `loader.render
    device` a `RawBatch`, whose `to` gives one. Torch's global random state is left alone.

    Args:
        index: Images and their objects.
        config: The run's config.
        patch_size: Side of a patch in pixels of a view.
        start_step: Steps already taken.
        steps: Steps of the whole run.
        rank: This rank.
        world_size: Ranks.
    """
    return ViewLoader(
        _Answered(ViewDataset(index, config, patch_size)),
        batch_sampler=BatchPlan(
            len(index), config, start_step=start_step, steps=steps, rank=rank, world_size=world_size
        ),
        workers=config.loader.workers,
        option="--loader.workers",
        collate_fn=partial(_collate_answers, views=config.views, missing_pairs=config.loss.missing_pairs),
        prefetch=config.loader.prefetch,
        pin_memory=config.train.device != "cpu" and has_gpu(),
    )
