"""One update: the step of `method/step.py` in micro-batches, then gradients, optimizer, teacher and
centers.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from odis.config.training import PretrainConfig
from odis.machine.devices import DTYPES
from odis.machine.ranks import Ranks, sum_over_ranks
from odis.machine.shards import is_sharded
from odis.method.pair import Network, update_teacher
from odis.method.step import (
    Centers,
    LossTerms,
    compute_losses,
    student_pass,
    teacher_pass,
)
from odis.method.vit import ObjectViT
from odis.train.anchor import add_gram, anchor_patches
from odis.train.metrics import Meters, collapse_meters
from odis.train.optim import NEW_TOKENS, apply_settings, clip_gradients, step_if_finite
from odis.train.schedules import Schedules
from odis.types import Batch, Losses, StudentOutput, TeacherOutput


class StudentPass(nn.Module):
    """`student_pass` as a module: DDP synchronises gradients of what one module's forward computed, and FSDP
    gathers the parameters of what runs in one.
    """

    def __init__(self, student: Network, terms: LossTerms) -> None:
        super().__init__()
        self.student = student
        self.terms = terms

    def forward(self, batch: Batch) -> StudentOutput:
        return student_pass(self.student, batch, self.terms)


class TeacherPass(nn.Module):
    """`teacher_pass` as a module, whose parameters FSDP gathers while it runs."""

    def __init__(self, teacher: Network, config: PretrainConfig, terms: LossTerms) -> None:
        super().__init__()
        self.teacher = teacher
        self.config = config
        self.terms = terms

    def forward(self, batch: Batch, centers: Centers, temp: float) -> TeacherOutput:
        return teacher_pass(self.teacher, batch, centers, temp, self.config, self.terms)


@dataclass
class TrainState:
    """What a run carries from step to step."""

    config: PretrainConfig
    ranks: Ranks
    terms: LossTerms
    student: Network
    teacher: Network
    student_pass: torch.nn.Module  # StudentPass, in DDP or sharded when there are several ranks
    teacher_pass: torch.nn.Module  # TeacherPass, sharded as the student is
    centers: Centers
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    schedules: Schedules
    anchor: ObjectViT | None = None  # the backbone that the run started from, for the Gram anchor
    step: int = 0  # steps taken
    provenance: str = ""
    recipe: str = ""
    nonfinite: int = 0  # non-finite steps in a row
    pending: tuple[Tensor, int, list[str]] | None = (
        None  # the last step's finite flag, still on the device; its number and images
    )
    meters: Meters = field(default_factory=Meters)

    @property
    def patch_size(self) -> int:
        return int(self.student.backbone.patch_embed.patch_size[0])

    @property
    def sharded(self) -> bool:
        """Whether each rank holds a part only of student, teacher and moments."""
        return is_sharded(next(self.student.parameters()))


def train_step(run: TrainState, micro_batches: list[Batch], *, meters: bool = False) -> None:
    """One update of student, teacher and centers from one batch (in `train.accumulate` parts)."""
    settings = run.schedules.at(run.step)
    # Drop path draws from torch's global generator: a function of (seed, step, rank) continues across a
    # resume by itself.
    seed = np.random.SeedSequence([run.config.train.seed, run.step, run.ranks.rank]).generate_state(
        1, np.uint64
    )[0]
    torch.manual_seed(int(seed))
    apply_settings(run.optimizer, settings)
    total = torch.zeros((), device=run.ranks.device)
    # The object term is a mean over the pairs of the whole batch, which micro-batches share unequally.
    pairs = torch.stack([batch.pairs for batch in micro_batches]).mean()
    for i, batch in enumerate(replace(batch, pairs=pairs) for batch in micro_batches):
        last = i == len(micro_batches) - 1
        with _gradient_sync(run.student_pass, last):
            losses, teacher, student = _forward(run, batch, settings.teacher_temp)
            run.scaler.scale(losses.total / len(micro_batches)).backward()
        total += losses.total.detach()
        run.centers.add(teacher)
        run.meters.add(losses.named())
        if meters and last:
            run.meters.add(collapse_meters(teacher.objects, student.features))
    run.centers.update()
    if settings.last_layer_frozen:
        for head in {run.student.head, run.student.patch_head}:
            for parameter in head.last_layer.parameters():
                parameter.grad = None
    if settings.backbone_frozen:
        for name, parameter in run.student.backbone.named_parameters():
            if name not in NEW_TOKENS:
                parameter.grad = None
    run.scaler.unscale_(run.optimizer) if run.scaler.is_enabled() else None
    norm = clip_gradients(run.student, run.config.optim.clip_grad, run.config.optim.clip)
    if run.scaler.is_enabled():
        # In fp16 an overflowing gradient is how the scale is found: only the loss itself tells of trouble.
        run.scaler.step(run.optimizer)
        run.scaler.update()
        finite = torch.isfinite(sum_over_ranks(total))
    else:
        finite = step_if_finite(run.optimizer, norm)
    run.optimizer.zero_grad(set_to_none=True)
    update_teacher(run.student, run.teacher, settings.momentum_teacher)
    run.meters.add({"grad_norm": norm})
    run.step += 1
    run.pending = (finite, run.step, [path for batch in micro_batches for path in batch.paths])


def _forward(run: TrainState, batch: Batch, temp: float) -> tuple[Losses, TeacherOutput, StudentOutput]:
    dtype = DTYPES[run.config.train.precision]
    # Its cache keeps a copy of every weight until the end of the passes: all that is gathered, on each rank.
    keeps = not (run.sharded and run.config.model.grad_checkpointing)
    with torch.autocast(
        run.ranks.device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=keeps
    ):
        teacher = run.teacher_pass(batch, run.centers, temp)
        student = run.student_pass(batch)
        anchor = None if run.anchor is None else anchor_patches(run.anchor, batch)
    losses = compute_losses(student, teacher, batch, run.config)
    if anchor is not None:
        losses = add_gram(losses, student, anchor, len(batch.global_views), run.config.loss.gram_weight)
    return losses, teacher, student


def _gradient_sync(module: torch.nn.Module, sync: bool) -> contextlib.AbstractContextManager[None]:
    """DDP adds gradients up and reduces them once; FSDP reduces those of every micro-batch, so that no rank
    holds all of them.
    """
    if isinstance(module, DistributedDataParallel) and not sync:
        return module.no_sync()
    return contextlib.nullcontext()
