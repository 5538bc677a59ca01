"""What a run begins with: networks, centres, optimiser and schedules, as its config and seed make them."""

from __future__ import annotations

import torch
from torch.nn.parallel import DistributedDataParallel

from odis.config import PretrainConfig
from odis.memory import keep_freed_memory, return_freed_memory
from odis.model.pair import build_pair
from odis.train.distributed import Ranks
from odis.train.optim import build_optimizer
from odis.train.schedules import Schedules
from odis.train.step import Centres, Question, Run, StudentPass


def build_run(config: PretrainConfig, ranks: Ranks, *, images: int, provenance: str = "", recipe: str = "") -> Run:
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
    question = Question.of(config)
    if not question.patches:
        student.backbone.mask_token.requires_grad_(False)  # nothing is hidden, so it would never get a gradient
    student.to(ranks.device)
    teacher.to(ranks.device)
    centres = Centres(config.head.prototypes, config.loss.centre_momentum).to(ranks.device)
    if config.train.compile:
        student.backbone.compile_blocks()
        teacher.backbone.compile_blocks()
    student_pass: torch.nn.Module = StudentPass(student, question)
    if ranks.distributed:
        student_pass = DistributedDataParallel(student_pass, broadcast_buffers=False, gradient_as_bucket_view=True)
    return Run(
        config, ranks, question, student, teacher, student_pass, centres,
        optimizer=build_optimizer(student, config.optim),
        scaler=torch.amp.GradScaler(ranks.device.type, enabled=config.train.precision == "fp16"),
        schedules=Schedules(config, images), provenance=provenance, recipe=recipe,
    )  # fmt: skip
