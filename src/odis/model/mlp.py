"""The MLP of a block in less memory: what its activation makes is computed again in the backward pass instead of kept.

It is as wide as the hidden layer, the widest there is, and cheap to make; keeping it would be a quarter of all that a block keeps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def mlp(module: Any, x: Tensor) -> Tensor:
    """What `module` makes of x (..., D), with its gradients; any module that is not timm's plain MLP with GELU is called as it is."""
    if not _is_plain(module) or not torch.is_grad_enabled() or torch.compiler.is_compiling():  # a compiler decides itself what it keeps
        return module(x)
    hidden = module.fc1(x)
    weight, bias = module.fc2.weight, module.fc2.bias
    if torch.is_autocast_enabled(x.device.type):  # inside of a function of one's own nothing is cast
        weight, bias = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
    return _GeluLinear.apply(hidden, weight, bias)


def _is_plain(module: Any) -> bool:
    if type(module) is not Mlp or type(module.act) is not nn.GELU or module.act.approximate != "none":
        return False
    dropped = module.training and (module.drop1.p > 0 or module.drop2.p > 0)
    return type(module.norm) is nn.Identity and type(module.fc2) is nn.Linear and not dropped


class _GeluLinear(torch.autograd.Function):
    """linear(gelu(hidden)), of which only `hidden` is kept."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return F.linear(F.gelu(hidden), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        hidden, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        wants = ctx.needs_input_grad
        of_weight = rows.T @ F.gelu(hidden).flatten(0, -2) if wants[1] else None
        of_bias = rows.sum(0) if wants[2] else None
        of_hidden = torch.ops.aten.gelu_backward(grad @ weight, hidden) if wants[0] else None
        return of_hidden, of_weight, of_bias
