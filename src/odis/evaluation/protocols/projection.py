"""How long a protocol will take, said before it starts: a few units of each of its works are measured on the
models, images and settings that it has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.data import Dataset

from odis.config.query import ReadConfig
from odis.evaluation.evaluation import Says
from odis.evaluation.neighbours import NearestNeighbours
from odis.evaluation.protocols.images.stream import length_of
from odis.evaluation.runner import EvaluationRun
from odis.inference import Encoder
from odis.types import Skipped

T = TypeVar("T")

ENOUGH = 1.0
"""Seconds of one measurement, about."""

_READ = 8  # images that are read for it, at most


@dataclass(frozen=True, slots=True)
class Work:
    """A part of what a protocol does for one model.

    Args:
        what: In words.
        units: How many units of it there are.
        seconds: What a unit takes.
    """

    what: str
    units: float
    seconds: float


def project(run: EvaluationRun, works: Callable[[Encoder], Iterable[Work]]) -> None:
    """Measure and say how long all models will take; nothing for a run that reports no progress or has no
    model.

    Args:
        run: Gets it as `projected`, for the results.
        works: What there is to do for a model; measures it.
    """
    if run.progress is None or not run.encoders:
        return
    seconds: dict[str, float] = {}
    units: dict[str, float] = {}
    with torch.random.fork_rng(devices=_gpus(run.encoders)):
        for encoder in run.encoders:
            for work in works(encoder):
                seconds[work.what] = seconds.get(work.what, 0.0) + work.units * work.seconds
                units[work.what] = units.get(work.what, 0) + work.units
    run.projected = {
        "seconds": round(sum(seconds.values()), 1),
        "works": {name: {"units": units[name], "seconds": round(seconds[name], 1)} for name in seconds},
    }
    if isinstance(run.progress, Says):
        parts = ", ".join(f"{name} {in_words(seconds[name])}" for name in seconds if units[name])
        total = sum(seconds.values())
        run.progress.say(f"projected: {in_words(total)}" + (f" ({parts})" if parts else ""))


def in_words(seconds: float) -> str:
    """A time of about this length."""
    if seconds < 1:
        return "less than a second"
    for unit, name, below in ((1, "s", 120), (60, "min", 120), (3600, "h", 72)):
        if seconds < below * unit:
            return f"{seconds / unit:.3g} {name}" if unit == 3600 else f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.3g} days"


def seconds_each(work: Callable[[int], object], most: int, device: torch.device) -> float:
    """Seconds that a unit of work takes, measured on a few: more and more until it took long enough. The
    quickest of the measurements counts: others were disturbed.

    Args:
        work: Does that many units. The first call is for whatever is only done once, and does not count.
        most: Units that are done together at the most.
        device: Is waited for.
    """
    work(1)
    _wait(device)
    count, best, spent = 1, float("inf"), 0.0
    while True:
        start = time.perf_counter()
        work(count)
        _wait(device)
        taken = time.perf_counter() - start
        best, spent = min(best, taken / count), spent + taken
        if spent >= ENOUGH or count >= most:
            return best
        count = min(most, 2 * count)


def seconds_shown(
    dataset: Dataset[T | Skipped],
    show: Callable[[Sequence[T]], object],
    encoder: Encoder,
    read: ReadConfig,
    *,
    most: int | None = None,
) -> float:
    """Seconds that an item of a dataset takes to be read by the workers and shown to a model; 0 if there is
    none.

    Args:
        dataset: Has a length.
        show: Shows some of its items.
        encoder: The model.
        read: Workers and batch.
        most: Items that are shown together; by default a batch.
    """
    count = length_of(dataset)
    if not count:
        return 0.0
    items: list[T] = []
    dataset[0]  # what the first one alone has to do does not count
    start = time.perf_counter()
    tried = 0
    for place in sorted({k * count // _READ for k in range(_READ)}):
        item = dataset[place]
        tried += 1
        if not isinstance(item, Skipped):
            items.append(item)
        if items and time.perf_counter() - start > ENOUGH:
            break
    reading = (time.perf_counter() - start) / tried
    if not items:
        return reading

    def shown(n: int) -> None:
        show([items[k % len(items)] for k in range(n)])

    showing = seconds_each(shown, most or read.batch_size, encoder.device)
    if not read.workers:
        return reading + showing
    # Workers read while a GPU computes; on a CPU they take its cores.
    together = reading / read.workers
    return max(together, showing) if encoder.device.type != "cpu" else together + showing


def seconds_searched(width: int, k: int, device: torch.device) -> float:
    """Seconds that it takes to compare one feature (D,) with another and to keep the k nearest."""
    some = 512
    queries, keys = torch.randn(some, width, device=device), torch.randn(8192, width, device=device)

    def search(n: int) -> None:
        search = NearestNeighbours(queries[: n * 8], min(k, len(keys)), device)
        for _ in range(4):  # the first tile of a stream takes longer than the others
            search.add(keys)

    return seconds_each(search, some // 8, device) / (8 * 4 * len(keys))


def _gpus(encoders: Sequence[Encoder]) -> list[Any]:
    return [one.device for one in encoders[:1] if one.device.type == "cuda"]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
