"""Sharded tensors and whole ones, alike. What several ranks hold is tested in `tests/train/test_ranks.py`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import Shard, distribute_tensor

from odis.machine.ranks import Ranks
from odis.machine.shards import is_sharded, local, map_tensors, mesh_of, norms, shard_like, whole, whole_state


@pytest.fixture
def sharded(tmp_path: Path) -> Iterator[Tensor]:
    """A tensor that one rank of one holds."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    mesh = mesh_of(Ranks(0, 1, torch.device("cpu")))
    yield distribute_tensor(torch.arange(12.0).view(4, 3), mesh, [Shard(0)])
    dist.destroy_process_group()


def test_what_is_whole_stays_what_it_is() -> None:
    x = torch.randn(3, 2)
    assert local(x) is x
    assert whole(x) is x
    assert shard_like(x, torch.zeros(3, 2)) is x
    assert not is_sharded(x)
    assert torch.equal(norms([x, 2 * x]), torch.stack([x.norm(), (2 * x).norm()]))


def test_a_state_is_gathered_for_who_wants_it(sharded: Tensor) -> None:
    state = {"a": [sharded, 3], "b": {"c": torch.ones(2), "betas": (0.9, 0.999)}}
    kept = whole_state(state, keep=True)
    assert torch.equal(kept["a"][0], torch.arange(12.0).view(4, 3))
    assert not is_sharded(kept["a"][0])
    assert kept["a"][1] == 3
    assert kept["b"]["betas"] == (0.9, 0.999)
    assert whole_state(state, keep=False) == {"a": [None, 3], "b": {"c": None, "betas": (0.9, 0.999)}}
    assert is_sharded(map_tensors(state, lambda x: x)["a"][0]), "the state itself is left alone"


def test_a_whole_tensor_is_sharded_as_another_is(sharded: Tensor) -> None:
    full = torch.randn(4, 3)
    again = shard_like(full, sharded)
    assert is_sharded(again)
    assert torch.equal(whole(again), full)
    step = torch.tensor(5.0)
    assert shard_like(step, sharded) is step, "of another shape"
    torch.testing.assert_close(norms([again, sharded]), torch.stack([full.norm(), whole(sharded).norm()]))
    assert norms([]).shape == (0,)
