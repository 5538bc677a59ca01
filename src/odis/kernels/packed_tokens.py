"""Tokens without those read-only object tokens that nobody reads, such as those of objects that a view does
not show.

Letters: B views, C context tokens of a view, Q object tokens of a view, R of all that are read, D width, N
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """Tokens of B views without the object tokens that nobody reads, (N, D).

    All context tokens come first, then R object tokens. No other token sees an object token, so those that
    are read do not miss the others. Attention needs views of equal length: for it the gaps are filled with
    zeros.

    Args:
        views: B.
        context: Context tokens of a view.
        queries: Q.
        objects: int64 (R,), the object tokens that are there: positions in the flattened (B * Q).
    """

    views: int
    context: int
    queries: int
    objects: Tensor

    def pack(self, x: Tensor) -> Tensor:
        """(N, ...) of (B, context + Q, ...)."""
        context, objects = x.split([self.context, self.queries], dim=1)
        return torch.cat([context.flatten(0, 1), objects.flatten(0, 1)[self.objects]])

    def unpack(self, x: Tensor) -> Tensor:
        """(B, context + Q, D) of (N, D); tokens that are not there are zeros."""
        context, objects = x.split([self.views * self.context, len(self.objects)])
        slots = objects.new_zeros(self.views * self.queries, x.shape[-1]).index_copy(0, self.objects, objects)
        parts = [
            context.unflatten(0, (self.views, self.context)),
            slots.unflatten(0, (self.views, self.queries)),
        ]
        return torch.cat(parts, dim=1)

    def of_views(self, x: Tensor) -> Tensor:
        """(N, D): each token's row of (B, D)."""
        return torch.cat([x.repeat_interleave(self.context, dim=0), x[self.objects // self.queries]])
