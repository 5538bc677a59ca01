"""Settings of the protocols that train heads by AdamW, iteration by iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.protocols.protocol import ProtocolSettings

SWEEP = ((1e-4, 3e-4, 1e-3), (1e-4, 1e-3))
"""Learning rates and weight decays of DINOv3's sweep."""


@dataclass(frozen=True, kw_only=True)
class IteratedSettings(ProtocolSettings):
    """Settings of the protocol.

    Args:
        lr: Learning rates of AdamW; each with each weight decay trains a head of its own on the same views.
        weight_decay: Weight decays.
        sweep: Train the heads of the published sweep: lr 1e-4, 3e-4, 1e-3, each with weight decay 1e-4 and
            1e-3.
        iterations: Steps.
        batch: Views in a step.
        cache: Folder in which the heads are kept while they train; the same call goes on there.
        keep_every: Steps between two states that are kept.
    """

    lr: Sequence[float] = (1e-3,)
    weight_decay: Sequence[float] = (1e-3,)
    sweep: bool = False
    iterations: int = 40000
    batch: int = 16
    cache: str | None = None
    keep_every: int = 500

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        ProtocolSettings.check(self)
        for name in ("iterations", "batch", "keep_every"):
            if getattr(self, name) < 1:
                raise OdisError(f"{name.replace('_', '-')} {getattr(self, name)} must be 1 or more")
        if not self.lr or min(self.lr) <= 0:
            raise OdisError(f"lr {list(self.lr)} must be one or more numbers above 0")
        if not self.weight_decay or min(self.weight_decay) < 0:
            raise OdisError(f"weight-decay {list(self.weight_decay)} must be one or more numbers, 0 or above")
        usual = {one.name: one.default for one in fields(self)}
        given = [name for name in ("lr", "weight_decay") if tuple(getattr(self, name)) != usual[name]]
        if self.sweep and given:
            raise OdisError(
                "sweep names its own learning rates and weight decays; leave out lr and weight-decay"
            )

    def check_warm_up(self, steps: int) -> None:
        """Refuse a warm-up that is longer than the training.

        Raises:
            OdisError: Naming it.
        """
        if not 0 <= steps <= self.iterations:
            raise OdisError(f"warm-up {steps} must be from 0 to the {counted(self.iterations, 'iteration')}")

    def swept(self) -> Self:
        """With the learning rates and weight decays of the sweep, if it is asked for."""
        return replace(self, lr=SWEEP[0], weight_decay=SWEEP[1], sweep=False) if self.sweep else self

    @property
    def heads(self) -> list[tuple[float, float]]:
        """Learning rate and weight decay of each head."""
        return [(lr, decay) for lr in self.lr for decay in self.weight_decay]
