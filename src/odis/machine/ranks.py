"""Sums, maxima and lists over the ranks of a distributed run; in one process each is the identity."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many ranks train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of every rank's `x`, which must have one shape on all. Differentiable: every rank's share of
    the gradient returns to it.
    """
    return _SumOverRanks.apply(x) if world_size() > 1 else x


def max_over_ranks(x: Tensor) -> Tensor:
    """The elementwise maximum of every rank's `x`, without gradient."""
    x = x.detach()
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def gather_over_ranks(items: list[Any]) -> list[Any]:
    """The items (any that can be pickled) of all ranks, those of the first rank first."""
    if world_size() == 1:
        return items
    lists: list[Any] = [None] * world_size()
    dist.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def gather_rows(x: Tensor) -> Tensor:
    """Every rank's rows of `x` (R, ...), one rank after the other, without gradient; ranks may hold unequal
    numbers, or none.
    """
    x = x.detach()
    if world_size() == 1:
        return x
    counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(x)], device=x.device))
    most = max(int(c) for c in counts)
    padded = torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])])
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[: int(c)] for rows, c in zip(gathered, counts)])


class _SumOverRanks(torch.autograd.Function):
    """The forward pass adds up values and the backward pass gradients, since each rank's value enters every
    rank's result.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total
