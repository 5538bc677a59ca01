"""How a worker hands a batch over: in shared memory where it fits, else packed, through a pipe.

Torch puts the tensors of a batch into shared memory in a thread of its own. If they do not fit, the batch is
lost and the main process waits for it for ever. So a worker looks first.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from odis.machine.shared_memory import mebibytes, shared_memory, socket_fault


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch as bytes, and why it did not go through shared memory."""

    content: bytes
    why: str

    def unpack(self) -> Any:
        """The batch."""
        return pickle.loads(self.content)  # bytes of our own worker


@dataclass(frozen=True, slots=True)
class Packer:
    """Collates items, and packs the batch if shared memory may not hold it.

    Args:
        collate: Makes a batch of items.
        ahead: Batches that all workers together prepare ahead, each of which may come at the same moment.
    """

    collate: Callable[[Any], Any]
    ahead: int

    def __call__(self, items: Any) -> Any:
        batch = self.collate(items)
        if get_worker_info() is None:
            return batch
        why = self._fault(batch)
        return batch if why is None else Packed(_pack(batch), why)

    def _fault(self, batch: Any) -> str | None:
        """Why shared memory may not do; None if it will."""
        tensors = list(_tensors(batch))
        size = sum(t.untyped_storage().nbytes() for t in tensors)
        if not size:
            return None
        there = shared_memory()
        if there is not None and there.free < self.ahead * size:
            need = self.ahead * size
            return (
                f"{there}, but the batches that are made ahead may need {mebibytes(need)} (docker run "
                f"--shm-size {max(1, round(2 * need / 2**30))}g gives more)"
            )
        return socket_fault()


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a batch, however it nests them."""
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


class _Pickler(pickle.Pickler):
    """Tensors as numpy arrays, whose bytes are copied once."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype == torch.bfloat16 or value.requires_grad:
            return NotImplemented
        return torch.from_numpy, (value.contiguous().numpy(),)


def _pack(batch: Any) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol=5).dump(batch)
    return file.getvalue()
