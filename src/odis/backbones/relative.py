"""timm's `Beit`: BEiT and BEiT v2, whose attention adds a bias that depends on where two patches lie.

An object token has the biases of `[CLS]`. The table of biases is resampled to a view's grid as timm does it,
so that views may have other sizes than the model was made for.

Letters: B views, Q object tokens, T all tokens, T0 `[CLS]` and patches, D width, h heads.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import resize_rel_pos_bias_table
from timm.models.beit import checkpoint_filter_fn, gen_relative_position_index
from torch import Tensor, nn

from odis.backbones.dense_blocks import DenseViT, additive_mask
from odis.kernels import PackedTokens
from odis.method.layout import TokenLayout


class RelativeViT(DenseViT):
    """An `ObjectViT` of timm's `Beit`."""

    def apply_blocks(
        self,
        blocks: Iterable[nn.Module],
        x: Tensor,
        keys: Tensor | None,
        layout: TokenLayout,
        packed: PackedTokens | None = None,
    ) -> Tensor:
        """Tokens (B, T, D) after these blocks; they are never packed."""
        net: Any = self
        shared = [] if keys is None else [additive_mask(keys, layout, x.dtype)]
        if net.rel_pos_bias is not None:
            shared.append(relative_bias(net.rel_pos_bias, layout))
        for block in blocks:
            x = self.call(relative_block, block, x, shared, layout)
        return x


def relative_bias(holder: Any, layout: TokenLayout) -> Tensor:
    """(1, h, T, T): what is added between two tokens, of the module that holds the table."""
    table = holder.relative_position_bias_table
    rows, columns = layout.grid
    if tuple(holder.window_size) != layout.grid:
        entries = (2 * rows - 1) * (2 * columns - 1) + 3  # three for `[CLS]`
        table = resize_rel_pos_bias_table(
            table,
            new_window_size=layout.grid,
            new_bias_shape=(entries, table.shape[1]),
            old_window_size=tuple(holder.window_size),
        )
    index = _index(rows, columns, layout.own, table.device)
    bias: Tensor = table[index.flatten()].unflatten(0, index.shape).permute(2, 0, 1).unsqueeze(0)
    return bias


@lru_cache(maxsize=16)
def _index(rows: int, columns: int, own: int, device: torch.device) -> Tensor:
    """int64 (T, T) into the table; object tokens behind the patches stand where `[CLS]` does. Kept on the
    device: every block asks for it.
    """
    index = gen_relative_position_index((rows, columns))
    at = torch.cat([torch.arange(len(index)), torch.zeros(own, dtype=torch.long)])
    return index[at][:, at].to(device)


def relative_block(block: Any, x: Tensor, shared: list[Tensor], layout: TokenLayout) -> Tensor:
    """Tokens (B, T, D) after timm's block of BEiT."""
    first, second = (1.0, 1.0) if block.gamma_1 is None else (block.gamma_1, block.gamma_2)
    x = x + block.drop_path1(first * _attention(block.attn, block.norm1(x), shared, layout))
    out: Tensor = x + block.drop_path2(second * block.mlp(block.norm2(x)))
    return out


def _attention(attn: Any, x: Tensor, shared: list[Tensor], layout: TokenLayout) -> Tensor:
    bias = None if attn.q_bias is None else torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    qkv = F.linear(x, attn.qkv.weight, bias).unflatten(-1, (3, attn.num_heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, h, T, d)
    added = list(shared)
    if attn.relative_position_bias_table is not None:
        added.append(relative_bias(attn, layout))
    mask = sum(added[1:], start=added[0]).to(q.dtype) if added else None
    dropout = attn.attn_drop.p if attn.training else 0.0
    gathered = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    out: Tensor = attn.proj_drop(attn.proj(gathered.transpose(1, 2).flatten(2)))
    return out


def convert_beit(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """A state dict of BEiT's authors under timm's names; tables of biases are resampled to the model's."""
    return dict(checkpoint_filter_fn(state, model))
