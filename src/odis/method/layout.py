"""Where each kind of token lies: named positions in place of index arithmetic.

The tokens of a view stand in this order:

    single      [OBJ]   registers   patches              `[CLS]` is the object's token
    read-only   [CLS]   registers   patches   [OBJ] * Q  which no other token sees
    beside      [CLS]   registers   patches   [OBJ]      which all others see

Views are stacked. A *row* is a position in the flattened (B * T) tokens, a *position* one among the T of a
view.

Letters: B views, Q object tokens, P patches, T all tokens of a view, D width, R selected object tokens, H
selected patches, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ObjectTokens = Literal["single", "read-only", "beside"]


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """The tokens of one view."""

    kind: ObjectTokens  # which token is the object's
    class_token: bool  # `[CLS]` stands first
    prefix: int  # `[CLS]` and registers
    patches: int  # P
    queries: int  # Q, how many objects are asked for; 0 if none is
    sees_class: bool = False  # object tokens see `[CLS]`
    grid: tuple[int, int] = (0, 0)  # rows and columns of the patches

    @property
    def context(self) -> int:
        """Tokens without the object tokens behind the patches."""
        return self.prefix + self.patches

    @property
    def own(self) -> int:
        """Object tokens that stand behind the patches: Q of them, or none."""
        return 0 if self.kind == "single" else self.queries

    @property
    def unseen(self) -> int:
        """Object tokens that no other token sees: Q of them, or none."""
        return self.queries if self.kind == "read-only" else 0

    @property
    def tokens(self) -> int:
        """T."""
        return self.context + self.own

    @property
    def first_object(self) -> int:
        """Position of the first object token."""
        return 0 if self.kind == "single" else self.context

    def class_rows(self, views: int, device: torch.device) -> Tensor:
        """int64 (B,): rows of `[CLS]`."""
        return torch.arange(0, views * self.tokens, self.tokens, device=device)

    def object_rows(self, objects: Tensor) -> Tensor:
        """int64 (R,): rows of object tokens given by their positions in the flattened (B * Q)."""
        view, query = objects // max(self.queries, 1), objects % max(self.queries, 1)
        return view * self.tokens + self.first_object + query

    def patch_rows(self, patches: Tensor) -> Tensor:
        """int64 (H,): rows of patches given by their positions in the flattened (B * P)."""
        view, patch = patches // self.patches, patches % self.patches
        return view * self.tokens + self.prefix + patch

    @property
    def object_slice(self) -> slice:
        """Positions of the object tokens."""
        return slice(self.first_object, self.first_object + self.queries)

    @property
    def patch_slice(self) -> slice:
        """Positions of the patches."""
        return slice(self.prefix, self.context)

    def summary_positions(self, image: bool, device: torch.device) -> Tensor:
        """int64 (n,), ascending: positions of `[CLS]`, if it is read, and of the object tokens."""
        first = int(image or (self.kind == "single" and self.queries > 0))
        return torch.cat(
            [
                torch.arange(first, device=device),
                torch.arange(self.context, self.tokens, device=device),
            ]
        )


@dataclass(frozen=True, slots=True)
class SelectedRows:
    """Which tokens are read, as rows; in this order wherever they are stacked."""

    image: Tensor  # int64 (B,) or (0,), `[CLS]`
    objects: Tensor  # int64 (R,), object tokens
    patches: Tensor  # int64 (H,), patches

    def stacked(self) -> Tensor:
        """int64 (N,)."""
        return torch.cat([self.image, self.objects, self.patches])

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image (B, D) or (0, D), objects (R, D), patches (H, D) of stacked tokens (N, D)."""
        image, objects, patches = x.split([len(self.image), len(self.objects), len(self.patches)])
        return image, objects, patches
