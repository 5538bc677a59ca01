"""Images a second of the input alone, of the step alone, and of both together; memory; what objects cost.

Whatever is compared is measured in turns, so that other load on the machine affects all of it alike.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from odis.benchmark.cached import ENDLESS
from odis.config.training import PretrainConfig
from odis.data.framing import (
    ChosenObjects,
    all_objects,
    choose_objects,
    draw_crops,
    first_crop,
    first_target,
    shown_shares,
)
from odis.data.geometry.areas import select
from odis.data.geometry.crops import propose_crops
from odis.data.loader import make_loader
from odis.errors import WorkerError
from odis.machine.devices import peak_memory
from odis.machine.processes import without_ctrl_c
from odis.machine.ranks import Ranks
from odis.objects.index import ObjectIndex
from odis.train.start import build_run
from odis.train.update import TrainState, train_step
from odis.types import Batch

_MIDDLE = 0.5  # of its schedules: where a measured run stands, past warm-ups and frozen layers


@dataclass(frozen=True, slots=True)
class Rate:
    """Images a second, and the share of the time spent waiting for data."""

    images_per_second: float
    data_wait: float = 0.0
    startup_seconds: float = 0.0


def start(config: PretrainConfig, index: ObjectIndex, ranks: Ranks) -> TrainState:
    """Build the run of a config, in the middle of its schedules."""
    run = build_run(config, ranks, images=len(index))
    run.step = int(_MIDDLE * run.schedules.total_steps)
    return run


def batches_of(
    config: PretrainConfig, index: ObjectIndex, patch_size: int, start_step: int = 0
) -> Iterator[Batch]:
    """The batches of training, endlessly."""
    return iter(make_loader(index, config, patch_size=patch_size, start_step=start_step, steps=ENDLESS))


def input_rate(config: PretrainConfig, index: ObjectIndex, patch_size: int, seconds: float) -> Rate:
    """Rate of the loader alone, once its workers run and their prefetched batches are used up."""
    began = time.perf_counter()
    batches = batches_of(config, index, patch_size)
    next(batches)
    startup = time.perf_counter() - began
    return replace(rate_of(batches, config, seconds), startup_seconds=startup)


def rate_of(batches: Iterator[Batch], config: PretrainConfig, seconds: float) -> Rate:
    """Rate of these batches, once prefetched ones are used up."""
    for _ in range(config.loader.workers * config.loader.prefetch):
        next(batches)
    images, began = 0, time.perf_counter()
    while images == 0 or time.perf_counter() - began < seconds:
        images += next(batches).size
    return Rate(images / (time.perf_counter() - began))


def both_rate(run: TrainState, batches: Iterator[Batch], seconds: float) -> Rate:
    """Rate of training as it runs: loader, transfer, step.

    Prefetched batches would make the loader look faster than it is. They are used up first, if that takes no
    more than a third of the time."""
    loader, accumulate = run.config.loader, run.config.train.accumulate
    ahead = -(-loader.workers * loader.prefetch // accumulate) + 1
    began, steps = time.perf_counter(), 0
    while steps < 2 or (steps < ahead and time.perf_counter() - began < seconds / 3):
        _step(run, batches, accumulate)
        steps += 1
    images, waited, began = 0, 0.0, time.perf_counter()
    while images == 0 or time.perf_counter() - began < seconds:
        size, wait = _step(run, batches, accumulate)
        images, waited = images + size, waited + wait
    _synchronise(run.ranks.device)
    elapsed = time.perf_counter() - began
    return Rate(images / elapsed, data_wait=waited / elapsed)


def _step(run: TrainState, batches: Iterator[Batch], accumulate: int) -> tuple[int, float]:
    before = time.perf_counter()
    parts = list(itertools.islice(batches, accumulate))
    waited = time.perf_counter() - before
    train_step(
        run,
        [part.to(run.ranks.device) for part in parts],
        meters=(run.step + 1) % run.config.train.log_every == 0,
    )
    run.pending = None
    return sum(part.size for part in parts), waited


def step_times(
    runs: dict[str, TrainState], batches: dict[str, list[Batch]], seconds: float
) -> dict[str, list[float]]:
    """Seconds of each run's step on a micro-batch, in rounds of all runs; every other round is reversed."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        _timed(run, batches[name][0])  # the first step allocates
    began, k = time.perf_counter(), 0
    while k < 3 or time.perf_counter() - began < seconds:
        for name in list(runs) if k % 2 == 0 else list(runs)[::-1]:
            times[name].append(_timed(runs[name], batches[name][k % len(batches[name])]))
        k += 1
    return times


def _timed(run: TrainState, batch: Batch) -> float:
    _synchronise(run.ranks.device)
    began = time.perf_counter()
    train_step(run, [batch])
    _synchronise(run.ranks.device)
    return time.perf_counter() - began


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def without_objects(config: PretrainConfig) -> PretrainConfig:
    """The same run as iBOT or DINO would do it: every image is one object, read by `[CLS]`."""
    objects = replace(
        config.objects, use=False, unit="instances", target="index", per_image=1, rediscover_every=0.0
    )
    model = replace(config.model, object_tokens="single", object_readout="token", object_sees_cls=None)
    return replace(config, objects=objects, model=model)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median ratio within a round, and the bounds of its 95 % bootstrap interval."""
    return middle(np.array(ours) / np.array(theirs))


def middle(values: np.ndarray) -> tuple[float, float, float]:
    """Median of the values of rounds, and the bounds of its 95 % bootstrap interval."""
    medians = np.median(np.random.default_rng(0).choice(values, (2000, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(np.median(values)), float(low), float(high)


def peak_gib(config: PretrainConfig, index: ObjectIndex, ranks: Ranks) -> float:
    """Peak memory of two steps in a process of their own: of the GPU, or resident, without loader workers."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(sender, config, index, ranks, torch.get_num_threads()))
    with without_ctrl_c():  # it would print a page of its own
        process.start()
    sender.close()
    try:
        peak: float = receiver.recv()
        process.join()
        return peak
    except EOFError as error:
        process.join()
        raise WorkerError(
            f"the process that measures memory ended with code {process.exitcode}; mostly the system ran out "
            f"of memory: a smaller train.batch_size needs less"
        ) from error
    finally:
        process.kill()  # on Ctrl-C; else it has ended
        process.join()


def _peak(sender: Any, config: PretrainConfig, index: ObjectIndex, ranks: Ranks, threads: int) -> None:
    torch.set_num_threads(threads)
    run = start(config, index, ranks)
    here = replace(config, loader=replace(config.loader, workers=0))
    for batch in itertools.islice(batches_of(here, index, run.patch_size), 2):
        train_step(run, [batch.to(ranks.device)])
    sender.send(peak_memory(ranks.device))


@dataclass(frozen=True, slots=True)
class Resampling:
    """What finding crops that show an object takes.

    Args:
        first: Share of global views whose first candidate shows the object well enough.
        mean: Mean number of candidates, if they were drawn one after the other.
        none: Share of global views for which none of `views.candidates` does (of first crops that choose the
            target, none of `objects.first_crop_draws`).
        microseconds: Time to draw the global crops of an image.
        free_microseconds: The same for free crops.
    """

    first: float
    mean: float
    none: float
    microseconds: float
    free_microseconds: float


def resampling(config: PretrainConfig, index: ObjectIndex, images: int = 200) -> Resampling | None:
    """Measured on some images of the index; None if none of them has an object, or crops are free."""
    views, objects = config.views, config.objects
    if not objects.use or not views.object_crops:
        return None
    rng = np.random.default_rng(0)
    fits: list[np.ndarray] = []  # of each view: which of its candidates show the object
    seconds, free = [], []
    global_only = replace(views, local_views=0)
    for i in rng.permutation(len(index))[:images]:
        row = index[int(i)]
        size = row.width, row.height
        every = all_objects(row, *size, objects)
        if every is None:
            continue
        if objects.target == "first-crop":
            fits += _first_crop_fits(rng, every, *size, config)
            began = time.perf_counter()
            first_crop(rng, every, *size, objects, global_only)
        else:
            chosen = choose_objects(rng, row, *size, objects)
            fits += _fits(rng, chosen, *size, views.global_views, config)
            began = time.perf_counter()
            draw_crops(rng, *size, chosen, objects, global_only)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        propose_crops(rng, *size, (views.global_views,), views.global_scale, views.ratio)
        free.append(time.perf_counter() - began)
    if not fits:
        return None
    return Resampling(
        statistics.mean(float(one[0]) for one in fits),
        statistics.mean(int(one.argmax()) + 1 if one.any() else len(one) for one in fits),
        statistics.mean(float(not one.any()) for one in fits),
        1e6 * statistics.median(seconds),
        1e6 * statistics.median(free),
    )


def _fits(
    rng: np.random.Generator,
    chosen: ChosenObjects,
    width: int,
    height: int,
    count: int,
    config: PretrainConfig,
) -> list[np.ndarray]:
    """Of so many views, which of its candidates show the target well enough."""
    views = config.views
    crops = propose_crops(rng, width, height, (count, views.candidates), views.global_scale, views.ratio)
    share = shown_shares(crops, chosen, config.objects)[..., 0]
    return list((share > 0) & (share >= views.min_coverage))


def _first_crop_fits(
    rng: np.random.Generator, every: ChosenObjects, width: int, height: int, config: PretrainConfig
) -> list[np.ndarray]:
    """The same where the first view chooses the target; without one, of that view alone."""
    objects, views = config.objects, config.views
    drawn = propose_crops(rng, width, height, (objects.first_crop_draws,), views.global_scale, views.ratio)
    target, first = first_target(every, drawn, objects)
    found = np.arange(len(drawn)) == first
    if target is None:
        return [found]
    chosen = ChosenObjects(select(every.shapes, [target]), [every.members[target]])
    return [found, *_fits(rng, chosen, width, height, views.global_views - 1, config)]
