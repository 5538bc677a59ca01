"""Attention in bf16 on a CPU, as the products it is made of: torch's kernel takes several times as long there, above all backwards.

Letters: B views, Q object tokens, T all tokens, h heads, d head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_AT_ONCE = 2**21  # bytes of weights: what stays in a core's cache


def attention_in_products(qkv: Tensor, keys: Tensor | None, objects_first: bool) -> Tensor:
    """Self-attention in which object queries see what `keys` says; the weights are computed again in the backward pass, not kept.

    Args:
        qkv: (B, T, 3, h, d), contiguous.
        keys: bool (B, Q, T) from `attention.object_keys`, or None: all see all.
        objects_first: Whether the object tokens are the first Q, which all others see, or the last Q, which no other sees.

    Returns:
        (B, T, h * d).
    """
    return _AttentionInProducts.apply(qkv, keys, objects_first)


class _AttentionInProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, keys: Tensor | None, objects_first: bool) -> Tensor:
        ctx.save_for_backward(qkv, keys)
        ctx.objects_first = objects_first
        out = qkv.new_empty(*qkv.shape[:2], *qkv.shape[3:])  # (B, T, h, d)
        for part in _parts(qkv):
            weights, _ = _weights(qkv[part], None if keys is None else keys[part], objects_first)
            out[part] = (weights @ _heads(qkv, part, 2)).transpose(1, 2)
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        qkv, keys = ctx.saved_tensors
        of_qkv = torch.empty_like(qkv)
        grad = grad.unflatten(2, qkv.shape[3:]).transpose(1, 2)  # (B, h, T, d)
        for part in _parts(qkv):
            weights, scaled = _weights(qkv[part], None if keys is None else keys[part], ctx.objects_first)
            of_out = grad[part]
            of_weights = of_out @ _heads(qkv, part, 2).transpose(-2, -1)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            _heads(of_qkv, part, 0)[:] = (of_scores @ _heads(qkv, part, 1)).mul_(qkv.shape[-1] ** -0.5)
            _heads(of_qkv, part, 1)[:] = of_scores.transpose(-2, -1) @ scaled
            _heads(of_qkv, part, 2)[:] = weights.transpose(-2, -1) @ of_out
        return of_qkv, None, None


def _heads(qkv: Tensor, part: slice, which: int) -> Tensor:
    """Queries (0), keys (1) or values (2) of some views, (B, h, T, d)."""
    return qkv[part, :, which].transpose(1, 2)


def _weights(qkv: Tensor, keys: Tensor | None, objects_first: bool) -> tuple[Tensor, Tensor]:
    """Attention weights (B, h, T, T), and the queries divided by sqrt(d), (B, h, T, d)."""
    every = slice(None)
    scaled = _heads(qkv, every, 0) * qkv.shape[-1] ** -0.5
    scores = scaled @ _heads(qkv, every, 1).transpose(-2, -1)
    if keys is not None:
        queries, closed = keys.shape[1], ~keys[:, None]
        if objects_first:
            scores[:, :, :queries].masked_fill_(closed, float("-inf"))
        else:
            last = scores.shape[-1] - queries
            scores[:, :, last:].masked_fill_(closed, float("-inf"))
            scores[:, :, :last, last:] = float("-inf")
    return scores.softmax(dim=-1), scaled


def _parts(qkv: Tensor) -> list[slice]:
    """Views whose weights are small enough together."""
    views, tokens, _, heads, _ = qkv.shape
    at_once = max(1, _AT_ONCE // (heads * tokens * tokens * qkv.element_size()))
    return [slice(first, first + at_once) for first in range(0, views, at_once)]
