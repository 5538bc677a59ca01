"""The linear head of segmentation of DINOv3: dropout of channels, batch norm, a 1 x 1 convolution; its loss
and its schedule.

Letters: B images, D width, C classes, h, w the patch grid, S side of a view.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odis.evaluation.label_maps import IGNORE

_AT_ONCE = 1 << 26  # scores of pixels held at a time: 256 MB


class ChannelHead(nn.Module):
    """Class scores of patches.

    Args:
        width: D.
        classes: C.
        dropout: Share of channels that are dropped in training.
    """

    def __init__(self, width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, classes, 1)
        nn.init.normal_(self.conv.weight, std=0.01)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) of features (B, D, h, w)."""
        scores: Tensor = self.conv(self.norm(self.dropout(features)))
        return scores


def pixel_loss(scores: Tensor, labels: Tensor, *, whole: bool = False) -> Tensor:
    """Mean over pixels of the cross-entropy of scores enlarged bilinearly to the labels, some images at a
    time.

    Args:
        scores: (B, C, h, w); has a gradient.
        labels: int64 (B, S, S), from 0 to C - 1 or IGNORE.
        whole: Divide by all pixels, the ignored ones too, as the reference does; else by the labelled ones.
    """
    leaf = scores.detach().requires_grad_()
    count = labels.numel() if whole else max(1, int((labels != IGNORE).sum()))
    some = max(1, _AT_ONCE // (scores.shape[1] * labels[0].numel()))
    total = scores.new_zeros(())
    for part, truth in zip(leaf.split(some), labels.split(some)):
        large = F.interpolate(part, truth.shape[-2:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(large, truth, ignore_index=IGNORE, reduction="sum") / count
        if torch.is_grad_enabled() and scores.requires_grad:
            loss.backward()
        total = total + loss.detach()
    if leaf.grad is None:
        return total
    # Its value is the loss, its gradient at the scores that of the parts.
    return total + (scores * leaf.grad).sum() - (scores.detach() * leaf.grad).sum()


def learning_rate(iteration: int, iterations: int, warm_up: int) -> float:
    """Share of the learning rate: in the warm-up a line from 1e-6 to 1, times what is left of all iterations;
    then the cosine that runs over all iterations to 0.
    """
    if iteration < warm_up:
        return (1e-6 + (1 - 1e-6) * iteration / warm_up) * (1 - iteration / iterations)
    return (1 + math.cos(math.pi * iteration / iterations)) / 2
