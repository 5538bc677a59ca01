"""Drop path that skips views, as DINOv2 has it (`drop_add_residual_stochastic_depth`).

Of b views max(floor(b * (1 - p)), 1) are kept, drawn anew for each branch of each block; the branch is
computed for those alone and added times b / kept. The rate is the same in all blocks.

Letters: B views, Q object tokens, T all tokens, D width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor

from odis.errors import ConfigError
from odis.kernels import PackedTokens
from odis.method.layout import ObjectTokens
from odis.method.vit import ObjectViT


class SampleDrop(DropPath):
    """In place of timm's `DropPath`: a fixed number of views is kept.

    Args:
        drop_prob: p, the share of views that are skipped.
    """

    def kept(self, views: int) -> tuple[Tensor, float]:
        """int64: which of the views are kept, on the CPU, and what their branch is multiplied by."""
        count = max(math.floor(views * (1 - float(self.drop_prob or 0.0))), 1)
        return torch.randperm(views)[:count], views / count

    def forward(self, x: Tensor) -> Tensor:
        """x (B, ...), 0 for skipped views."""
        if not self.training or not self.drop_prob:
            return x
        kept, scale = self.kept(len(x))
        factors = torch.zeros(len(x)).index_fill(0, kept, scale).to(x.device, x.dtype)
        return x * factors.view(-1, *[1] * (x.ndim - 1))


class SkippingViT(ObjectViT):
    """An `ObjectViT` that computes no branch for skipped views, but in the last block, which is short."""

    def _block(
        self, block: Any, x: Tensor, keys: Tensor | None, kind: ObjectTokens, packed: PackedTokens | None
    ) -> Tensor:
        drops = (block.drop_path1, block.drop_path2)
        if not all(isinstance(drop, SampleDrop) and drop.training and drop.drop_prob for drop in drops):
            return super()._block(block, x, keys, kind, packed)
        # Views are of one length only without packing; no other token sees what it left out.
        x = x if packed is None else packed.unpack(x)
        kept, scale = drops[0].kept(len(x))
        kept = kept.to(x.device)
        branch = self.attention_branch(block, x[kept], None if keys is None else keys[kept], kind, None)
        x = x.index_add(0, kept, branch.to(x.dtype), alpha=scale)
        kept, scale = drops[1].kept(len(x))
        kept = kept.to(x.device)
        x = x.index_add(0, kept, self.mlp_branch(block, x[kept]).to(x.dtype), alpha=scale)
        return x if packed is None else packed.pack(x)


def skip_views(model: ObjectViT, rate: float) -> None:
    """Give every block of a backbone drop path that skips views.

    Raises:
        ConfigError: its blocks have no two branches to skip.
    """
    blocks: list[Any] = list(model.blocks)
    if not all(hasattr(block, "drop_path1") and hasattr(block, "drop_path2") for block in blocks):
        name = type(blocks[0]).__name__
        raise ConfigError(f"model.drop_path_kind: is dinov2, but {name} has no two branches to skip")
    for block in blocks:
        block.drop_path1, block.drop_path2 = SampleDrop(rate), SampleDrop(rate)
        block.train(model.training)
