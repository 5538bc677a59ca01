"""The measurements of `odis benchmark` in their order, and a table of them."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from odis.benchmark.cached import cached_batches, keeps_in_memory, memories, reads, uncached
from odis.benchmark.flops import count_flops, matmul_rate
from odis.benchmark.measure import (  # fmt: skip
    batches_of,
    both_rate,
    input_rate,
    peak_gib,
    rate_of,
    ratio,
    resampling,
    start,
    step_times,
    without_objects,
)
from odis.config.training import PretrainConfig
from odis.config.wording import counted
from odis.errors import ConfigError
from odis.machine.devices import describe_device, resolve_device
from odis.machine.progress import error_console
from odis.machine.ranks import Ranks
from odis.objects.index import ObjectIndex
from odis.train.update import TrainState


def measure(config: PretrainConfig, seconds: float, *, recipe: str = "") -> dict[str, Any]:
    """All figures of a config on its data, on one device.

    Args:
        config: Checked; of its batch, one rank's micro-batch is what a step is measured on.
        seconds: How long to measure, about.
        recipe: Name of the recipe.

    Raises:
        ConfigError: for a model that cannot be built.
        DataError: for data that cannot be used.
    """
    console = error_console()
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    index = ObjectIndex.open(config.data, config.strict, config.root)
    if len(index) == 0:
        raise ConfigError(f"data: {config.data} holds no images")
    ranks = Ranks(0, 1, resolve_device(config.train.device, "train.device"))
    run = start(config, index, ranks)
    config = run.config  # its precision is none but a name
    cold = uncached(config)
    console.print("input alone", style="dim")
    loading = input_rate(cold, index, run.patch_size, 0.1 * seconds)
    console.print("input and step together, as training runs", style="dim")
    both = both_rate(
        run,
        batches_of(cold, index, run.patch_size, run.step),
        (0.15 if keeps_in_memory(config) else 0.35) * seconds,
    )
    cached = _cached(run, index, seconds, console) if keeps_in_memory(config) else None

    console.print("step alone, with objects and without", style="dim")
    runs, baseline = {"this": run}, None
    if config.objects.use:
        try:
            runs["without"] = start(without_objects(config), index, ranks)
            baseline = without_objects(config)
        except ConfigError as error:  # a model without a class token cannot be iBOT
            console.print(f"no comparison without objects: {error}", soft_wrap=True)
    batches = {}
    for name, one in runs.items():
        source = batches_of(one.config, index, one.patch_size)
        batches[name] = [next(source).to(ranks.device) for _ in range(3)]
        del source
    times = step_times(runs, batches, 0.35 * seconds)
    flops = count_flops(run, batches["this"][0])
    tokens = batches["this"][0].prediction_masks.numel()
    rate = matmul_rate(
        ranks.device,
        config.train.precision,
        rows=tokens,
        width=run.student.backbone.embed_dim,
        seconds=0.05 * seconds,
    )
    console.print("memory, in processes of their own", style="dim")
    memory = peak_gib(config, index, ranks)

    step = statistics.median(times["this"])
    images = batches["this"][0].size
    total = run.schedules.total_steps * config.train.batch_size
    from_files = float(total) if cached is None else cached["reads"]
    faster = both.images_per_second if cached is None else cached["training"]["images_per_second"]
    figures: dict[str, Any] = {
        "recipe": recipe,
        "data": config.data,
        "images": len(index),
        "provenance": index.provenance,
        "device": describe_device(ranks.device),
        "precision": config.train.precision,
        "torch": torch.__version__,
        "micro_batch": images,
        "total_steps": run.schedules.total_steps,
        "total_images": total,
        "input": asdict(loading),
        "training": asdict(both),
        "cached": cached,
        "step": {
            "images_per_second": images / step,
            "rounds": len(times["this"]),
            "seconds": step,
            "gflop_per_image": flops / images / 1e9,
            "matmul_gflops": rate / 1e9,
            "model_flops_utilisation": flops / step / rate,
        },
        "memory_gib": memory,
        "projected_seconds": loading.startup_seconds
        + from_files / both.images_per_second
        + (total - from_files) / faster,
        "without_objects": None,
    }
    if baseline is not None:
        other = input_rate(uncached(baseline), index, run.patch_size, 0.1 * seconds)
        crops = resampling(config, index)
        figures["without_objects"] = {
            "step_time": ratio(times["this"], times["without"]),
            "input_time": other.images_per_second / loading.images_per_second,
            "memory": memory / peak_gib(baseline, index, ranks),
            "resampling": None if crops is None else asdict(crops),
        }
    return figures


def _cached(run: TrainState, index: ObjectIndex, seconds: float, console: Console) -> dict[str, Any]:
    """The same rates once images are in memory, and how many images of the run come from files before."""
    console.print("both, of images that are in memory", style="dim")
    config, span = run.config, run.config.objects.rediscover_every
    batches = cached_batches(config, index, run.patch_size, 0.05 * seconds, run.step)
    both = both_rate(run, batches, 0.2 * seconds)
    total = run.schedules.total_steps * config.train.batch_size
    return {
        "reads": reads(
            len(index), total, memories(config.loader.workers), round(span * len(index)) if span else None
        ),
        "training": asdict(both),
        "input": asdict(rate_of(batches, config, 0.05 * seconds)),
    }


def table(figures: dict[str, Any]) -> Table:
    """The figures for people."""
    step, both, loading = figures["step"], figures["training"], figures["input"]
    shown = Table(
        show_header=False,
        title=f"{figures['recipe'] or 'settings'} on {figures['data']}, {figures['device']}",
    )
    rows = [
        ("images", f"{figures['images']:,} ({figures['provenance']})"),
        (
            "input alone",
            f"{loading['images_per_second']:.1f} images/s (starts in {loading['startup_seconds']:.1f} s)",
        ),
        (
            "step alone",
            f"{step['images_per_second']:.2f} images/s, micro-batch {figures['micro_batch']}, "
            f"{figures['precision']}",
        ),
        (
            "training",
            f"{both['images_per_second']:.2f} images/s, of the time {100 * both['data_wait']:.1f} % spent "
            f"waiting for data",
        ),
        *_cached_rows(figures),
        ("memory", f"{figures['memory_gib']:.2f} GiB (without loader workers)"),
        ("arithmetic", f"{step['gflop_per_image']:.1f} GFLOP an image"),
        (
            "of the matmul rate",
            f"{100 * step['model_flops_utilisation']:.0f} % of {step['matmul_gflops']:,.0f} GFLOP/s",
        ),
        (
            "the whole run",
            f"{duration(figures['projected_seconds'])} for {counted(figures['total_steps'], 'step')}",
        ),
    ]
    if (other := figures["without_objects"]) is not None:
        value, low, high = other["step_time"]
        rows.append(
            (
                "objects cost: step",
                f"x {value:.3f} ({low:.3f} - {high:.3f}) of the time without objects (iBOT)",
            )
        )
        rows.append(("objects cost: input", f"x {other['input_time']:.3f}"))
        rows.append(("objects cost: memory", f"x {other['memory']:.3f}"))
        if (crops := other["resampling"]) is not None:
            rows.append(
                (
                    "objects cost: crops",
                    f"{crops['mean']:.2f} candidates a view, {100 * crops['first']:.0f} % fit at once",
                )
            )
            rows.append(
                (
                    "",
                    f"{100 * crops['none']:.1f} % never; {crops['microseconds']:.0f} us an image, free "
                    f"{crops['free_microseconds']:.0f}",
                )
            )
    for name, value in rows:
        shown.add_row(name, value)
    return shown


def _cached_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    if (cached := figures["cached"]) is None:
        return []
    both, share = cached["training"], cached["reads"] / figures["total_images"]
    return [
        ("cached: input", f"{cached['input']['images_per_second']:.1f} images/s"),
        (
            "cached: training",
            f"{both['images_per_second']:.2f} images/s, {100 * both['data_wait']:.1f} % waiting",
        ),
        ("cached: not yet", f"{100 * share:.0f} % of the run's images, read from files"),
    ]


def duration(seconds: float) -> str:
    """`3 d 04:05:06`, without the days if there are none."""
    days, rest = divmod(round(seconds), 86_400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock
