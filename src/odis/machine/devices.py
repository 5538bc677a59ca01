"""One process or many: what `torchrun` set up, and nothing that needs a second process to exist."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from odis.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def distributed(self) -> bool:
        return self.world_size > 1

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.distributed:
            dist.barrier()


def world_size() -> int:
    """Ranks that `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def resolve_device(name: str) -> torch.device:
    """`auto` is this rank's GPU if there is one, else the CPU.

    Raises:
        ConfigError: if the device does not exist here.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise ConfigError(f"train.device: is {name!r}, must be auto, cpu, cuda or cuda:N") from e
    if device.type == "cuda" and not (
        torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    ):
        raise ConfigError(
            f"train.device: is {name!r}, but {torch.cuda.device_count()} GPUs are here; auto takes what "
            f"there is"
        )
    return device


@contextmanager
def ranks(device_name: str) -> Iterator[Ranks]:
    """Join the other ranks if `torchrun` started several, and leave them at the end."""
    device = resolve_device(device_name)
    size = world_size()
    if size == 1:
        yield Ranks(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()
