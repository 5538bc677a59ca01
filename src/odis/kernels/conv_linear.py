"""Linear layers as 1 x 1 convolutions.

It is the same arithmetic. In fp32 torch takes MKL's matrix product, which does not use all of an AMD CPU.
oneDNN's convolution does, orders the weights for its kernel first, and adds the bias inside it.

Letters: D inputs, O outputs.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is an `nn.Linear` and no more: no subclass, no hook that wants to see it called."""
    return type(module) is nn.Linear and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks want to see a module called."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return any(hooks)


def conv_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear(x, weight, bias)`, with its gradients.

    Args:
        x: (..., D).
        weight: (O, D).
        bias: (O,) or None.

    Returns:
        (..., O).
    """
    return _ConvLinear.apply(x, weight, bias)


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(..., O) of (..., D): views are images and tokens their pixels, in the same memory."""
    pixels = x.reshape(-1, x.shape[-2] if x.ndim > 1 else 1, 1, x.shape[-1]).permute(
        0, 3, 1, 2
    )  # (B, D, T, 1)
    out = F.conv2d(pixels, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def grad_input(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient (..., D) of the input from that of the output (..., O)."""
    return linear_forward(grad, weight.T, None)


def grad_weight(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient (O, D) of the weight from that of the output (..., O) and the input (..., D)."""
    return grad.flatten(0, -2).T @ x.flatten(0, -2)


class _ConvLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear_forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            grad_input(grad, weight) if of_x else None,
            grad_weight(grad, x) if of_weight else None,
            grad.flatten(0, -2).sum(0) if of_bias else None,
        )
