"""The training loop: steps, logs, evaluations, checkpoints. A later call resumes it bit for bit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from odis.backbones.fp16_range import PROBED, require_fp16_range
from odis.backbones.published import follow_weights, say_default_tag, start_record, start_weights
from odis.config.checks import check
from odis.config.training import PretrainConfig, as_dict
from odis.config.wording import counted
from odis.data.loader import make_loader
from odis.data.pixels.reader import make_folders
from odis.data.pixels.shrink import are_large
from odis.errors import ConfigError, DataError, OdisError, UnreachableError
from odis.machine.devices import describe_device, peak_memory, resolve_device
from odis.machine.files import remove_leftovers
from odis.machine.locks import sole_owner
from odis.machine.ranks import Ranks, launch, ranks
from odis.method.vit import ObjectViT
from odis.objects.check import all_have_masks, require_labels, require_objects
from odis.objects.index import ObjectIndex
from odis.train.checkpoint import checkpoints, newest_step
from odis.train.fingerprints import fingerprints
from odis.train.loggers import require_packages
from odis.train.loggers.pictures import step_pictures
from odis.train.rediscovery import Rounds, provenance_of
from odis.train.run_folder import flat, prepare
from odis.train.run_log import RunLog, Throughput
from odis.train.saved_state import is_good, restore_state, save_state, whole_backbone
from odis.train.start import Settled, build_run, settle_precision
from odis.train.stop import Interrupted, Stop, stop_signals
from odis.train.update import TrainState, train_step
from odis.types import Batch

Evaluate = Callable[[ObjectViT, PretrainConfig], dict[str, float]]
"""Evaluates the teacher's backbone; returns named scores."""


def pretrain(
    config: PretrainConfig,
    out: Path,
    *,
    recipe: str = "",
    evaluate: Evaluate | None = None,
    restart_from: int | None = None,
) -> Path:
    """Train in `out` until the run is complete, from its newest checkpoint if it has one.

    Args:
        config: The run's config.
        out: The run's folder.
        recipe: Name of the recipe, for the record.
        evaluate: Called every `train.knn_every` steps and at the end.
        restart_from: Go on after this step, of which there is a checkpoint, and forget the steps behind it;
            `optim`, `loss` and `train.precision` may then differ. The same call again resumes.

    Returns:
        `out`, which holds `model.safetensors` (the teacher's backbone), `config.yaml`, `metrics.jsonl` and
        `checkpoints/`.

    Raises:
        ConfigError: for settings that cannot train, or that differ from those of the run in `out`.
        DataError: for an index, image (with `strict`) or checkpoint that cannot be used.
        UnreachableError: The store of an image does not answer; the state is saved, by several ranks that of
            the last checkpoint.
        KeyboardInterrupt: after Ctrl-C, SIGTERM or (`Preempted`) SIGUSR1, once the state is saved.
    """
    check(config, launch().world_size)
    require_packages(config.train.loggers)
    config = follow_weights(config)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    device = resolve_device(config.train.device, "train.device")
    with ranks(device) as here, _owner(out, here):
        run, index, settled = _start(config, out, here, recipe, restart_from)
        faults = restore_state(run, out)
        log = RunLog(
            out, here, total_steps=run.schedules.total_steps, start_step=run.step,
            prototypes=config.head.prototypes, loggers=config.train.loggers, config=flat(as_dict(config)),
            anew=run.step > 0 and run.step == restart_from,
        )  # fmt: skip
        try:
            for fault in faults if here.is_first else ():
                log.warn(fault)
            _train(run, index, out, log, evaluate, settled)
        finally:
            log.close()
    return out


@contextlib.contextmanager
def _owner(out: Path, here: Ranks) -> Iterator[None]:
    """The first rank owns the run's folder for all, and removes what killed processes left there."""

    def enter() -> None:
        if out.is_file():
            raise DataError(f"{out}: is a file; a run is a folder")
        stack.enter_context(sole_owner(out, inside=True))
        for folder in (out, out / "checkpoints", out / "objects") if (out / "config.yaml").exists() else ():
            remove_leftovers(folder)

    with contextlib.ExitStack() as stack:
        here.from_first(enter)
        yield


def _start(
    config: PretrainConfig, out: Path, here: Ranks, recipe: str, restart_from: int | None
) -> tuple[TrainState, ObjectIndex, Settled]:
    index = ObjectIndex.open(config.data, config.strict, config.root)
    if len(index) == 0:
        raise ConfigError(f"data: {config.data} holds no images")
    if config.objects.use and not config.objects.rediscover_every:
        require_objects(index)
        if config.objects.unit == "classes":
            require_labels(index)
    make_folders(config.loader)  # refuse one that cannot be written before the run exists
    settled = settle_precision(config, here, out)
    config = settled.config
    run = build_run(config, here, images=len(index), provenance=provenance_of(config, index), recipe=recipe)

    def enter() -> None:
        resolved = _resolved(run, index, settled.asked)
        prepare(out, config, resolved | {"fingerprints": fingerprints(config, index)}, restart_from)

    here.from_first(enter)
    return run, index, settled


def _resolved(run: TrainState, index: ObjectIndex, asked: str) -> dict[str, Any]:
    """What the settings come to on this data and machine, for `config.yaml`."""
    per_rank = run.config.train.batch_size // run.ranks.world_size // run.config.train.accumulate
    return {
        "images": len(index),
        "provenance": run.provenance,
        "total_steps": run.schedules.total_steps,
        "steps_per_epoch": round(run.schedules.steps_per_epoch, 3),
        "lr": run.schedules.lr,
        "micro_batch_per_rank": per_rank,
        "ranks": run.ranks.world_size,
        "backbone_parameters": sum(p.numel() for p in run.student.backbone.parameters()),
        "precision": run.config.train.precision,
        "precision_asked": asked,
        "device": describe_device(run.ranks.device),
        "recipe": run.recipe,
        "start_weights": start_record(run.config.model),
    }


def _train(
    run: TrainState,
    index: ObjectIndex,
    out: Path,
    log: RunLog,
    evaluate: Evaluate | None,
    settled: Settled,
) -> None:
    total = run.schedules.total_steps
    complete = run.step >= total
    if not complete:
        _introduce(run, index, log, settled)
    rounds = Rounds(run, index, out)
    with stop_signals(run.ranks) as stop:
        try:
            _evaluate_if_due(run, log, evaluate, stop)
            while run.step < total:
                with stop.at_once():
                    objects, end = rounds.span(lambda s: log.skip(run.step, [s]))
                if run.config.objects.rediscover_every:
                    log.say(
                        f"from step {run.step + 1} to {end}: {objects.count_objects() / len(objects):.2f} "
                        f"objects an image ({objects.provenance})"
                    )
                _train_on(objects, end, run, out, log, evaluate, stop)
        except Interrupted:
            if run.step > newest_step(out / "checkpoints"):
                _check_finite(run, run.pending, log, out)
                _save_if_good(run, log, out)
            _say_stopped(run, log, out)
            raise stop.interruption() from None
        except UnreachableError:
            if run.ranks.world_size == 1 and run.step > newest_step(out / "checkpoints"):
                _check_finite(run, run.pending, log, out)
                _save_if_good(run, log, out)
            _say_stopped(run, log, out)
            raise
    if complete:
        log.say(f"{out}: the run is complete ({counted(total, 'step')})")
        return
    skipped = (
        f"; {counted(log.skipped, 'file or object', 'files or objects')} skipped, named in skipped.jsonl"
        if log.skipped
        else ""
    )
    log.say(f"done: {out / 'model.safetensors'}{skipped}")


def _introduce(run: TrainState, index: ObjectIndex, log: RunLog, settled: Settled) -> None:
    """Say what is trained, and how."""
    train, total = run.config.train, run.schedules.total_steps
    chosen = f" (auto: {settled.why})" if settled.why else ""
    resumed = f", resumed after step {run.step}" if run.step else ""
    log.say(
        f"{counted(len(index), 'image')} ({run.provenance}), {counted(total, 'step')} of {train.batch_size} "
        f"({run.schedules.steps_per_epoch:.1f} an epoch), lr {run.schedules.lr:.3g}, "
        f"{train.precision}{chosen} on {describe_device(run.ranks.device)}{resumed}"
    )
    if settled.note:
        log.say(settled.note)
    if (start := start_weights(run.config.model)) is not None:
        log.say(f"starts from {start.source}: {start.line()}")
        say_default_tag(start, ", or give views.mean and views.std")
    views = run.config.views
    if _margin_is_idle(run.config, index):
        log.say(
            f"views.mask_margin {views.mask_margin} does nothing here: it widens boxes, and all objects have "
            "masks; --views.mask_shape component-boxes widens those too"
        )
    if not run.config.loader.keep and total > 2 * run.schedules.steps_per_epoch and are_large(index, views):
        log.say(
            "these are large photographs: --loader.keep '[disk:DIR]' keeps smaller copies of them, which are "
            "read faster from the second epoch on"
        )


def _margin_is_idle(config: PretrainConfig, index: ObjectIndex) -> bool:
    """Whether there is nothing that `views.mask_margin` widens."""
    views, objects = config.views, config.objects
    reads_masks = objects.use and views.object_masks and not objects.rediscover_every
    return reads_masks and views.mask_margin > 0 and views.mask_shape == "area" and all_have_masks(index)


def _train_on(
    objects: ObjectIndex,
    end: int,
    run: TrainState,
    out: Path,
    log: RunLog,
    evaluate: Evaluate | None,
    stop: Stop,
) -> None:
    """Take the steps up to `end` on these objects."""
    train, total = run.config.train, run.schedules.total_steps
    loader = make_loader(
        objects, run.config, patch_size=run.patch_size, start_step=run.step, steps=end,
        rank=run.ranks.rank, world_size=run.ranks.world_size,
    )  # fmt: skip
    batches, throughput = iter(loader), Throughput()
    while run.step < end:
        with stop.at_once():
            micro_batches = _next(batches, train.accumulate, throughput)
        for batch in micro_batches:
            log.skip(run.step + 1, batch.skipped)
        if run.step == 0 and train.precision == "fp16":
            views = micro_batches[0].global_views[:PROBED].to(run.ranks.device)
            require_fp16_range(run.teacher.backbone, views, run.config.model.name)
        logs = (run.step + 1) % train.log_every == 0 or run.step + 1 == total
        before = run.pending
        train_step(run, [b.to(run.ranks.device) for b in micro_batches], meters=logs)
        throughput.stepped()
        # The flag of the step before: reading it does not wait for this step.
        _check_finite(run, before, log, out)
        log.advance(run.step)
        if log.shows_pictures(run.step, train.pictures_every):
            teacher = whole_backbone(run)
            if teacher is not None and run.ranks.is_first:
                log.pictures(run.step, step_pictures(micro_batches[0], teacher, run.config))
        if logs:
            log.name_skipped()
            settings = run.schedules.at(run.step - 1)
            values = run.meters.means() | {"lr": settings.lr, "momentum_teacher": settings.momentum_teacher}
            values |= {"teacher_temp": settings.teacher_temp, "weight_decay": settings.weight_decay}
            values |= throughput.read(train.batch_size, total - run.step)
            log.write(
                run.step, values | {"memory_gib": peak_memory(run.ranks.device), "skipped": log.skipped}
            )
        stopping = stop.is_set()
        if run.step == end or stopping or (train.checkpoint_every and run.step % train.checkpoint_every == 0):
            _check_finite(run, run.pending, log, out)
            run.pending = None
            _save_if_good(run, log, out)
        if stopping:
            _say_stopped(run, log, out)
            raise stop.interruption()
        if _evaluate_if_due(run, log, evaluate, stop):
            throughput.restart()


def _evaluate_if_due(run: TrainState, log: RunLog, evaluate: Evaluate | None, stop: Stop) -> bool:
    """Evaluate the teacher of this step once: after the step, or when the run is resumed, if it was killed
    before the scores were written. Other ranks wait. Returns whether there was an evaluation.

    Raises:
        Interrupted: A signal ended it.
    """
    if evaluate is None or not _is_due(run, log):
        return False
    interrupted, teacher = False, whole_backbone(run)
    if run.ranks.is_first and teacher is not None:
        try:
            with stop.at_once(alone=True):
                scores = evaluate(teacher, run.config)
            log.write(run.step, scores)
        except Interrupted:
            interrupted = True
        except OdisError as error:  # the run goes on
            log.warn(f"step {run.step}: the evaluation during training failed: {error}")
    if run.ranks.any(interrupted):
        raise Interrupted
    return True


def _is_due(run: TrainState, log: RunLog) -> bool:
    """Whether an evaluation belongs after this step, and its scores were not written. All ranks call it."""
    every, at_end = run.config.train.knn_every, run.step == run.schedules.total_steps
    if not run.step or not (at_end or (every and run.step % every == 0)):
        return False
    return run.ranks.from_first(lambda: not log.has_scores(run.step))


def _next(batches: Iterator[Batch], count: int, throughput: Throughput) -> list[Batch]:
    before = time.perf_counter()
    micro_batches = [next(batches) for _ in range(count)]
    throughput.waited(time.perf_counter() - before)
    return micro_batches


def _check_finite(
    run: TrainState, pending: tuple[Tensor, int, list[str]] | None, log: RunLog, out: Path
) -> None:
    """Count non-finite steps in a row and name their images; stop after `train.nonfinite_limit`."""
    if pending is None:
        return
    finite, step, paths = pending
    if bool(finite):
        run.nonfinite = 0
        return
    run.nonfinite += 1
    log.nonfinite(step, paths)
    if run.nonfinite >= run.config.train.nonfinite_limit:
        raise OdisError(
            f"{counted(run.nonfinite, 'step in a row was', 'steps in a row were')} not finite; "
            f"{_last_good(run, out)}"
        )


def _last_good(run: TrainState, out: Path) -> str:
    """Which state is good, and how to go on from it."""
    step, lower = newest_step(out / "checkpoints"), run.config.optim.base_lr / 2
    if not step:
        return (
            "no checkpoint was written yet; try a lower optim.base_lr or train.precision fp32, in a new --out"
        )
    return (
        f"the last good state is {checkpoints(out / 'checkpoints')[-1]}; to go on from it, try "
        f"--restart-from {step} with a lower --optim.base_lr ({lower:g}) or --train.precision fp32"
    )


def _save_if_good(run: TrainState, log: RunLog, out: Path) -> None:
    """Save a state that is finite and whose step was taken; at the end of the run, one whose step was not
    will do.

    Raises:
        OdisError: The run ends in a state that is not finite.
    """
    at_end = run.step == run.schedules.total_steps
    log.bring_to_disk()
    if is_good(run) and (at_end or not run.nonfinite):
        save_state(run, out)
    elif at_end:
        raise OdisError(f"the run ends in weights that are not finite; {_last_good(run, out)}")
    elif run.ranks.is_first:
        log.warn(f"step {run.step}: is not finite, so this state is not saved")


def _say_stopped(run: TrainState, log: RunLog, out: Path) -> None:
    saved = newest_step(out / "checkpoints")
    where = "" if saved == run.step else f", {f'after step {saved}' if saved else 'from the start'}"
    log.say(f"stopped after step {run.step}; the same command resumes{where}")
