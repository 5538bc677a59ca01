"""AdamW: parameter groups, scheduled values, and a step that is skipped if it is not finite."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from odis.config.training import OptimConfig
from odis.train.schedules import Settings

TOKENS = {"cls_token", "reg_token", "mask_token", "object_token", "object_pos", "pos_embed"}


def build_optimizer(student: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW without weight decay on vectors (norms, biases, layer scale) and, unless `decay_tokens`, on
    tokens and position embeddings.

    With `decay_tokens` the groups are those of DINO and iBOT (`get_params_groups`): what ends in `.bias` or
    has one dimension is not decayed, all else is. Each group says in `decayed` whether the schedule of the
    weight decay applies to it.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        leaf = name.rsplit(".", 1)[-1]
        keep = parameter.ndim < 2 or leaf == "bias" or (leaf in TOKENS and not optim.decay_tokens)
        (kept if keep else decayed).append(parameter)
    groups = [{"params": decayed, "decayed": True}, {"params": kept, "decayed": False, "weight_decay": 0.0}]
    # Fused: it honours `found_inf`, so that a non-finite step is skipped without a device sync.
    return torch.optim.AdamW(groups, lr=0.0, betas=optim.betas, weight_decay=optim.weight_decay, fused=True)


def apply_settings(optimizer: torch.optim.Optimizer, settings: Settings) -> None:
    """Set the step's learning rate and weight decay."""
    for group in optimizer.param_groups:
        group["lr"] = settings.lr
        if group["decayed"]:
            group["weight_decay"] = settings.weight_decay


def clip_gradients(student: nn.Module, max_norm: float, clip: Literal["global", "parameter"]) -> Tensor:
    """Clip gradients to a norm of `max_norm` (0: no clipping).

    Args:
        student: Its parameters' gradients are changed in place; those without one are passed over.
        max_norm: The largest norm.
        clip: `global`: of all gradients together. `parameter`: of each parameter's on its own, as DINO and
            iBOT do (`clip_gradients`: g *= min(1, max_norm / (|g| + 1e-6))).

    Returns:
        The global norm before.
    """
    parameters = [p for p in student.parameters() if p.grad is not None]
    if clip == "global" or max_norm == 0:
        return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else float("inf"))
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    torch._foreach_mul_(gradients, list((max_norm / (norms + 1e-6)).clamp(max=1.0).unbind()))
    total: Tensor = torch.linalg.vector_norm(norms)
    return total


def step_if_finite(optimizer: torch.optim.Optimizer, gradient_norm: Tensor) -> Tensor:
    """Take the step if the gradient norm is finite. Returns whether it was: a bool tensor on the device."""
    finite = torch.isfinite(gradient_norm)
    # torch reads it, undeclared
    optimizer.found_inf = (~finite).to(torch.float32)  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
    return finite
