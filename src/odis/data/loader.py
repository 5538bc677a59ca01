"""Rows of an object index to batches: which rows, in which order, on which rank, and what becomes of those
that are unusable.

Everything is a function of (seed, step): a batch does not depend on the number of workers, nor on where a run
began.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from odis.config.training import PretrainConfig, ViewsConfig
from odis.data.pixels.decode import Decoded, decode, needed_shrink
from odis.data.pixels.device import DeviceCache
from odis.data.pixels.disk import DiskCache, guaranteed_shrink
from odis.data.pixels.memory import MemoryCache
from odis.data.raw_batch import RawBatch, Source, collate_sources, make_source
from odis.data.views import Plan, draw_all, plan_views, render_views
from odis.data.workers import watched
from odis.errors import DataError
from odis.machine.devices import has_gpu
from odis.objects.clean import usable_objects
from odis.objects.index import ObjectIndex
from odis.types import Batch, ImageObjects, Sample, Skipped, View


@dataclass(frozen=True, slots=True)
class _Planned:
    """A sample before its views are made."""

    rng: np.random.Generator  # where its photometrics are drawn
    image: Decoded
    shrink: int  # that the image was asked for at
    plan: Plan
    row: int
    path: str
    skipped: list[Skipped]


class ViewDataset(Dataset[Sample]):
    """The views of each image, made anew every epoch from (seed, epoch, row).

    Args:
        index: Images and their objects.
        config: What the objects, views and prediction masks are; `strict`, `loader` and `train.seed` are read
            too.
        patch_size: Side of a patch in pixels of a view.
    """

    def __init__(self, index: ObjectIndex, config: PretrainConfig, patch_size: int) -> None:
        self.index, self.config, self.patch_size = index, config, patch_size
        self._objects: dict[int, ImageObjects] = {}
        # An image is kept at each size that views were made from: the views are those that an image read anew
        # would give.
        self._images = MemoryCache(len(index)) if config.loader.cache else None
        gib = config.loader.resident_gib
        self.resident = DeviceCache(len(index), int(gib * 2**30)) if gib else None
        self._copies = None if config.loader.copies is None else DiskCache(config.loader.copies)
        # Rows whose objects are known to be usable. The index of a folder holds whole images, which are.
        self._sound = np.full(len(index), index.is_folder)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample of (epoch, row); of the next row that can be used, if that one cannot, with all passed
        over in `skipped`.

        Raises:
            DataError: No row can be used; or, with `strict`, this one or one of its objects cannot.
        """
        it, views = self._planned(key), self.config.views
        drawn = draw_all(it.rng, it.plan, views)
        return Sample(
            *render_views(it.plan, it.image, views, drawn), index=it.row, path=it.path, skipped=it.skipped
        )

    def source(self, key: tuple[int, int]) -> Source:
        """What `__getitem__` would make the sample from: its views are without pixels, which the device
        renders.

        Raises:
            DataError: As `__getitem__`.
        """
        it, views = self._planned(key), self.config.views
        drawn = draw_all(it.rng, it.plan, views)
        kept_as = None
        if self.resident is not None and (it.image.pixels.is_meta or self.resident.takes(it.shrink)):
            kept_as = it.shrink
        return make_source(
            it.image, it.plan, drawn, views, index=it.row, path=it.path, skipped=it.skipped, kept_as=kept_as
        )

    def _planned(self, key: tuple[int, int]) -> _Planned:
        """The geometry of a sample and the image it is of."""
        config, (epoch, first) = self.config, key
        skipped: list[Skipped] = []
        for row in ((first + k) % len(self) for k in range(len(self))):
            path = self.index.image_path(row)
            rng = np.random.default_rng([config.train.seed, epoch, first])
            try:
                objects, unusable = self._read(row, path)
                width, height = objects.width, objects.height
                if min(width, height) < 1:
                    decode(path, (width, height))  # no image is as small as that, so this says what is wrong
                plan = plan_views(
                    rng,
                    objects,
                    width,
                    height,
                    config.objects,
                    config.views,
                    config.prediction,
                    self.patch_size,
                )
                image, shrink = self._decode(
                    row, path, objects, needed_shrink(width, height, plan.crops, plan.sizes)
                )
            except DataError as error:
                if config.strict:
                    raise
                skipped.append(Skipped(path, str(error).removeprefix(f"{path}: ")))
                continue
            return _Planned(rng, image, shrink, plan, row, path, skipped + unusable)
        raise DataError(
            f"{self.index.path}: none of its {len(self)} images can be used; {skipped[0].what}: "
            f"{skipped[0].why}"
        )

    def _read(self, row: int, path: str) -> tuple[ImageObjects, list[Skipped]]:
        """The usable objects of a row, and those that are not."""
        if row in self._objects:
            return self._objects[row], []
        objects = self.index[row]
        unusable: list[Skipped] = []
        if not self._sound[
            row
        ]:  # other programs write indices too, and a broken mask must not stop a run at hour nine
            usable = usable_objects(objects, len(self.index.classes))
            objects, unusable = usable.row, usable.skipped(path)
            if unusable and self.config.strict:
                raise DataError(f"{unusable[0].what}: {unusable[0].why}")
            self._sound[row] = not unusable
        return objects, unusable

    def _decode(self, row: int, path: str, objects: ImageObjects, shrink: int) -> tuple[Decoded, int]:
        """The image of a row at 1 / `shrink` of its size; with copies at the size of its copy, which is at
        least that. And the shrink.
        """
        copies, size = None, (objects.width, objects.height)
        if self._copies is not None and 1 < (sure := guaranteed_shrink(*size, self.config.views)) <= shrink:
            copies, shrink = self._copies, sure
        if self.resident is not None and (there := self.resident.find(row, shrink)) is not None:
            return there, shrink
        image = None if self._images is None else self._images.get(row, shrink)
        if image is None:
            image = decode(path, size, shrink) if copies is None else copies.load(path, size, shrink)
            if self._images is not None:
                self._images.put(row, shrink, image)
        if self._images is not None:
            self._objects[row] = objects
        return image, shrink


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


def collate(samples: list[Sample]) -> Batch:
    """The batch of these samples: their views view-major, and which object tokens and patches the losses take
    (`types.Batch`).
    """
    global_views, global_masks, global_visible = _stack([sample.global_views for sample in samples])
    if samples[0].local_views:
        local_views, local_masks, local_visible = _stack([sample.local_views for sample in samples])
    else:
        local_views, local_masks, local_visible = global_views[:0], global_masks[:0], global_visible[:0]
    hidden = torch.stack([sample.prediction_masks for sample in samples], dim=1).flatten(0, 1)  # (G * B, P)
    positions = hidden.flatten().nonzero().squeeze(1)
    weight = hidden.sum(1).reciprocal()
    seen = global_visible.sum(0)  # (B, Q): global views that show the object
    return Batch(
        global_views=global_views,
        local_views=local_views,
        global_masks=global_masks,
        local_masks=local_masks,
        global_visible=global_visible,
        local_visible=local_visible,
        prediction_masks=hidden,
        hidden=positions,
        hidden_weight=weight[positions // hidden.shape[1]],
        teacher_rows=_rows(global_visible),
        student_global_rows=_rows(global_visible & (seen > 1)),
        student_local_rows=_rows(local_visible & (seen > 0)),
        pairs=(seen * (seen - 1) + local_visible.sum(0) * seen).sum().float(),
        paths=[sample.path for sample in samples],
        indices=[sample.index for sample in samples],
        skipped=[item for sample in samples for item in sample.skipped],
    )


def _stack(views: list[list[View]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels (V * B, 3, S, S), object masks (V * B, Q, P) and visibility (V, B, Q) of V views of B images."""
    ordered = [image[v] for v in range(len(views[0])) for image in views]
    visible = torch.stack([view.visible for view in ordered])
    return (
        torch.stack([view.pixels for view in ordered]),
        torch.stack([view.object_masks for view in ordered]),
        visible.unflatten(0, (-1, len(views))),
    )


def _rows(chosen: Tensor) -> Tensor:
    """Positions of the true elements in the flattened tensor, int64."""
    return chosen.flatten().nonzero().squeeze(1)


class _Answered(Dataset[Any]):
    """The dataset with its errors as values: a worker's exception would arrive as a page of traceback, not as
    the one line it is.
    """

    def __init__(self, dataset: ViewDataset) -> None:
        self.resident = dataset.resident
        self.make: Callable[[tuple[int, int]], Sample | Source] = (
            dataset.source if dataset.config.loader.render == "device" else dataset.__getitem__
        )

    def __getitem__(self, key: tuple[int, int]) -> Sample | Source | DataError:
        try:
            return self.make(key)
        except DataError as error:
            return error


def _collate_answers(answers: list[Any], views: ViewsConfig) -> Batch | RawBatch | DataError:
    for answer in answers:
        if isinstance(answer, DataError):
            return answer
    if isinstance(answers[0], Source):
        return collate_sources(answers, collate([source.sample for source in answers]), views)
    return collate(answers)


class ViewLoader(DataLoader[Any]):
    """A `DataLoader` of batches that raises `DataError` where the dataset did, and `WorkerError` where a
    worker was killed.
    """

    def __iter__(self) -> Any:
        made = watched(super().__iter__(), self.num_workers)  # workers start now, not at the first batch
        return _finished(made, self.dataset.resident)  # type: ignore[attr-defined]  # it is an _Answered


def _finished(
    batches: Iterator[Batch | RawBatch | DataError], resident: DeviceCache | None
) -> Iterator[Batch | RawBatch]:
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        if isinstance(batch, RawBatch):
            batch.resident = resident
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
) -> DataLoader[Any]:
    """A loader that yields this rank's micro-batches of steps `start_step` to `steps - 1`, in order.

    Each has train.batch_size / world_size / train.accumulate images; it is a `Batch`, or with `loader.render`
    device an `RawBatch`, whose `to` gives one. It leaves torch's global random state alone.

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
        collate_fn=partial(_collate_answers, views=config.views),
        num_workers=config.loader.workers,
        prefetch_factor=config.loader.prefetch if config.loader.workers else None,
        pin_memory=config.train.device != "cpu" and has_gpu(),
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # or else making an iterator would draw from the global one
    )


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C reaches the whole process group; the training process ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
