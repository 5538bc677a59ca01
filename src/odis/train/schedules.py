"""Schedules as pure functions of the step, so that a resumed run continues them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from odis.config.training import PretrainConfig


@dataclass(frozen=True, slots=True)
class Settings:
    """The scheduled values of one step."""

    lr: float
    weight_decay: float
    momentum_teacher: float
    teacher_temp: float
    last_layer_frozen: bool
    backbone_frozen: bool = False


def cosine(step: int, total: int, start: float, end: float, warmup: int = 0) -> float:
    """Linear from 0 to `start` over `warmup` steps, then half a cosine to `end` (DINO, `cosine_scheduler`).

    Args:
        step: 0 to total - 1.
        total: Steps of the run.
        start: Value at the end of the warm-up.
        end: Value that the cosine reaches at `total`.
        warmup: Steps of warm-up, which begins at 0.
    """
    if step < warmup:
        return start * step / max(1, warmup - 1)
    progress = (step - warmup) / max(1, total - warmup)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, slots=True)
class Schedules:
    """The length of a run in steps, and its settings at each step."""

    config: PretrainConfig
    images: int

    @property
    def steps_per_epoch(self) -> float:
        return self.images / self.config.train.batch_size

    @property
    def total_steps(self) -> int:
        train = self.config.train
        return train.steps if train.steps is not None else max(1, round(train.epochs * self.steps_per_epoch))

    @property
    def lr(self) -> float:
        """The peak learning rate: base_lr * batch_size / 256."""
        return self.config.optim.base_lr * self.config.train.batch_size / 256

    def _steps(self, epochs: float) -> int:
        # At most half of the run, so that a short run reaches its peak and moves its prototypes too.
        return min(round(epochs * self.steps_per_epoch), self.total_steps // 2)

    def at(self, step: int) -> Settings:
        """Settings of step `step` (0 to total_steps - 1)."""
        optim, loss, total = self.config.optim, self.config.loss, self.total_steps
        temp_steps = self._steps(loss.warmup_teacher_temp_epochs)
        frozen = optim.freeze_last_layer_epochs
        share = min(1.0, step / temp_steps) if temp_steps else 1.0
        return Settings(
            lr=cosine(step, total, self.lr, min(optim.min_lr, self.lr), self._steps(optim.warmup_epochs)),
            weight_decay=cosine(step, total, optim.weight_decay, optim.weight_decay_end),
            momentum_teacher=cosine(step, total, optim.momentum_teacher, 1.0),
            teacher_temp=loss.warmup_teacher_temp + share * (loss.teacher_temp - loss.warmup_teacher_temp),
            last_layer_frozen=frozen == "always" or step < self._steps(frozen),
            backbone_frozen=step < self._steps(optim.freeze_backbone_epochs),
        )
