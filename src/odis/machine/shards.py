"""Tensors of which every rank holds a part (FSDP2's `DTensor`), and plain ones, which are whole, alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from odis.machine.ranks import Ranks, sum_over_ranks


def mesh_of(ranks: Ranks) -> DeviceMesh:
    """All ranks in a row: what parameters are sharded over."""
    return init_device_mesh(ranks.device.type, (ranks.world_size,))


def is_sharded(x: Tensor) -> bool:
    """Whether this rank holds a part of `x` only."""
    return isinstance(x, DTensor)


def local(x: Tensor) -> Tensor:
    """What this rank holds of `x`: a view, which may be empty."""
    if not isinstance(x, DTensor):
        return x
    part: Tensor = x.to_local()
    return part


def whole(x: Tensor) -> Tensor:
    """All of `x`, without gradient. All ranks call it."""
    if not isinstance(x, DTensor):
        return x
    full: Tensor = x.full_tensor()
    return full.detach()


def whole_state(state: Any, keep: bool) -> Any:
    """A state dict with sharded tensors made whole, one after the other, on the CPU. All ranks call it.

    Args:
        state: Dicts and lists of anything; tensors that are whole stay where they are.
        keep: This rank wants them. The others get None in their place, and need no memory.
    """

    def gathered(x: Tensor) -> Tensor | None:
        full = whole(x)
        return None if not keep else full.cpu() if is_sharded(x) else full

    return map_tensors(state, gathered)


def map_tensors(state: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same dicts and lists, with `function` of each tensor in its place."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, dict):
        return {key: map_tensors(value, function) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)([map_tensors(value, function) for value in state])
    return state


def shard_like(full: Tensor, like: Tensor) -> Tensor:
    """This rank's part of `full` if `like`, which has its shape, is sharded; else `full`. Nothing is sent."""
    if not isinstance(like, DTensor) or full.shape != like.shape:
        return full
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of each tensor, (n,). Of sharded ones it is that of the whole, and all ranks call it."""
    if not tensors:
        return torch.zeros(0)
    if not any(is_sharded(x) for x in tensors):
        return torch.stack(torch._foreach_norm(list(tensors)))
    parts = torch.stack(torch._foreach_norm([local(x) for x in tensors]))
    return sum_over_ranks(parts.square()).sqrt()
