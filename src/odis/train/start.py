"""The state before the first step: precision, networks, centers, optimizer and schedules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.parallel import DistributedDataParallel

from odis.backbones.build import build_pair
from odis.backbones.sharding import shard
from odis.config.training import PretrainConfig
from odis.machine.allocator import keep_freed_memory, return_freed_memory
from odis.machine.devices import resolve_precision
from odis.machine.ranks import Ranks
from odis.machine.shards import mesh_of
from odis.method.block import attention_branch, block_at, mlp_branch
from odis.method.pair import teacher_of
from odis.method.step import Centers, LossTerms
from odis.method.vit import ObjectViT
from odis.train.optim import build_optimizer
from odis.train.run_folder import recorded_precision
from odis.train.schedules import Schedules
from odis.train.update import StudentPass, TeacherPass, TrainState


@dataclass(frozen=True, slots=True)
class Settled:
    """A config whose precision is settled."""

    config: PretrainConfig  # its precision is not `auto`
    asked: str  # the precision that was asked for, perhaps `auto`
    why: str = ""  # why `auto` chose it
    note: str = ""  # for a resumed run for which `auto` would choose otherwise here


def settle_precision(config: PretrainConfig, ranks: Ranks, out: Path | None = None) -> Settled:
    """Resolve `train.precision auto` on the first rank, for all ranks.

    Args:
        config: The run's config.
        ranks: This rank.
        out: The run's folder. If it holds a run, `auto` is that run's precision.

    Raises:
        DataError: if the folder's `config.yaml` cannot be read.
    """
    asked = config.train.precision
    if asked != "auto":
        return Settled(config, asked)
    choice, recorded = ranks.from_first(
        lambda: (
            resolve_precision("auto", ranks.device, "train.precision", measure=True),
            None if out is None else recorded_precision(out),
        )
    )
    precision = recorded or choice.name
    config = replace(config, train=replace(config.train, precision=cast(Any, precision)))
    if precision == choice.name:
        return Settled(config, asked, choice.why)
    note = (
        f"train.precision auto: the run goes on in {precision}, as it began; begun here it would take "
        f"{choice.name} ({choice.why})"
    )
    return Settled(config, asked, "as the run began", note)


def build_run(
    config: PretrainConfig, ranks: Ranks, *, images: int, provenance: str = "", recipe: str = ""
) -> TrainState:
    """The state before the first step: a function of the config, the same on every rank.

    Args:
        config: The run's config, checked.
        ranks: This rank.
        images: Images of the data, which make an epoch.
        provenance: Where the objects come from.
        recipe: Name of the recipe.

    Raises:
        ConfigError: for a model that cannot be built.
    """
    config = settle_precision(config, ranks).config
    if ranks.device.type == "cpu":
        return_freed_memory() if config.model.grad_checkpointing else keep_freed_memory()
    torch.manual_seed(config.train.seed)
    student, teacher = build_pair(config)
    terms = LossTerms.of(config)
    if not terms.patches:
        student.backbone.mask_token.requires_grad_(
            False
        )  # nothing is hidden, so it would never get a gradient
    student.to(ranks.device)
    teacher.to(ranks.device)
    # A run that resumes was built from the same weights.
    anchor = teacher_of(teacher).backbone if terms.every_patch else None
    centers = Centers(config.head.prototypes, config.loss.center_momentum).to(ranks.device)
    if config.train.compile:
        compile_blocks(student.backbone)
        compile_blocks(teacher.backbone)
    student_pass: torch.nn.Module = StudentPass(student, terms)
    teacher_pass = TeacherPass(teacher, config, terms)
    if ranks.distributed and config.train.parallel == "fsdp":
        mesh = mesh_of(ranks)
        shard(student_pass, student.backbone, mesh, trained=True)
        shard(teacher_pass, teacher.backbone, mesh, trained=False)
        if anchor is not None:
            shard(anchor, anchor, mesh, trained=False)
    elif ranks.distributed:
        student_pass = DistributedDataParallel(
            student_pass, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    return TrainState(
        config, ranks, terms, student, teacher, student_pass, teacher_pass, centers,
        optimizer=build_optimizer(student, config.optim),
        scaler=torch.amp.GradScaler(ranks.device.type, enabled=config.train.precision == "fp16"),
        schedules=Schedules(config, images), anchor=anchor, provenance=provenance, recipe=recipe,
    )  # fmt: skip


def compile_blocks(backbone: ObjectViT) -> None:
    """Compile the two branches of the blocks, once for all blocks: drop path, whose rate differs in each,
    stays outside.

    And the last block at the tokens that a loss reads. Their number differs from step to step, so its sizes
    are open.
    """
    backbone.attention_branch = torch.compile(attention_branch)
    backbone.mlp_branch = torch.compile(mlp_branch)
    backbone.last_block = torch.compile(block_at, dynamic=True)
