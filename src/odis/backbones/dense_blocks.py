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
        self, blocks: Iterable[nn.Module], x: Tensor, keys: Tensor | None, packed: PackedTokens | None = None
    ) -> Tensor:
        """Tokens (B, T, D) after these blocks; they are never packed."""
        masks = None
        if keys is not None:
            # Additive, since some of timm's unfused attentions add their mask as it is.
            visible = visible_at(keys, self.object_tokens, x.shape[1] - keys.shape[1]).unsqueeze(1)
            masks = torch.zeros_like(visible, dtype=x.dtype).masked_fill_(~visible, float("-inf"))
        for block in blocks:
            x = self.call(_apply, block, x, masks)
        return x

    def tokens_at(
        self, x: Tensor, keys: Tensor | None, layout: TokenLayout, rows: SelectedRows, objects: Tensor
    ) -> Tensor:
        """These rows (N, D) of all tokens, none of which is left out."""
        return self.apply_blocks(self.blocks, x, keys).flatten(0, 1)[rows.stacked()]


def _apply(block: Any, x: Tensor, masks: Tensor | None) -> Tensor:
    out: Tensor = block(x) if masks is None else block(x, attn_mask=masks)
    return out
