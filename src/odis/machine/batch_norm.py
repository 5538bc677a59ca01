"""Batch norm over the rows of all ranks.

Letters: R rows, D columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from odis.machine.ranks import sum_over_ranks


class BatchNorm(nn.Module):
    """Batch norm over the rows of all ranks, in training and evaluation alike.

    Heads serve training only, where student and teacher both use the statistics of the batch, so no running
    ones are kept. Ranks may hold unequal numbers of rows, or none, and follow one rank that holds them all;
    gradients too. In fp32.

    Args:
        dim: Columns.
        affine: Learn a scale and a shift.
        eps: Added to the variance.
    """

    def __init__(self, dim: int, *, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim)) if affine else None
        self.bias = nn.Parameter(torch.zeros(dim)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """(R, D) rows to (R, D); one row alone becomes zeros, no rows stay none."""
        x = x.float()
        rows = sum_over_ranks(x.new_full((), x.shape[0])).clamp(min=1)
        x = x - sum_over_ranks(x.sum(dim=0)) / rows
        variance = sum_over_ranks(x.square().sum(dim=0)) / rows
        x = x * (variance + self.eps).rsqrt()
        return x if self.weight is None or self.bias is None else torch.addcmul(self.bias, x, self.weight)
