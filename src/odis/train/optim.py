"""AdamW: parameter groups, scheduled values, and a step that is skipped if it is not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from odis.config.training import OptimConfig
from odis.train.schedules import Settings


def build_optimizer(student: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW without weight decay on vectors (norms, biases, layer scale), tokens and position embeddings.

    Each group says in `decayed` whether the schedule of the weight decay applies to it.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        is_token = name.rsplit(".", 1)[-1] in {
            "cls_token",
            "reg_token",
            "mask_token",
            "object_token",
            "pos_embed",
        }
        (kept if parameter.ndim < 2 or is_token else decayed).append(parameter)
    groups = [{"params": decayed, "decayed": True}, {"params": kept, "decayed": False, "weight_decay": 0.0}]
    # Fused: it honours `found_inf`, so that a non-finite step is skipped without a device sync.
    return torch.optim.AdamW(groups, lr=0.0, betas=optim.betas, weight_decay=optim.weight_decay, fused=True)


def apply_settings(optimizer: torch.optim.Optimizer, settings: Settings) -> None:
    """Set the step's learning rate and weight decay."""
    for group in optimizer.param_groups:
        group["lr"] = settings.lr
        if group["decayed"]:
            group["weight_decay"] = settings.weight_decay


def clip_gradients(student: nn.Module, max_norm: float) -> Tensor:
    """Clip gradients to a global norm of `max_norm` (0: no clipping). Returns the norm before."""
    parameters = [p for p in student.parameters() if p.grad is not None]
    return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else float("inf"))


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
