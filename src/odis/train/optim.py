"""AdamW: parameter groups, scheduled values, and a step that is skipped if it is not finite."""

from __future__ import annotations

import re
from typing import Literal

import torch
from torch import Tensor, nn

from odis.config.training import OptimConfig
from odis.machine.shards import local, norms
from odis.train.schedules import Settings

_EMBEDDING = {"patch_embed", "cls_token", "reg_token", "mask_token", "pos_embed"}
_EMBEDDING |= {"norm_pre", "rope", "rel_pos_bias"}
NEW_TOKENS = {"mask_token", "object_token", "object_pos"}
"""Tokens of a backbone that published weights do not have, or not trained for this."""
TOKENS = {"cls_token", "reg_token", "mask_token", "object_token", "object_pos", "pos_embed"}


def build_optimizer(student: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW without weight decay on vectors (norms, biases, layer scale) and, unless `decay_tokens`, on
    tokens and position embeddings.

    With `decay_tokens` the groups are those of DINO and iBOT (`get_params_groups`): what ends in `.bias` or
    has one dimension is not decayed, all else is. Each group says in `decayed` whether the schedule of the
    weight decay applies to it, and in `lr_factor` what its learning rate is of the scheduled one.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    blocks = 1 + max((block_of(name) or 0 for name, _ in student.named_parameters()), default=0)
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        leaf = name.rsplit(".", 1)[-1]
        keep = parameter.ndim < 2 or leaf == "bias" or (leaf in TOKENS and not optim.decay_tokens)
        factor = lr_factor(name, blocks, optim.layer_decay, optim.patch_embed_factor)
        groups.setdefault((not keep, factor), []).append(parameter)
    made = [
        {"params": groups[decayed, factor], "decayed": decayed, "lr_factor": factor}
        | ({} if decayed else {"weight_decay": 0.0})
        for decayed, factor in sorted(groups, key=lambda group: -group[0])  # decayed ones first
    ]
    # Fused: it honours `found_inf`, so that a non-finite step is skipped without a device sync.
    return torch.optim.AdamW(made, lr=0.0, betas=optim.betas, weight_decay=optim.weight_decay, fused=True)


def block_of(name: str) -> int | None:
    """The number of the backbone's block that a parameter of the student is in; None for any other."""
    found = re.match(r"backbone\.blocks\.(\d+)\.", name)
    return None if found is None else int(found[1])


def is_embedding(name: str) -> bool:
    """Whether a parameter of the student is before the first block: patch embedding, positions, tokens that
    timm has, shared biases; not the object token, which is new.
    """
    parts = name.split(".")
    return parts[0] == "backbone" and parts[1] in _EMBEDDING


def lr_factor(name: str, blocks: int, decay: float, patch_embed: float) -> float:
    """Layer-wise decay of the learning rate as DINOv2 has it (`get_vit_lr_decay_rate`).

    With L blocks it is decay ** (L + 1 - id): id 0 for the embeddings, the mask token among them, i + 1 for
    block i, and L + 1, a factor of 1, for the final norm, the heads and (ours) the object token and its
    position. The patch embedding has `patch_embed` times that.
    """
    block = block_of(name)
    place = 0 if is_embedding(name) else blocks + 1 if block is None else block + 1
    factor = decay ** (blocks + 1 - place)
    return factor * patch_embed if name.startswith("backbone.patch_embed.") else factor


def apply_settings(optimizer: torch.optim.Optimizer, settings: Settings) -> None:
    """Set the step's learning rate and weight decay."""
    for group in optimizer.param_groups:
        group["lr"] = settings.lr * group.get("lr_factor", 1.0)  # checkpoints of 0.1 have none
        if group["decayed"]:
            group["weight_decay"] = settings.weight_decay


def clip_gradients(student: nn.Module, max_norm: float, clip: Literal["global", "parameter"]) -> Tensor:
    """Clip gradients to a norm of `max_norm` (0: no clipping).

    Args:
        student: Its parameters' gradients are changed in place; those without one are passed over. If they
            are sharded, norms are those of the whole, and all ranks call it.
        max_norm: The largest norm.
        clip: `global`: of all gradients together. `parameter`: of each parameter's on its own, as DINO and
            iBOT do (`clip_gradients`: g *= min(1, max_norm / (|g| + 1e-6))).

    Returns:
        The global norm before.
    """
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    of_each = norms(gradients)
    total: Tensor = torch.linalg.vector_norm(of_each)
    if max_norm == 0:
        return total
    here = [local(gradient) for gradient in gradients]
    if clip == "global":
        torch._foreach_mul_(here, (max_norm / (total + 1e-6)).clamp(max=1.0))
    else:
        torch._foreach_mul_(here, list((max_norm / (of_each + 1e-6)).clamp(max=1.0).unbind()))
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
