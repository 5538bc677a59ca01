"""timm's `Eva`: EVA, EVA-02, DINOv3, Perception Encoder, ViTs with rotary positions.

A rotation tells a query and a key where their patches are. Tokens in front of the patches are not rotated,
and object tokens behind them are not either: they read as `[CLS]` does. Attention is split by query as in
`method/attention.py`.

Letters: B views, Q object tokens, P patches, T all tokens, D width, h heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from timm.models import eva
from torch import Tensor, nn

from odis.backbones.dense_blocks import DenseViT
from odis.kernels import PackedTokens
from odis.method.attention import split_attention
from odis.method.layout import ObjectTokens, TokenLayout


class RotaryViT(DenseViT):
    """An `ObjectViT` of timm's `Eva`: its blocks, with rotary positions if it has them."""

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
        rotation = None if net.rope is None else rotations(net.rope, layout)
        for block in blocks:
            own = rotation
            if rotation is not None and rotation.ndim == 4:  # one a block (mixed)
                own = rotation[next(i for i, one in enumerate(self.blocks) if one is block)]
            x = self.call(rotary_block, block, x, keys, layout.kind, own)
        return x


def rotations(rope: Any, layout: TokenLayout) -> Tensor:
    """Sines and cosines (..., P + own, 2 * d) of patches; object tokens behind them stay as they are."""
    of_patches: Tensor = rope.get_embed(shape=list(layout.grid))
    sin, cos = of_patches.chunk(2, dim=-1)
    rest = (*sin.shape[:-2], layout.own, sin.shape[-1])
    sin, cos = torch.cat([sin, sin.new_zeros(rest)], dim=-2), torch.cat([cos, cos.new_ones(rest)], dim=-2)
    return torch.cat([sin, cos], dim=-1)


def rotary_block(
    block: Any, x: Tensor, keys: Tensor | None, kind: ObjectTokens, rotation: Tensor | None
) -> Tensor:
    """Tokens (B, T, D) after timm's `EvaBlock` or `EvaBlockPostNorm`."""
    if isinstance(block, eva.EvaBlockPostNorm):
        x = x + block.drop_path1(block.norm1(rotary_attention(block.attn, x, keys, kind, rotation)))
        post: Tensor = x + block.drop_path2(block.norm2(block.mlp(x)))
        return post
    branch = rotary_attention(block.attn, block.norm1(x), keys, kind, rotation)
    x = x + block.drop_path1(branch if block.gamma_1 is None else block.gamma_1 * branch)
    branch = block.mlp(block.norm2(x))
    out: Tensor = x + block.drop_path2(branch if block.gamma_2 is None else block.gamma_2 * branch)
    return out


def rotary_attention(
    attn: Any, x: Tensor, keys: Tensor | None, kind: ObjectTokens, rotation: Tensor | None
) -> Tensor:
    """timm's `EvaAttention` or `AttentionRope` of the tokens (B, T, D), with masked object queries."""
    q, k, v = (part.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2) for part in _projections(attn, x))
    q, k = attn.q_norm(q), attn.k_norm(k)
    if rotation is not None:
        q, k = (_rotated(attn, part, rotation).type_as(v) for part in (q, k))
    if (groups := q.shape[1] // k.shape[1]) > 1:  # grouped-query attention
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    gathered = split_attention(q, k, v, keys, kind, attn.attn_drop.p if attn.training else 0.0)
    gathered = attn.norm(gathered)
    if attn.gate is not None:
        gathered = gathered * attn.gate(x).sigmoid()
    out: Tensor = attn.proj_drop(attn.proj(gathered))
    return out


def _rotated(attn: Any, x: Tensor, rotation: Tensor) -> Tensor:
    """Queries or keys (B, h, T, d), those of patches rotated."""
    first = attn.num_prefix_tokens
    rest = apply_rot_embed_cat(x[:, :, first:], rotation, half=attn.rotate_half)
    return torch.cat([x[:, :, :first], rest], dim=2)


def _projections(attn: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values (B, T, h * d) of all heads."""
    if attn.qkv is None:
        return attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)
    if getattr(attn, "q_bias", None) is None:
        return tuple(attn.qkv(x).chunk(3, dim=-1))
    bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    return F.linear(x, attn.qkv.weight, bias).chunk(3, dim=-1)


def convert_eva(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """A state dict of EVA's or DINOv3's authors under timm's names, by timm's conversion.

    DINOv3 stores biases of queries, keys and values beside a mask that is 0 at the keys. timm's model has
    none for keys, and in most sizes none at all; then they must be 0.

    Raises:
        ValueError: a bias that the model has no place for is not 0.
    """
    state = {k: v for k, v in state.items() if "rope" not in k or k == "rope.freqs"}
    masks = {k: state.pop(k) for k in list(state) if k.endswith("qkv.bias_mask")}
    for name in [k for k in state if k.endswith(".attn.qkv.bias")]:
        bias, mask = state[name], masks.get(f"{name}_mask")
        if mask is not None:
            bias = torch.where(mask == 0, torch.zeros_like(bias), bias)
        parts = bias.chunk(3)
        if parts[1].any():
            raise ValueError(f"{name} has a bias of keys that is not 0, and timm's model has none")
        state[name] = bias
        if not hasattr(model.get_submodule(name.removesuffix(".qkv.bias")), "q_bias"):
            continue
        if model.get_submodule(name.removesuffix(".qkv.bias")).q_bias is None:
            if bias.any():
                raise ValueError(f"{name} is not 0, and the model has no such bias; its name ends in _qkvb")
            del state[name]
    return dict(eva.checkpoint_filter_fn(state, model))
