"""Attention of object tokens: each sees itself and its own object's patches, in every layer.

A mask has one row for each object token, all other rows are open. So attention is split by query and nothing
N x N is built: context queries (`[CLS]`, registers, patches) attend without a mask, which keeps the flash
kernels, and the few object queries attend with one. Both kinds of object token (`kind`) are served:

- `single`: the first token, `[CLS]`, is the object token; the tokens are `[OBJ], registers, patches`, and all
  of them see it.
- `read-only`: Q object tokens stand last, `[CLS], registers, patches, [OBJ] * Q`, and no other token sees
  them.

What is computed is always this; there are three ways to it. `_split_attention` is the one to read, and the
one of GPUs. On a CPU `bmm_attention` is faster: there a second call costs more than the mask of a few rows.
And where only a few tokens are read at all, `attention_at` computes no other's.

Letters: B views, Q object tokens, P patches, T all tokens, C context tokens, D width, h heads, d head width;
R object tokens that are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from odis.kernels.linear import linear

ObjectTokens = Literal["single", "read-only"]

_MOST_TOKENS = (
    512  # of more, torch's kernel, which never holds all weights of a query, is faster than products
)
_AT_ONCE = (
    2**20
    # bytes of attention weights in products: what stays in a core's cache; of halves twice as many, as
    # measured
)


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """Tokens of B views without those read-only object tokens that nobody reads, (N, D): all context tokens,
    then R object tokens.

    No other token sees an object token, so those that are read do not miss the others. Attention needs views
    of equal length: for it the gaps are filled with zeros, which no other token sees either.
    """

    views: int
    context: int  # C
    queries: int  # Q
    objects: Tensor  # int64 (R,), positions in the flattened (B * Q)

    def pack(self, x: Tensor) -> Tensor:
        """(N, ...) of (B, C + Q, ...)."""
        context, objects = x.split([self.context, self.queries], dim=1)
        return torch.cat([context.flatten(0, 1), objects.flatten(0, 1)[self.objects]])

    def unpack(self, x: Tensor) -> Tensor:
        """(B, C + Q, D) of (N, D); tokens that are not there are zeros."""
        context, objects = x.split([self.views * self.context, len(self.objects)])
        slots = objects.new_zeros(self.views * self.queries, x.shape[-1]).index_copy(0, self.objects, objects)
        return torch.cat(
            [
                context.unflatten(0, (self.views, self.context)),
                slots.unflatten(0, (self.views, self.queries)),
            ],
            dim=1,
        )

    def of_views(self, x: Tensor) -> Tensor:
        """(N, D): each token's row of (B, D)."""
        return torch.cat([x.repeat_interleave(self.context, dim=0), x[self.objects // self.queries]])


def object_keys(object_masks: Tensor, *, class_token: bool, registers: int, kind: ObjectTokens) -> Tensor:
    """The keys each object query sees: its own, its object's patches, and nothing else.

    An all-true mask is the whole image as one object: it opens the registers too, so that its `[OBJ]` is
    exactly `[CLS]`. The key of `[CLS]` is never open to a read-only object token, which has its own in its
    place.

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


def object_attention(
    attn: Attention, x: Tensor, keys: Tensor | None, kind: ObjectTokens, packing: PackedTokens | None = None
) -> Tensor:
    """Self-attention with the parameters of a timm `Attention`, object queries masked, context queries not.

    Args:
        attn: timm's module; its qkv, norms, gate, projection and dropouts are used as they are.
        x: (B, T, D) tokens, or (N, D) if they are packed.
        keys: bool (B, Q, T) from `object_keys`, or None for plain attention.
        kind: Which token is the object's.
        packing: Of read-only tokens, how they are packed.

    Returns:
        As x.
    """
    return project(attn, attend(attn, x, keys, kind, packing), x)


def attend(
    attn: Attention, x: Tensor, keys: Tensor | None, kind: ObjectTokens, packing: PackedTokens | None = None
) -> Tensor:
    """What every token of `object_attention` gathers, (..., h * d), before it is projected."""
    qkv = linear(attn.qkv, x)
    if packing is not None:
        return packing.pack(_attend(attn, packing.unpack(qkv), keys, kind))
    return _attend(attn, qkv, keys, kind)


def _attend(attn: Attention, qkv: Tensor, keys: Tensor | None, kind: ObjectTokens) -> Tensor:
    """(B, T, h * d) of (B, T, 3 * h * d)."""
    qkv = qkv.unflatten(-1, (3, attn.num_heads, attn.head_dim))  # (B, T, 3, h, d)
    dropout = attn.attn_drop.p if attn.training else 0.0
    if (
        products_are_faster(qkv, dropout, masked=keys is not None)
        and isinstance(attn.q_norm, nn.Identity)
        and isinstance(attn.k_norm, nn.Identity)
    ):
        return bmm_attention(qkv, keys, kind == "single")
    return _split_attention(attn, qkv, keys, kind, dropout)


def project(attn: Attention, gathered: Tensor, x: Tensor) -> Tensor:
    """What `object_attention` gives of what tokens gathered, (..., h * d), and of these tokens themselves,
    (..., D).
    """
    if (norm := getattr(attn, "norm", None)) is not None:
        gathered = norm(gathered)
    if (gate := getattr(attn, "gate", None)) is not None:
        gathered = gathered * gate(x).sigmoid()
    return attn.proj_drop(linear(attn.proj, gathered))


def attention_at(attn: Attention, x: Tensor, asking: Tensor, visible: Tensor | None) -> Tensor:
    """What a few tokens gather: `attend` at their rows, without the queries of all others.

    Args:
        attn: timm's module.
        x: (B, T, D) tokens.
        asking: (B, n, D), those of them that are read.
        visible: bool (B, n, T), the keys that each of these sees, or None: all.

    Returns:
        (B, n, h * d).
    """
    weights, v = _weights_of_few(attn, x, asking, visible)
    return (attn.attn_drop(weights) @ v).transpose(1, 2).flatten(2)


def _weights_of_few(
    attn: Attention, x: Tensor, asking: Tensor, visible: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention weights (B, h, n, T) of the tokens that ask, and the values (B, h, T, d)."""
    width = attn.num_heads * attn.head_dim
    weights, biases = attn.qkv.weight.split([width, 2 * width]), [None, None]
    if attn.qkv.bias is not None:
        biases = attn.qkv.bias.split([width, 2 * width])
    q = F.linear(asking, weights[0], biases[0]).unflatten(-1, (attn.num_heads, attn.head_dim)).transpose(1, 2)
    kv = F.linear(x, weights[1], biases[1]).unflatten(-1, (2, attn.num_heads, attn.head_dim))
    k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
    scores = (attn.q_norm(q) * attn.scale) @ attn.k_norm(k).transpose(-2, -1)
    if visible is not None:
        scores = scores.masked_fill(~visible.unsqueeze(1), float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype), v


def products_are_faster(qkv: Tensor, dropout: float, masked: bool) -> bool:
    """Whether `bmm_attention` is: on a CPU, for few tokens, and without a compiler, which makes a kernel of
    its own.

    In fp32 it spares a masked pass its second call; without masks torch's kernel is as fast, and is the one
    that timm calls. In bf16 that kernel takes several times as long, if the CPU has instructions for bf16.

    Args:
        qkv: (B, T, ...).
        dropout: Share of the attention weights that are dropped; products drop none.
        masked: Whether object queries are.
    """
    if (
        qkv.device.type != "cpu"
        or dropout > 0
        or qkv.shape[1] > _MOST_TOKENS
        or torch.compiler.is_compiling()
    ):
        return False
    if qkv.dtype == torch.float32:
        return masked
    return qkv.dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported()


def _split_attention(
    attn: Attention, qkv: Tensor, keys: Tensor | None, kind: ObjectTokens, dropout: float
) -> Tensor:
    """(B, T, h * d) of (B, T, 3, h, d): object queries in one call, context queries in another."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, h, T, d)
    q, k = attn.q_norm(q), attn.k_norm(k)
    if keys is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)
    queries, tokens = keys.shape[1:]
    masked = keys.unsqueeze(1)  # (B, 1, Q, T)
    # Split, not sliced twice: the gradient of a split is one concatenation, that of two slices two padded
    # tensors and their sum.
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
    queries = keys.shape[1]
    asking = x[:, :queries] if kind == "single" else x[:, x.shape[1] - queries :]
    return _weights_of_few(attn, x, asking, keys)[0].transpose(1, 2)


def bmm_attention(qkv: Tensor, keys: Tensor | None, objects_first: bool) -> Tensor:
    """Self-attention in which object queries see what `keys` says.

    The weights are computed again in the backward pass. Only if there are no more tokens than a head is wide,
    as in a local view, they are kept: they then take no more memory than the values that they weigh.

    Args:
        qkv: (B, T, 3, h, d), contiguous.
        keys: bool (B, Q, T) from `attention.object_keys`, or None: all see all.
        objects_first: Whether the object tokens are the first Q, which all others see, or the last Q, which
            no other sees.

    Returns:
        (B, T, h * d).
    """
    return _AttentionInProducts.apply(qkv, keys, objects_first)


class _AttentionInProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, keys: Tensor | None, objects_first: bool) -> Tensor:
        views, tokens, _, heads, width = qkv.shape
        kept = (
            qkv.new_empty(views * heads, tokens, tokens)
            if tokens <= width and ctx.needs_input_grad[0]
            else None
        )
        ctx.save_for_backward(qkv, keys, kept)
        ctx.objects_first = objects_first
        out = qkv.new_empty(views, tokens, heads, width)
        for (q, k, v), closed, weights, spare, (place,) in _parts(qkv, keys, kept, [out]):
            _into_weights(weights, spare, q.flatten(0, 1), k.flatten(0, 1), closed, objects_first)
            _put(place, weights @ v.flatten(0, 1))
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        qkv, keys, kept = ctx.saved_tensors
        of_qkv = torch.empty_like(qkv)
        grad = grad.unflatten(2, qkv.shape[3:])  # (B, T, h, d)
        for (q, k, v), closed, weights, spare, (of_out, *places) in _parts(
            qkv, keys, kept, [grad, *of_qkv.unbind(2)]
        ):
            q, k, of_out = q.flatten(0, 1), k.flatten(0, 1), of_out.flatten(0, 1)
            if kept is None:
                _into_weights(weights, spare, q, k, closed, ctx.objects_first)
            _put(places[2], weights.transpose(1, 2) @ of_out)
            of_weights = torch.bmm(of_out, v.flatten(0, 1).transpose(1, 2), out=spare)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            _put(places[0], _scaled(of_scores, k))
            _put(places[1], _scaled(of_scores.transpose(1, 2), q))
        return of_qkv, None, None


def _put(place: Tensor, x: Tensor) -> None:
    """(n * h, T, d) into (n, h, T, d)."""
    place.copy_(x.view(place.shape))


def _scaled(of_scores: Tensor, x: Tensor) -> Tensor:
    """The gradient (n * h, T, d) of queries or keys; x are the others."""
    return torch.baddbmm(x, of_scores, x, beta=0, alpha=x.shape[-1] ** -0.5)


def _into_weights(
    weights: Tensor, spare: Tensor, q: Tensor, k: Tensor, closed: Tensor | None, objects_first: bool
) -> None:
    """Fill `weights` (n * h, T, T) with those of queries and keys (n * h, T, d), by way of `spare`, of the
    same shape.

    `closed`, bool (n, 1, Q, T), are the keys that object queries do not see.
    """
    scores = torch.baddbmm(spare, q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5, out=spare)
    if closed is not None:
        queries, tokens = closed.shape[2:]
        of_views = scores.view(len(closed), -1, tokens, tokens)
        if objects_first:
            of_views[:, :, :queries].masked_fill_(closed, float("-inf"))
        else:
            last = tokens - queries
            of_views[:, :, last:].masked_fill_(closed, float("-inf"))
            of_views[:, :, :last, last:] = float("-inf")
    torch.softmax(scores, dim=-1, out=weights)


def _parts(
    qkv: Tensor, keys: Tensor | None, kept: Tensor | None, others: list[Tensor]
) -> Iterator[tuple[Any, ...]]:
    """Some views at a time, whose weights are small enough together.

    Of these n views: queries, keys and values (n, h, T, d); the keys that object queries do not see, (n, 1,
    Q, T), or None; memory for weights (n * h, T, T) and as much to spare; and the same views (n, h, T, d) of
    the others (B, T, h, d). What is given for one view can be flattened without a copy. The memory is the
    same every time, unless weights are `kept` (B * h, T, T): then it is theirs.
    """
    views, tokens, _, heads, _ = qkv.shape
    budget = _AT_ONCE * (2 if qkv.element_size() == 2 else 1)
    at_once = min(views, max(1, budget // (heads * tokens * tokens * qkv.element_size())))
    memory = [qkv.new_empty(at_once * heads, tokens, tokens) for _ in range(2 if kept is None else 1)]
    # Split once, not sliced in every turn: with few views at a time there are hundreds of turns in a step.
    split = [x.transpose(1, 2).split(at_once) for x in (*qkv.unbind(2), *others)]
    closed = [None] * len(split[0]) if keys is None else (~keys[:, None]).split(at_once)
    owned = None if kept is None else kept.split(at_once * heads)
    for turn, (shut, *parts) in enumerate(zip(closed, *split)):
        count = len(parts[0]) * heads
        weights = memory[-1][:count] if owned is None else owned[turn]
        yield parts[:3], shut, weights, memory[0][:count], parts[3:]
