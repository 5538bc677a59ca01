"""Who sees whom, and masked attention in two calls: each object token sees itself and its own object's
patches, and `[CLS]` if it is told so, in every layer (ODIS, arXiv 2506.05409).

A mask has one row for each object token; all other rows are open. So attention is split by query and nothing
N x N is built: context queries (`[CLS]`, registers, patches) attend without a mask, which keeps the flash
kernels, and the few object queries attend with one. `layout.py` says where the tokens stand.

- `single`: the first token, `[CLS]`, is the object's, and all others see it.
- `read-only`: Q object tokens stand last, and no other token sees them.
- `beside`: one object token stands last, and all others see it.

Letters: B views, Q object tokens, P patches, T all tokens, D width, h heads, d head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from odis import kernels
from odis.kernels import PackedTokens
from odis.method.layout import ObjectTokens, TokenLayout


def visible_keys(object_masks: Tensor, layout: TokenLayout) -> Tensor:
    """The keys that each object query sees: its own, its object's patches, `[CLS]` where the layout says so,
    and nothing else.

    An all-true mask is the whole image as one object: it opens the registers too. A read-only token that does
    not see `[CLS]`, and has its own key in its place, is then exactly `[CLS]`.

    Args:
        object_masks: bool (B, Q, P).
        layout: Of these views.

    Returns:
        bool (B, Q, T), with a true entry in every row.
    """
    views, queries, _ = object_masks.shape
    registers = layout.prefix - int(layout.class_token)
    whole = object_masks.all(dim=-1, keepdim=True).expand(-1, -1, registers)
    own = torch.eye(queries, dtype=torch.bool, device=object_masks.device).expand(views, -1, -1)
    if layout.kind == "single":
        return torch.cat([own, whole, object_masks], dim=-1)
    cls = object_masks.new_full((views, queries, int(layout.class_token)), layout.sees_class)
    return torch.cat([cls, whole, object_masks, own], dim=-1)


def visible_at(keys: Tensor, kind: ObjectTokens, context: int) -> Tensor:
    """The keys (B, Q, T) of object queries and of so many context queries, bool (B, Q + context, T), in the
    order of the tokens.
    """
    views, queries, tokens = keys.shape
    seen = tokens - queries if kind == "read-only" else tokens
    open_ = (torch.arange(tokens, device=keys.device) < seen).expand(views, context, tokens)
    return torch.cat([keys, open_] if kind == "single" else [open_, keys], dim=1)


def object_attention(
    attn: Attention, x: Tensor, keys: Tensor | None, kind: ObjectTokens, packed: PackedTokens | None = None
) -> Tensor:
    """Self-attention with the parameters of a timm `Attention`; object queries are masked, context queries
    are not.

    Args:
        attn: timm's module; its qkv, norms, gate, projection and dropouts are used as they are.
        x: (B, T, D) tokens, or (N, D) if they are packed.
        keys: bool (B, Q, T) from `visible_keys`, or None for plain attention.
        kind: Which token is the object's.
        packed: How read-only tokens are packed, if they are.

    Returns:
        As x.
    """
    return project(attn, attend(attn, x, keys, kind, packed), x)


def attend(
    attn: Attention, x: Tensor, keys: Tensor | None, kind: ObjectTokens, packed: PackedTokens | None = None
) -> Tensor:
    """What every token of `object_attention` gathers, (..., h * d), before it is projected."""
    qkv = kernels.linear(attn.qkv, x)
    qkv = qkv if packed is None else packed.unpack(qkv)
    qkv = qkv.unflatten(-1, (3, attn.num_heads, attn.head_dim))  # (B, T, 3, h, d)
    dropout = attn.attn_drop.p if attn.training else 0.0
    normed = not (isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity))
    kernel = kernels.attention(qkv, masked=keys is not None, dropout=dropout, normed=normed)
    if kernel is None:
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, h, T, d)
        gathered = split_attention(attn.q_norm(q), attn.k_norm(k), v, keys, kind, dropout)
    else:
        gathered = kernel(qkv, keys, kind == "single", kind != "read-only")
    return gathered if packed is None else packed.pack(gathered)


def split_attention(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, kind: ObjectTokens, dropout: float = 0.0
) -> Tensor:
    """Object queries in one call, context queries in another.

        single:     [OBJ] attends to its keys;    context attends to all
        read-only:  context attends to context;   [OBJ] attend to their keys
        beside:     context attends to all;       [OBJ] attends to its keys

    Args:
        q: (B, h, T, d) queries; keys k and values v are alike.
        keys: bool (B, Q, T) from `visible_keys`, or None: all see all.
        kind: Which token is the object's.
        dropout: Share of the attention weights that are dropped.

    Returns:
        (B, T, h * d).
    """
    if keys is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)
    queries, tokens = keys.shape[1:]
    first, context = kind == "single", tokens - queries
    # Split, not sliced twice: the gradient of a split is one concatenation, that of two slices two padded
    # tensors and their sum.
    parts = q.split([queries, context] if first else [context, queries], dim=2)
    object_q, context_q = parts if first else parts[::-1]
    mask = keys.unsqueeze(1)  # (B, 1, Q, T)
    objects = F.scaled_dot_product_attention(object_q, k, v, attn_mask=mask, dropout_p=dropout)
    if kind == "read-only":
        k, v = k[:, :, :context], v[:, :, :context]
    others = F.scaled_dot_product_attention(context_q, k, v, dropout_p=dropout)
    gathered = [objects, others] if first else [others, objects]
    return torch.cat([part.transpose(1, 2) for part in gathered], dim=1).flatten(2)


def project(attn: Attention, gathered: Tensor, x: Tensor) -> Tensor:
    """The output of `object_attention` from what tokens gathered, (..., h * d), and the tokens, (..., D)."""
    if (norm := getattr(attn, "norm", None)) is not None:
        gathered = norm(gathered)
    if (gate := getattr(attn, "gate", None)) is not None:
        gathered = gathered * gate(x).sigmoid()
    return attn.proj_drop(kernels.linear(attn.proj, gathered))


def attention_at(attn: Attention, x: Tensor, queries: Tensor, visible: Tensor | None) -> Tensor:
    """What a few tokens gather: `attend` at their positions, without the queries of all others.

    Args:
        attn: timm's module.
        x: (B, T, D) tokens.
        queries: (B, n, D), the few tokens.
        visible: bool (B, n, T), the keys that each of them sees, or None: all.

    Returns:
        (B, n, h * d).
    """
    weights, v = weights_at(attn, x, queries, visible)
    return (attn.attn_drop(weights) @ v).transpose(1, 2).flatten(2)


def weights_at(attn: Attention, x: Tensor, queries: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention weights (B, h, n, T) of a few queries (B, n, D), and the values (B, h, T, d)."""
    width = attn.num_heads * attn.head_dim
    weights, biases = attn.qkv.weight.split([width, 2 * width]), [None, None]
    if attn.qkv.bias is not None:
        biases = attn.qkv.bias.split([width, 2 * width])
    q = (
        F.linear(queries, weights[0], biases[0])
        .unflatten(-1, (attn.num_heads, attn.head_dim))
        .transpose(1, 2)
    )
    kv = F.linear(x, weights[1], biases[1]).unflatten(-1, (2, attn.num_heads, attn.head_dim))
    k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
    scores = (attn.q_norm(q) * attn.scale) @ attn.k_norm(k).transpose(-2, -1)
    if visible is not None:
        scores = scores.masked_fill(~visible.unsqueeze(1), float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype), v
