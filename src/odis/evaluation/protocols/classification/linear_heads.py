"""Linear heads on frozen features, a grid of learning rates trained at once on the same batches, as the
protocols of ImageNet train them.

Letters: b rows of a batch, D width, G learning rates, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from odis.evaluation.probe import MOMENTUM, loss_gradient


class LinearHeads:
    """G linear classifiers of one kind of features, by SGD with momentum .9 and without weight decay.

    Weights start at N(0, .01) and biases at 0 (DINO, eval_linear.py); features are taken as they are. All
    gradients are those of the mean cross-entropy of each head alone.

    Args:
        width: D.
        lrs: G learning rates.
        classes: C.
        device: Where.
        seed: Of the weights; every head starts alike.
    """

    def __init__(
        self, width: int, lrs: Sequence[float], classes: int, device: torch.device, seed: int
    ) -> None:
        start = 0.01 * torch.randn(width, 1, classes, generator=torch.Generator().manual_seed(seed))
        self.weight = start.repeat(1, len(lrs), 1).to(device)  # (D, G, C)
        self.bias = torch.zeros(len(lrs), classes, device=device)
        self.speeds = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.lrs = torch.tensor(list(lrs), device=device)[:, None]  # (G, 1)

    def step(self, features: Tensor, targets: Tensor, share: float) -> None:
        """One step of SGD.

        Args:
            features: float32 (b, D).
            targets: int64 (b,).
            share: Of the learning rates, from the schedule.
        """
        logits = self._logits(features)
        error = loss_gradient(logits, targets) / len(targets)  # (b, G, C)
        rate = self.lrs * share
        gradients = (features.T @ error.flatten(1)).view_as(self.weight), error.sum(0)
        for parameter, speed, gradient in zip((self.weight, self.bias), self.speeds, gradients, strict=True):
            speed.mul_(MOMENTUM).add_(gradient)
            parameter.sub_(rate * speed)

    def predict(self, features: Tensor, rows: int = 1024) -> Tensor:
        """The class that each head gives each row: int64 (n, G), on the CPU; -1 where logits are not finite.

        Args:
            features: float32 (n, D).
            rows: Rows at a time.
        """
        parts = []
        for part in features.split(rows):
            logits = self._logits(part.to(self.weight.device))
            best = logits.argmax(-1)
            parts.append(best.masked_fill(~logits.isfinite().all(-1), -1).cpu())
        return torch.cat(parts) if parts else torch.empty(0, len(self.lrs), dtype=torch.int64)

    def _logits(self, features: Tensor) -> Tensor:
        """(b, G, C)."""
        logits: Tensor = (features @ self.weight.flatten(1)).unflatten(1, self.bias.shape) + self.bias
        return logits

    def state(self) -> dict[str, Tensor]:
        """All that training goes on from, on the CPU."""
        names = ("weight", "bias", "weight_speed", "bias_speed")
        return {
            name: value.cpu().contiguous()
            for name, value in zip(names, (self.weight, self.bias, *self.speeds), strict=True)
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        for name, value in (
            ("weight", self.weight),
            ("bias", self.bias),
            ("weight_speed", self.speeds[0]),
            ("bias_speed", self.speeds[1]),
        ):
            value.copy_(state[name])
