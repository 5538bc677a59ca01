"""Which of a detector's boxes become objects: score, overlap, size, number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

from odis.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """What a box must satisfy.

    Args:
        min_score: Least score.
        nms: Of two boxes whose intersection over union is above this, the one with the higher score stays; 1
            keeps both.
        across_classes: Compare boxes of different classes too; else only those of one class.
        min_size: Least length of the shorter side in pixels, after the box was clipped to the image.
        max_objects: At most so many, those with the highest scores.
    """

    min_score: float = 0.3
    nms: float = 0.5
    across_classes: bool = False
    min_size: float = 8.0
    max_objects: int = 100

    def check(self) -> None:
        """Refuse limits that make no sense.

        Raises:
            ConfigError: Naming the setting and what is allowed.
        """
        for name, value in (("min-score", self.min_score), ("nms", self.nms)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name}: is {value}, must be from 0 to 1")
        if not self.min_size >= 0:
            raise ConfigError(f"min-size: is {self.min_size}, must be 0 or more")
        if self.max_objects < 1:
            raise ConfigError(f"max-objects: is {self.max_objects}, must be 1 or more")


def keep(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, size: tuple[int, int], limits: Limits
) -> tuple[Tensor, Tensor]:
    """The boxes that stay, clipped to the image, the highest score first.

    Boxes that are empty after clipping or not finite, and those with a score that is not finite, never stay.
    Overlap is measured before small boxes are dropped, between clipped boxes.

    Args:
        boxes: float (n, 4), x0, y0, x1, y1 in pixels.
        scores: float (n,).
        labels: int64 (n,), or None if there are no classes.
        size: `(width, height)` of the image.
        limits: What a box must satisfy.

    Returns:
        The boxes, float (k, 4), and which of the n they were, int64 (k,).
    """
    width, height = size
    usable = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores) & (scores >= limits.min_score)
    clipped = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], dim=2).reshape(
        -1, 4
    )
    sides = clipped[:, 2:] - clipped[:, :2]
    usable &= (sides > 0).all(dim=1)
    chosen = usable.nonzero().flatten()
    chosen = chosen[torch.argsort(scores[chosen], descending=True, stable=True)]
    stays = torch.zeros(len(boxes), dtype=torch.bool)
    if labels is None or limits.across_classes:
        stays[chosen[nms(clipped[chosen], scores[chosen], limits.nms)]] = True
    else:
        for label in labels[chosen].unique():
            same = chosen[labels[chosen] == label]
            stays[same[nms(clipped[same], scores[same], limits.nms)]] = True
    stays &= sides.min(dim=1).values >= limits.min_size
    chosen = chosen[stays[chosen]][: limits.max_objects]
    return clipped[chosen], chosen
