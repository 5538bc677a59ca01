"""What a run begins with: networks, centers, optimiser and schedules, as its config and seed make them."""

from __future__ import annotations

import torch
from torch.nn.parallel import DistributedDataParallel

from odis.backbones.build import build_pair
from odis.config.training import PretrainConfig
from odis.machine.allocator import keep_freed_memory, return_freed_memory
from odis.machine.ranks import Ranks
from odis.method.step import Centers, LossTerms
from odis.train.optim import build_optimizer
from odis.train.schedules import Schedules
from odis.train.update import StudentPass, TrainState


def build_run(
    config: PretrainConfig, ranks: Ranks, *, images: int, provenance: str = "", recipe: str = ""
) -> TrainState:
    """A run before its first step; the same one for the same config, on every rank.

    Args:
        config: The run's config, checked.
        ranks: This process among all, and its device.
        images: How many images the data has: an epoch.
        provenance: Where the objects come from.
        recipe: Name of the recipe.

    Raises:
        ConfigError: for a model that cannot be built.
    """
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
    centers = Centers(config.head.prototypes, config.loss.center_momentum).to(ranks.device)
    if config.train.compile:
        student.backbone.compile_blocks()
        teacher.backbone.compile_blocks()
    student_pass: torch.nn.Module = StudentPass(student, terms)
    if ranks.distributed:
        student_pass = DistributedDataParallel(
            student_pass, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    return TrainState(
        config, ranks, terms, student, teacher, student_pass, centers,
        optimizer=build_optimizer(student, config.optim),
        scaler=torch.amp.GradScaler(ranks.device.type, enabled=config.train.precision == "fp16"),
        schedules=Schedules(config, images), provenance=provenance, recipe=recipe,
    )  # fmt: skip
