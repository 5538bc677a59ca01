"""A timm block, whole or at the tokens that a loss reads.

Letters: B views, Q object tokens, T all tokens, D width, N selected tokens, n positions of a view.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor, nn

from odis import kernels
from odis.kernels import PackedTokens
from odis.method.attention import attend, attention_at, object_attention, project, visible_at
from odis.method.layout import ObjectTokens

Branch = Callable[..., Tensor]


def attention_branch(
    block: Any, x: Tensor, keys: Tensor | None, kind: ObjectTokens, packed: PackedTokens | None = None
) -> Tensor:
    """What attention adds to the tokens x (B, T, D), or packed (N, D): see `attention.object_attention`."""
    return _scaled(block, object_attention(block.attn, attention_input(block, x), keys, kind, packed))


def mlp_branch(block: Any, x: Tensor) -> Tensor:
    """What the MLP adds to the tokens x (..., D)."""
    if isinstance(block, ResPostBlock):
        return block.norm2(kernels.mlp(block.mlp, x))
    return block.ls2(kernels.mlp(block.mlp, block.norm2(x)))


def attention_input(block: Any, x: Tensor) -> Tensor:
    """What a block's attention is given of the tokens x (B, T, D)."""
    return x if isinstance(block, ResPostBlock) else block.norm1(x)


def _scaled(block: Any, branch: Tensor) -> Tensor:
    """What attention adds, from its output."""
    return block.norm1(branch) if isinstance(block, ResPostBlock) else block.ls1(branch)


def drop_scale(drop_path: nn.Module, x: Tensor, views: int) -> Tensor | None:
    """What drop path multiplies the tokens of each view by, (B, 1), of the type of x; None: nothing."""
    if isinstance(drop_path, nn.Identity) or not drop_path.training:
        return None
    return drop_path(x.new_ones(views, 1))


def block_at(
    block: Any,
    x: Tensor,
    keys: Tensor | None,
    kind: ObjectTokens,
    rows: Tensor,
    positions: Tensor | None,
    scale1: Tensor | None,
    scale2: Tensor | None,
) -> Tensor:
    """Some tokens as a block leaves them.

    For all others it makes keys and values, but no MLP, no projection and, where only a few positions are
    read, no query.

    Args:
        block: A block of the common kind (`backbones.dense_blocks.splits_queries`).
        x: (B, T, D) tokens before it.
        keys: bool (B, Q, T), as in `object_attention`.
        kind: Which token is the object's.
        rows: int64 (N,), which tokens: rows of the flattened (B * T).
        positions: int64 (n,), ascending: the positions among which all of them are, in every view, and all
            object tokens; None if any token may be selected.
        scale1: (N, 1) of drop path, see `drop_scale`.
        scale2: The same for the second branch.

    Returns:
        (N, D).
    """
    normed = attention_input(block, x)
    if positions is None:
        gathered = attend(block.attn, normed, keys, kind).flatten(0, 1)[rows]
    else:
        visible = None if keys is None else visible_at(keys, kind, len(positions) - keys.shape[1])
        few = attention_at(block.attn, normed, normed[:, positions], visible)
        view, position = rows // x.shape[1], rows % x.shape[1]
        gathered = few.flatten(0, 1)[view * len(positions) + torch.searchsorted(positions, position)]
    branch = _scaled(block, project(block.attn, gathered, normed.flatten(0, 1)[rows]))
    y = x.flatten(0, 1)[rows] + (branch if scale1 is None else branch * scale1)
    branch = mlp_branch(block, y)
    return y + (branch if scale2 is None else branch * scale2)
