"""The MLP of a block, which keeps half as much for the backward pass.

What its activation makes is as wide as the hidden layer, the widest there is, and cheap to make. Kept, it
would be a quarter of all that a block keeps. Here it is made again from the hidden layer, which GELU keeps in
any case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from odis.kernels.conv_linear import has_hooks, is_plain_linear


def is_plain_mlp(module: nn.Module) -> bool:
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


def recompute_mlp(module: Any, x: Tensor, linear: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
    """`module(x)`; the input of the second layer is computed again in the backward pass.

    Args:
        module: An MLP that `is_plain_mlp`.
        x: (..., D).
        linear: Calls a linear layer.
    """
    hidden = linear(module.fc1, x)
    activated = F.gelu(hidden)
    if not torch.is_grad_enabled():
        return linear(module.fc2, activated)
    address, kept = activated.data_ptr(), hidden.detach()

    def pack(saved: Tensor) -> Tensor | torch.Size:
        same = saved.data_ptr() == address and saved.numel() == kept.numel()
        return saved.shape if same else saved

    def unpack(saved: Tensor | torch.Size) -> Tensor:
        return F.gelu(kept).view(saved) if isinstance(saved, torch.Size) else saved

    with saved_tensors_hooks(pack, unpack):
        return linear(module.fc2, activated)
