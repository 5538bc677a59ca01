"""One fine-tuning: one starting point, one seed. A later call resumes it bit for bit.

FOLDER/checkpoints/step-*.pt   network, optimizer, step; everything random is drawn from (seed, step)
FOLDER/metrics.jsonl           losses now and then; skipped.jsonl and nonfinite.jsonl name files
FOLDER/model.safetensors       the network, for `odis.downstream.load`
FOLDER/answers.safetensors     what it answered on the test images, from which scores are computed
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from odis import __version__
from odis.backbones.saved import save_model
from odis.config.training import OptimConfig
from odis.config.wording import counted
from odis.downstream.starts import Start
from odis.downstream.task import Reading, Task, TaskAnswers
from odis.errors import DataError, OdisError
from odis.evaluation.protocols.training.kept_state import read_tensors, write_tensors
from odis.machine.devices import peak_memory
from odis.machine.files import remove_leftovers
from odis.machine.ranks import Ranks
from odis.train.checkpoint import checkpoints, newest_step, newest_whole, save_checkpoint, set_aside
from odis.train.metrics import Meters
from odis.train.optim import apply_settings, build_optimizer, clip_gradients, step_if_finite
from odis.train.run_log import RunLog, Throughput
from odis.train.saved_state import are_finite
from odis.train.schedules import Settings, cosine
from odis.train.stop import Interrupted, Stop
from odis.types import Skipped

PARTS = ("step", "module", "optimizer")
"""What a checkpoint of a fine-tuning holds at least."""

_KEEP = 1
_NONFINITE_LIMIT = 5


@dataclass
class Finetuning:
    """What a fine-tuning carries from step to step."""

    task: Task
    start: Start
    seed: int
    folder: Path
    module: nn.Module
    optimizer: torch.optim.AdamW
    reading: Reading
    step: int = 0
    nonfinite: int = 0  # non-finite steps in a row
    meters: Meters = field(default_factory=Meters)

    @property
    def backbone(self) -> Any:
        """The ViT."""
        return self.module.backbone

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.backbone.patch_embed.patch_size[0])


def finetune_start(
    task: Task, start: Start, seed: int, folder: Path, reading: Reading, here: Ranks, stop: Stop
) -> TaskAnswers:
    """Train until the end, measure, and keep network and answers; what is there already is not done again.

    Args:
        task: The task.
        start: Where it starts.
        seed: Of heads, images, crops, and of random weights.
        folder: Of this fine-tuning; the caller owns it.
        reading: How images are read, and on which device.
        here: The one rank.
        stop: Whether to stop after the step, which raises `KeyboardInterrupt` once the state is saved.

    Raises:
        OdisError: Steps are not finite.
        DataError: A checkpoint cannot be read, a file cannot be written, or, with `strict`, an image.
        KeyboardInterrupt: After Ctrl-C or SIGTERM.
    """
    if folder.is_dir():
        for one in (folder, folder / "checkpoints"):
            remove_leftovers(one)
    kept = read_tensors(folder / "answers.safetensors")
    if kept is not None:
        return task.measured(kept)
    run = build(task, start, seed, folder, reading)
    faults = _restore(run)
    folder.mkdir(parents=True, exist_ok=True)
    log = RunLog(folder, here, total_steps=task.settings.steps, start_step=run.step, prototypes=2)
    run.reading = replace(reading, skip=lambda skipped: log.skip(run.step + 1, list(skipped)))
    try:
        for fault in faults:
            log.warn(fault)
        if run.step:
            log.say(f"{folder.name}: resumed after step {run.step}")
        _train(run, log, stop)
        with stop.at_once():
            run.module.eval()
            measured = task.measure(run.module, start, run.reading)
    except Interrupted:
        if run.step > newest_step(folder / "checkpoints"):
            _save_if_good(run, log)
        log.say(f"{folder.name}: stopped after step {run.step}; the same command resumes")
        raise
    finally:
        log.close()
    save_model(folder / "model.safetensors", run.module, card(run))
    write_tensors(folder / "answers.safetensors", measured.tensors())
    return measured


def build(task: Task, start: Start, seed: int, folder: Path, reading: Reading) -> Finetuning:
    """The state before the first step; the heads are those of the seed, whatever the backbone."""
    settings = task.settings
    backbone = start.build(seed, drop_path=settings.drop_path, grad_checkpointing=settings.grad_checkpointing)
    torch.manual_seed(seed)
    module = task.module(backbone, start, reading.dtype).to(reading.device)
    backbone.mask_token.requires_grad_(False)  # nothing is hidden, so that it never gets a gradient
    optim = OptimConfig(
        base_lr=settings.lr, weight_decay=settings.weight_decay, layer_decay=settings.layer_decay
    )
    if settings.frozen:
        backbone.requires_grad_(False)
    return Finetuning(task, start, seed, folder, module, build_optimizer(module, optim), reading)


def card(run: Finetuning) -> dict[str, Any]:
    """What is written in `model.safetensors`, enough to rebuild the network."""
    return run.start.card() | {
        "task": run.task.name,
        "settings": run.task.settings.as_dict(),
        "classes": run.task.classes,
        "seed": run.seed,
        "step": run.step,
        "odis_version": __version__,
    }


def _train(run: Finetuning, log: RunLog, stop: Stop) -> None:
    settings = run.task.settings
    first, count = run.step * settings.batch, (settings.steps - run.step) * settings.batch
    if not count:
        return
    with stop.at_once():
        items = run.reading.items(run.task.samples(run.patch, run.seed, first, count))
    throughput = Throughput()
    while run.step < settings.steps:
        with stop.at_once():
            samples = _next(items, settings.batch)
        _step(run, samples, log)
        throughput.stepped()
        log.advance(run.step)
        at_end = run.step == settings.steps
        if at_end or run.step % settings.log_every == 0:
            values = {"loss": math.nan} | run.meters.means() | {"lr": _lr(run.task, run.step - 1)}
            values |= throughput.read(settings.batch, settings.steps - run.step)
            log.write(
                run.step, values | {"memory_gib": peak_memory(run.reading.device), "skipped": log.skipped}
            )
        stopping = stop.is_set()
        if at_end or stopping or run.step % settings.checkpoint_every == 0:
            _save_if_good(run, log)
        if stopping:
            log.say(f"{run.folder.name}: stopped after step {run.step}; the same command resumes")
            raise KeyboardInterrupt


def _next(items: Iterator[Any], count: int) -> list[Any]:
    """The usable ones of the next items."""
    return [one for one in islice(items, count) if not isinstance(one, Skipped)]


def _step(run: Finetuning, samples: list[Any], log: RunLog) -> None:
    """One update; without a usable image, a step that changes nothing."""
    settings, step = run.task.settings, run.step
    trains = not settings.frozen and step >= min(settings.head_steps, settings.steps // 2)
    run.module.train()
    run.backbone.train(trains)
    for parameter in run.backbone.parameters() if not settings.frozen else ():
        parameter.requires_grad_(trains)
    run.backbone.mask_token.requires_grad_(False)
    apply_settings(run.optimizer, scheduled(run.task, step))
    run.step += 1
    if not samples:
        log.warn(f"step {run.step}: none of its images could be used; nothing was learned")
        return
    # What is drawn in the pass (dropout, drop path, regions, mixup) is a function of seed and step.
    seed = np.random.SeedSequence([run.seed, step], spawn_key=(1,)).generate_state(2, np.uint32)
    torch.manual_seed(int(seed[0]))
    before = np.random.get_state()  # noqa: NPY002  timm's mixup draws there
    np.random.seed(int(seed[1]))  # noqa: NPY002
    try:
        losses = run.task.losses(run.module, samples, run.start, run.reading.device)
    finally:
        np.random.set_state(before)  # noqa: NPY002
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    norm = clip_gradients(run.module, settings.clip_grad, "global")
    finite = bool(step_if_finite(run.optimizer, norm + 0 * total.detach()))
    run.optimizer.zero_grad(set_to_none=True)
    run.meters.add({"loss": total.detach(), **{k: v.detach() for k, v in losses.items()}, "grad_norm": norm})
    run.nonfinite = 0 if finite else run.nonfinite + 1
    if not finite:
        log.nonfinite(run.step, [run.task.path_of(one) for one in samples])
    if run.nonfinite >= _NONFINITE_LIMIT:
        raise OdisError(
            f"{run.folder.name}: {counted(run.nonfinite, 'step in a row was', 'steps in a row were')} not "
            f"finite; {_last_good(run)}"
        )


def scheduled(task: Task, step: int) -> Settings:
    """The values of a step."""
    return Settings(_lr(task, step), task.settings.weight_decay, 0.0, 0.0, False)


def _lr(task: Task, step: int) -> float:
    settings = task.settings
    warm_up = min(settings.warm_up, settings.steps // 2)  # a short run reaches its peak too
    return cosine(step, settings.steps, settings.lr, 0.0, warm_up)


def _last_good(run: Finetuning) -> str:
    kept = checkpoints(run.folder / "checkpoints")
    good = f"the last good state is {kept[-1]}" if kept else "no checkpoint was written yet"
    return f"{good}; try a lower lr or precision fp32, in a new --out"


def _save_if_good(run: Finetuning, log: RunLog) -> None:
    """Save a state that is finite and whose step was taken.

    Raises:
        OdisError: The training ends in a state that is not finite.
        DataError: It cannot be written.
    """
    states = (run.module.state_dict(), run.optimizer.state_dict())
    at_end = run.step == run.task.settings.steps
    log.bring_to_disk()
    if are_finite(states, run.reading.device) and (at_end or not run.nonfinite):
        state: dict[str, Any] = dict(zip(("module", "optimizer"), states)) | {
            "step": run.step,
            "nonfinite": run.nonfinite,
            "meters": run.meters.state_dict(),
            "odis_version": __version__,
        }
        (run.folder / "checkpoints").mkdir(exist_ok=True)
        save_checkpoint(run.folder / "checkpoints", run.step, state, _KEEP)
    elif at_end:
        raise OdisError(f"{run.folder.name}: ends in weights that are not finite; {_last_good(run)}")
    else:
        log.warn(f"step {run.step}: is not finite, so this state is not saved")


def _restore(run: Finetuning) -> list[str]:
    """Take over the newest checkpoint that is whole, if there is one; a line about each that is damaged.

    Raises:
        DataError: There are checkpoints, and none is whole or fits.
    """
    folder = run.folder / "checkpoints"
    newest = newest_whole(folder, PARTS)
    if newest is None:
        return []
    state = newest.state
    try:
        run.module.load_state_dict(state["module"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.step, run.nonfinite = state["step"], state["nonfinite"]
        run.meters.load_state_dict(state["meters"], 0, run.reading.device)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        written = f"odis {state.get('odis_version')} wrote it, this is {__version__}"
        raise DataError(f"{folder}: does not fit ({written}): {str(error).splitlines()[0]}") from error
    set_aside(newest.damaged)
    return [f"{fault}; it goes on from step {run.step}" for fault in newest.damaged.values()]
