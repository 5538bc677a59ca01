"""Ranks: what `torchrun` started, and sums, maxima and lists over all of them.

In one process each collective is the identity, and no process group is needed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from odis.errors import OdisError
from odis.machine.heartbeat import Heartbeat, is_of_a_peer, open_store
from odis.machine.meeting import LIMIT, meet

T = TypeVar("T")

_NO_LIMIT = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Launch:
    """What `torchrun` tells this process in its environment. Without `torchrun`, rank 0 of 1."""

    rank: int
    world_size: int
    local_rank: int  # among the ranks of this machine: the number of its GPU
    local_world_size: int  # ranks on this machine, which share its memory


def launch() -> Launch:
    """How this process was started."""
    names = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    return Launch(*(int(os.environ.get(name, default)) for name, default in names))


@dataclass(frozen=True, slots=True)
class Ranks:
    """This rank, the number of ranks, and this rank's device.

    `control` is the group over which ranks wait for each other and agree: on the CPU, and without a limit of
    time, since a rank may discover objects or evaluate for hours while the others wait. A rank that dies
    still ends the wait.
    """

    rank: int
    world_size: int
    device: torch.device
    control: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def distributed(self) -> bool:
        return self.world_size > 1

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.distributed:
            dist.barrier(group=self.control)

    def any(self, flag: bool) -> bool:
        """Whether the flag of any rank is set. All ranks call it."""
        if not self.distributed:
            return flag
        box = torch.tensor([flag], dtype=torch.uint8)
        dist.all_reduce(box, op=dist.ReduceOp.MAX, group=self.control)
        return bool(box)

    def gather(self, item: T) -> list[T]:
        """The item of every rank, the first rank's first, over the control group. All ranks call it."""
        if not self.distributed:
            return [item]
        items: list[Any] = [None] * self.world_size
        dist.all_gather_object(items, item, group=self.control)
        return items

    def from_first(self, value: Callable[[], T]) -> T:
        """`value()` of the first rank, sent to all. The other ranks do not call it. What the first rank
        refuses is raised on all of them.

        Raises:
            OdisError: as `value` does.
        """
        if not self.distributed:
            return value()
        box: list[Any] = [None, None]
        if self.is_first:
            try:
                box = [value(), None]
            except OdisError as error:
                box = [None, error]
        dist.broadcast_object_list(box, src=0, group=self.control)
        if box[1] is not None:
            raise box[1]
        first: T = box[0]
        return first


@contextmanager
def ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the other ranks if `torchrun` started several, and leave them at the end.

    Raises:
        OdisError: Another rank has ended; the line says which. One that is silent for `heartbeat.LIMIT` ends
            this process.
    """
    size = launch().world_size
    if size == 1:
        yield Ranks(0, 1, device)
        return
    store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=LIMIT)))
    start = meet(store, rank, size)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"odis/{start}", store), rank=rank, world_size=size,
    )  # fmt: skip
    try:
        control = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=_NO_LIMIT))
        here = Ranks(rank, size, device, control)
        beats = Heartbeat(open_store(), rank, size, start)
        here.barrier()
        beats.start()
        try:
            yield here
        except BaseException as error:
            if is_of_a_peer(error) and not isinstance(error, OdisError):
                with _without_sigterm():
                    who = beats.missing()
                if who:
                    beats.stop(who)
                    raise OdisError(f"{who}; the same command resumes from the newest checkpoint") from error
            beats.stop(f"{type(error).__name__}: {error}".strip().splitlines()[0][:200])
            raise
        beats.stop()
    finally:
        dist.destroy_process_group()


@contextmanager
def _without_sigterm() -> Iterator[None]:
    """`torchrun` sends SIGTERM to the others once a rank is dead. They say who it was first."""
    try:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except ValueError:  # not the main thread, which alone may handle signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def world_size() -> int:
    """Ranks in the process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of `x` over the ranks. All hold the same shape. Differentiable: each rank gets its share of the
    gradient.
    """
    return _SumOverRanks.apply(x) if world_size() > 1 else x


def max_over_ranks(x: Tensor) -> Tensor:
    """The elementwise maximum of `x` over the ranks, without gradient."""
    x = x.detach()
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def gather_rows(x: Tensor) -> Tensor:
    """The rows of `x` (R, ...) of all ranks in order. Ranks may hold unequal numbers of rows, or none.
    Differentiable: each rank gets its rows' gradient from every rank.
    """
    if world_size() == 1:
        return x
    counts = _row_counts(x)
    before, after = counts[: dist.get_rank()], counts[dist.get_rank() + 1 :]
    padding = [x.new_zeros(sum(rows), *x.shape[1:]) for rows in (before, after)]
    return sum_over_ranks(torch.cat([padding[0], x, padding[1]]))


def rows_of_earlier_ranks(x: Tensor) -> int:
    """How many rows of `x` (R, ...) the ranks before this one hold."""
    if world_size() == 1:
        return 0  # and no wait for the device
    return sum(_row_counts(x)[: dist.get_rank()])


def _row_counts(x: Tensor) -> list[int]:
    """How many rows of `x` each rank holds."""
    counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(x)], device=x.device))
    return [int(c) for c in counts]


class _SumOverRanks(torch.autograd.Function):
    """The backward pass sums gradients over the ranks, since each rank's value enters every rank's result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total
