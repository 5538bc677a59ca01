"""Blocks whose attention cannot be taken apart: an explicit mask over all tokens, as correct but slower."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from timm.models.vision_transformer import Attention, Block, ResPostBlock
from torch import Tensor, nn

from odis.kernels import PackedTokens
from odis.method.attention import visible_at
from odis.method.layout import SelectedRows, TokenLayout
from odis.method.vit import ObjectViT


def splits_queries(block: nn.Module) -> bool:
    """Whether a block is of the common kind, whose attention `method.block` takes apart: timm's `Block` or
    `ResPostBlock` with `Attention`.
    """
    return type(block) in (Block, ResPostBlock) and type(block.attn) is Attention


class DenseViT(ObjectViT):
    """An `ObjectViT` of other blocks: each is called as it is, with a T x T mask of who sees whom."""

    split_queries = False

    def apply_blocks(
        self,
        blocks: Iterable[nn.Module],
        x: Tensor,
        keys: Tensor | None,
        layout: TokenLayout,
        packed: PackedTokens | None = None,
    ) -> Tensor:
        """Tokens (B, T, D) after these blocks; they are never packed."""
        masks = None if keys is None else additive_mask(keys, layout, x.dtype)
        for block in blocks:
            x = self.call(whole_block, block, x, masks)
        return x

    def tokens_at(
        self, x: Tensor, keys: Tensor | None, layout: TokenLayout, rows: SelectedRows, objects: Tensor
    ) -> Tensor:
        """These rows (N, D) of all tokens, none of which is left out."""
        return self.apply_blocks(self.blocks, x, keys, layout).flatten(0, 1)[rows.stacked()]


def additive_mask(keys: Tensor, layout: TokenLayout, dtype: torch.dtype) -> Tensor:
    """(B, 1, T, T): 0 where a query sees a key, else -inf; some of timm's attentions add it as it is."""
    visible = visible_at(keys, layout.kind, layout.tokens - keys.shape[1]).unsqueeze(1)
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, float("-inf"))


def whole_block(block: Any, x: Tensor, masks: Tensor | None) -> Tensor:
    """Tokens (B, T, D) after a block that is called as it is."""
    out: Tensor = block(x) if masks is None else block(x, attn_mask=masks)
    return out
