"""The MLP of a block, which keeps half as much for the backward pass.

What its activation makes is as wide as the hidden layer, the widest there is, and cheap to make. Kept, it
would be a quarter of all that a block keeps. Here it is made again from the hidden layer, which GELU keeps in
any case.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from odis.kernels.conv_linear import grad_input, grad_weight, has_hooks, is_plain_linear, linear_forward


def is_plain_mlp(module: Any) -> bool:
    """Whether a module is timm's MLP with exact GELU, without norm, dropout or hooks inside."""
    if (
        type(module) is not Mlp
        or type(module.act) is not nn.GELU
        or has_hooks(module)
        or has_hooks(module.act)
    ):
        return False
    dropped = module.training and (module.drop1.p > 0 or module.drop2.p > 0)
    plain = module.act.approximate == "none" and type(module.norm) is nn.Identity
    return plain and not dropped and is_plain_linear(module.fc2)


def gelu_linear(hidden: Tensor, layer: nn.Linear, *, convolve: bool) -> Tensor:
    """`layer(gelu(hidden))`, with its gradients; the activation is made again in the backward pass.

    Args:
        hidden: (..., D).
        layer: A plain linear layer.
        convolve: Take its product as a convolution, see `conv_linear`.

    Returns:
        (..., O), in the type of `hidden`.
    """
    # Autocast casts nothing inside of a function of one's own.
    weight = layer.weight.to(hidden.dtype)
    bias = None if layer.bias is None else layer.bias.to(hidden.dtype)
    return _GeluLinear.apply(hidden, weight, bias, convolve)


class _GeluLinear(torch.autograd.Function):
    # What is kept goes through `save_for_backward`, so that activation checkpointing around it can drop it.
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, convolve: bool) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.convolve = convolve
        activated = F.gelu(hidden)
        return linear_forward(activated, weight, bias) if convolve else F.linear(activated, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        hidden, weight = ctx.saved_tensors
        of_hidden, of_weight, of_bias, _ = ctx.needs_input_grad
        weights = grad_weight(grad, F.gelu(hidden)) if of_weight else None
        biases = grad.flatten(0, -2).sum(0) if of_bias else None
        if not of_hidden:
            return None, weights, biases, None
        wide = grad_input(grad, weight) if ctx.convolve else grad @ weight
        torch.ops.aten.gelu_backward.grad_input(wide, hidden, grad_input=wide)  # in place: one wide tensor
        return wide, weights, biases, None
