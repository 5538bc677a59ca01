"""A batch is the same whether it goes through shared memory or a pipe, and goes through what holds it."""

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from odis.data import handover
from odis.data.handover import Packed, Packer
from odis.machine.shared_memory import SharedMemory


@dataclass
class Batch:
    pixels: Tensor
    more: list[Tensor]
    names: dict[str, Tensor]
    paths: list[str]
    array: np.ndarray


def batch() -> Batch:
    views = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    return Batch(
        views.transpose(0, 2),  # not contiguous
        [torch.tensor([True, False]), torch.zeros(0, 3, dtype=torch.uint8), torch.tensor(7)],
        {"half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "grad": torch.ones(2, requires_grad=True)},
        ["a.jpg", "b \udcff.jpg"],
        np.arange(5),
    )


def tensors(of: Batch) -> list[Tensor]:
    return [of.pixels, *of.more, *of.names.values()]


@pytest.fixture
def in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "get_worker_info", SimpleNamespace)
    monkeypatch.setattr(handover, "socket_fault", lambda: None)


def with_free(monkeypatch: pytest.MonkeyPatch, free: int | None) -> None:
    there = None if free is None else SharedMemory(2**26, free)
    monkeypatch.setattr(handover, "shared_memory", lambda: there)


@pytest.mark.usefixtures("in_a_worker")
def test_a_packed_batch_is_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 0)
    before, packed = batch(), Packer(lambda _: batch(), ahead=4)([])
    assert isinstance(packed, Packed)
    after = packed.unpack()
    assert [f.name for f in dataclasses.fields(after)] == [f.name for f in dataclasses.fields(before)]
    for one, other in zip(tensors(after), tensors(before), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert after.paths == before.paths
    assert np.array_equal(after.array, before.array)
    after.pixels.add_(1)  # it may be written to


@pytest.mark.usefixtures("in_a_worker")
@pytest.mark.parametrize("ahead", [1, 8])
def test_shared_memory_is_used_as_long_as_it_holds_all_that_is_made_ahead(
    monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    size = sum(t.untyped_storage().nbytes() for t in tensors(batch()))
    packer = Packer(lambda _: batch(), ahead=ahead)
    with_free(monkeypatch, ahead * size)
    assert isinstance(packer([]), Batch)
    with_free(monkeypatch, ahead * size - 1)
    assert isinstance(packer([]), Packed)
    with_free(monkeypatch, None)  # a system without a limit
    assert isinstance(packer([]), Batch)


@pytest.mark.usefixtures("in_a_worker")
def test_it_says_what_is_there_what_is_needed_and_what_gives_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 2**20)
    packed = Packer(lambda _: torch.zeros(100 * 2**18), ahead=16)([])  # 100 MiB
    assert packed.why == (
        "/dev/shm has 64 MiB, of which 1.0 MiB are free, but the batches that are made ahead may need "
        "1,600 MiB (docker run --shm-size 3g gives more)"
    )


@pytest.mark.usefixtures("in_a_worker")
def test_without_sockets_batches_are_packed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 2**40)
    monkeypatch.setattr(handover, "socket_fault", lambda: "no temporary folder can be written")
    assert Packer(lambda _: batch(), ahead=1)([]).why == "no temporary folder can be written"


@pytest.mark.usefixtures("in_a_worker")
@pytest.mark.parametrize("content", ["text", [1, 2], {"a": np.zeros(10**6)}, []], ids=str)
def test_what_has_no_tensor_is_left_alone(monkeypatch: pytest.MonkeyPatch, content: object) -> None:
    with_free(monkeypatch, 0)
    assert Packer(lambda _: content, ahead=1)([]) is content


def test_this_process_hands_nothing_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 0)
    assert isinstance(Packer(lambda _: batch(), ahead=1)([]), Batch)
