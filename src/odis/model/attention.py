"""Attention of object tokens: each sees itself and its own object's patches, in every layer.

A mask has one row for each object token, all other rows are open. So attention is split by query and nothing N x N is built:
context queries (`[CLS]`, registers, patches) attend without a mask, which keeps the flash kernels, and the few object queries
attend with one. Both kinds of object token (`kind`) are served:

- `single`: the first token, `[CLS]`, is the object token; the tokens are `[OBJ], registers, patches`, and all of them see it.
- `read-only`: Q object tokens stand last, `[CLS], registers, patches, [OBJ] * Q`, and no other token sees them.

Letters: B views, Q object tokens, P patches, T all tokens, C context keys, D width, h heads, d head width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from odis.model.cpu_attention import attention_in_products

ObjectTokens = Literal["single", "read-only"]

_MOST_TOKENS = 512  # of more, torch's kernel, which never holds all weights of a query, is faster than products


def object_keys(object_masks: Tensor, *, class_token: bool, registers: int, kind: ObjectTokens) -> Tensor:
    """The keys each object query sees: its own, its object's patches, and nothing else.

    An all-true mask is the whole image as one object: it opens the registers too, so that its `[OBJ]` is exactly `[CLS]`.
    The key of `[CLS]` is never open to a read-only object token, which has its own in its place.

    Args:
        object_masks: bool (B, Q, P).
        class_token: Whether the tokens begin with `[CLS]`.
        registers: Register tokens after it.
        kind: Which token is the object's.

    Returns:
        bool (B, Q, T), with a true entry in every row.
    """
    views, queries, _ = object_masks.shape
    whole = object_masks.all(dim=-1, keepdim=True).expand(-1, -1, registers)
    own = torch.eye(queries, dtype=torch.bool, device=object_masks.device).expand(views, -1, -1)
    if kind == "single":
        return torch.cat([own, whole, object_masks], dim=-1)
    closed = object_masks.new_zeros(views, queries, int(class_token))
    return torch.cat([closed, whole, object_masks, own], dim=-1)


def dense_mask(keys: Tensor, kind: ObjectTokens) -> Tensor:
    """The same visibility as an explicit mask over all queries, for blocks whose attention cannot be split.

    Args:
        keys: bool (B, Q, T) from `object_keys`.
        kind: Which token is the object's.

    Returns:
        bool (B, T, T), queries x keys.
    """
    views, queries, tokens = keys.shape
    if kind == "single":
        return torch.cat([keys, keys.new_ones(views, tokens - queries, tokens)], dim=1)
    context = keys.new_ones(views, tokens - queries, tokens)
    context[:, :, tokens - queries :] = False
    return torch.cat([context, keys], dim=1)


def object_attention(attn: Attention, x: Tensor, keys: Tensor | None, kind: ObjectTokens) -> Tensor:
    """Self-attention with the parameters of a timm `Attention`, object queries masked, context queries not.

    Args:
        attn: timm's module; its qkv, norms, gate, projection and dropouts are used as they are.
        x: (B, T, D) tokens.
        keys: bool (B, Q, T) from `object_keys`, or None for plain attention.
        kind: Which token is the object's.

    Returns:
        (B, T, D).
    """
    qkv = attn.qkv(x).unflatten(-1, (3, attn.num_heads, attn.head_dim))  # (B, T, 3, h, d)
    dropout = attn.attn_drop.p if attn.training else 0.0
    if products_are_faster(qkv, dropout) and isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity):
        out = attention_in_products(qkv, keys, kind == "single")
    else:
        out = _split_attention(attn, qkv, keys, kind, dropout)
    if (norm := getattr(attn, "norm", None)) is not None:
        out = norm(out)
    if (gate := getattr(attn, "gate", None)) is not None:
        out = out * gate(x).sigmoid()
    return attn.proj_drop(attn.proj(out))


def products_are_faster(qkv: Tensor, dropout: float) -> bool:
    """Whether `attention_in_products` is: with bf16 instructions, few tokens, and no compiler, which makes a kernel of its own.

    Args:
        qkv: (B, T, ...).
        dropout: Share of the attention weights that are dropped; products drop none.
    """
    if qkv.device.type != "cpu" or qkv.dtype != torch.bfloat16 or torch.compiler.is_compiling():
        return False
    return dropout == 0 and qkv.shape[1] <= _MOST_TOKENS and torch.cpu._is_avx512_bf16_supported()


def _split_attention(attn: Attention, qkv: Tensor, keys: Tensor | None, kind: ObjectTokens, dropout: float) -> Tensor:
    """(B, T, h * d) of (B, T, 3, h, d): object queries in one call, context queries in another."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, h, T, d)
    q, k = attn.q_norm(q), attn.k_norm(k)
    if keys is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)
    queries, tokens = keys.shape[1:]
    masked = keys.unsqueeze(1)  # (B, 1, Q, T)
    # Split, not sliced twice: the gradient of a split is one concatenation, that of two slices two padded tensors and their sum.
    if kind == "single":
        asking, others = q.split([queries, tokens - queries], dim=2)
        objects = F.scaled_dot_product_attention(asking, k, v, attn_mask=masked, dropout_p=dropout)
        context = F.scaled_dot_product_attention(others, k, v, dropout_p=dropout)
        parts = [objects, context]
    else:
        last = tokens - queries
        others, asking = q.split([last, queries], dim=2)
        context = F.scaled_dot_product_attention(others, k[:, :, :last], v[:, :, :last], dropout_p=dropout)
        objects = F.scaled_dot_product_attention(asking, k, v, attn_mask=masked, dropout_p=dropout)
        parts = [context, objects]
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1).flatten(2)


def object_attention_weights(attn: Attention, x: Tensor, keys: Tensor, kind: ObjectTokens) -> Tensor:
    """The attention weights of the object queries, which `object_attention` never builds: for looking at.

    Args:
        attn: timm's module.
        x: (B, T, D) tokens.
        keys: bool (B, Q, T) from `object_keys`.
        kind: Which token is the object's.

    Returns:
        (B, Q, h, T), rows that sum to 1.
    """
    views, tokens, _ = x.shape
    queries = keys.shape[1]
    q, k, _ = attn.qkv(x).reshape(views, tokens, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    asking = q[:, :, :queries] if kind == "single" else q[:, :, tokens - queries :]
    scores = attn.q_norm(asking) @ attn.k_norm(k).transpose(-2, -1) * attn.scale  # (B, h, Q, T)
    return scores.masked_fill(~keys.unsqueeze(1), float("-inf")).softmax(dim=-1).transpose(1, 2)
