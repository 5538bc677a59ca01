"""Attention as batched matrix products, for CPUs on which torch's own kernel is slow in bf16.

One mask serves all queries of a few rows, where a second call would cost more than it saves. The weights of
some views at a time are held in memory that fits a core's cache.

Letters: B views, n of them in a chunk, Q object tokens, T all tokens, h heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_BYTES = 2**21  # of attention weights in bf16: what stays in a core's cache


def bmm_attention(qkv: Tensor, keys: Tensor | None, objects_first: bool, objects_seen: bool) -> Tensor:
    """Self-attention in which object queries see what `keys` says.

    The weights are computed again in the backward pass. Only if there are no more tokens than a head is wide,
    as in a local view, they are kept: they then take no more memory than the values that they weigh.

    Args:
        qkv: (B, T, 3, h, d), contiguous.
        keys: bool (B, Q, T) from `method.attention.visible_keys`, or None: all see all.
        objects_first: Whether the object tokens are the first Q, or the last.
        objects_seen: Whether all other tokens see them, or none.

    Returns:
        (B, T, h * d).
    """
    return _BmmAttention.apply(qkv, keys, objects_first, objects_seen)


class _BmmAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, keys: Tensor | None, objects_first: bool, objects_seen: bool
    ) -> Tensor:
        views, tokens, _, heads, width = qkv.shape
        keep = tokens <= width and ctx.needs_input_grad[0]
        kept = qkv.new_empty(views * heads, tokens, tokens) if keep else None
        ctx.save_for_backward(qkv, keys, kept)
        ctx.objects_first, ctx.objects_seen = objects_first, objects_seen
        out = qkv.new_empty(views, tokens, heads, width)
        for chunk in _chunks(qkv, keys, kept, [out]):
            _compute_weights(chunk, objects_first, objects_seen)
            _store(chunk.others[0], chunk.weights @ chunk.v.flatten(0, 1))
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        qkv, keys, kept = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        grad = grad.unflatten(2, qkv.shape[3:])  # (B, T, h, d)
        for chunk in _chunks(qkv, keys, kept, [grad, *grad_qkv.unbind(2)]):
            q, k, v, grad_out = (x.flatten(0, 1) for x in (chunk.q, chunk.k, chunk.v, chunk.others[0]))
            weights = chunk.weights
            if kept is None:
                _compute_weights(chunk, ctx.objects_first, ctx.objects_seen)
            _store(chunk.others[3], weights.transpose(1, 2) @ grad_out)
            grad_weights = torch.bmm(grad_out, v.transpose(1, 2), out=chunk.scratch)
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            _store(chunk.others[1], _scaled(grad_scores, k))
            _store(chunk.others[2], _scaled(grad_scores.transpose(1, 2), q))
        return grad_qkv, None, None, None


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some views at a time, whose weights are small enough together.

    What is given for one view can be flattened without a copy.
    """

    q: Tensor  # (n, h, T, d)
    k: Tensor
    v: Tensor
    masked_keys: Tensor | None  # bool (n, 1, Q, T): what object queries do not see
    weights: Tensor  # (n * h, T, T)
    scratch: Tensor  # (n * h, T, T)
    others: list[Tensor]  # (n, h, T, d): the same views of other tensors


def _chunks(qkv: Tensor, keys: Tensor | None, kept: Tensor | None, others: list[Tensor]) -> Iterator[_Chunk]:
    """All views, chunk by chunk.

    The memory is the same every time, unless weights are `kept` (B * h, T, T): then it is theirs. Others are
    (B, T, h, d).
    """
    views, tokens, _, heads, _ = qkv.shape
    count = min(views, max(1, _CHUNK_BYTES // (heads * tokens * tokens * qkv.element_size())))
    memory = [qkv.new_empty(count * heads, tokens, tokens) for _ in range(2 if kept is None else 1)]
    # Split once, not sliced in every chunk: with few views at a time there are hundreds of chunks in a step.
    split = [x.transpose(1, 2).split(count) for x in (*qkv.unbind(2), *others)]
    masked = [None] * len(split[0]) if keys is None else (~keys[:, None]).split(count)
    own = None if kept is None else kept.split(count * heads)
    for number, (masked_keys, q, k, v, *rest) in enumerate(zip(masked, *split)):
        rows = len(q) * heads
        weights = memory[-1][:rows] if own is None else own[number]
        yield _Chunk(q, k, v, masked_keys, weights, memory[0][:rows], rest)


def _compute_weights(chunk: _Chunk, objects_first: bool, objects_seen: bool) -> None:
    """Fill `chunk.weights` by way of `chunk.scratch`."""
    q, k, scratch = chunk.q.flatten(0, 1), chunk.k.flatten(0, 1), chunk.scratch
    scores = torch.baddbmm(scratch, q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5, out=scratch)
    if (masked_keys := chunk.masked_keys) is not None:
        queries, tokens = masked_keys.shape[2:]
        by_view = scores.view(len(masked_keys), -1, tokens, tokens)
        first = 0 if objects_first else tokens - queries
        by_view[:, :, first : first + queries].masked_fill_(masked_keys, float("-inf"))
        if not objects_seen:
            by_view[:, :, :first, first:] = float("-inf")
    torch.softmax(scores, dim=-1, out=chunk.weights)


def _scaled(grad_scores: Tensor, x: Tensor) -> Tensor:
    """The gradient (n * h, T, d) of queries or keys; x are the others."""
    return torch.baddbmm(x, grad_scores, x, beta=0, alpha=x.shape[-1] ** -0.5)


def _store(out: Tensor, x: Tensor) -> None:
    """Write (n * h, T, d) into (n, h, T, d)."""
    out.copy_(x.view(out.shape))
