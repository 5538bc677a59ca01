"""Two ranks with unequal rows follow one process with all rows. Run as a script, this file is one of the
ranks.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from odis.config.training import HeadConfig
from odis.machine.ranks import (
    Launch,
    Ranks,
    launch,
    max_over_ranks,
    ranks,
    sum_over_ranks,
    world_size,
)  # fmt: skip
from odis.method.heads import ProjectionHead
from odis.method.losses import Center, koleo_loss, object_loss, patch_loss, sinkhorn_knopp

SPLITS = {"unequal": [0, 3, 10], "one is empty": [0, 0, 10], "no rows": [0, 0, 0]}
"""Borders of the rows of rank 0 and rank 1 among all rows."""


def work(ends: list[int], rank: int | None) -> dict[str, torch.Tensor]:
    """What one rank computes of its rows, or what one process computes of all (rank None)."""
    generator = torch.Generator().manual_seed(0)
    t, x, targets, weight = (torch.randn(10, n, generator=generator) for n in (12, 16, 12, 1))
    mine = slice(0, ends[-1]) if rank is None else slice(ends[rank], ends[rank + 1])
    t, x, targets, weight = (
        t[mine],
        x[mine].requires_grad_(),
        torch.softmax(targets[mine], -1),
        weight[mine, 0],
    )

    out = {}
    center = Center(12, 0.9)
    for step in range(2):
        for part in (t[:4], t[4:]):
            center.add(part + step)
        center.update()
    out["center"] = center.center
    out["rows: sinkhorn"] = sinkhorn_knopp(t, 0.1, 3)

    torch.manual_seed(0)
    head = ProjectionHead(16, HeadConfig(prototypes=12, hidden=20, bottleneck=8, norm="batch"))
    logits = head(x)
    out["rows: logits"] = logits.detach()
    ranks = 1 if rank is None else 2
    loss = object_loss(targets, logits, 0.1, torch.tensor(2.0 * len(x))) + patch_loss(
        targets, logits, weight, 4 // ranks, 0.1
    )
    views = torch.tensor([0, 1, 0, 0, 1, 1, 0, 1, 0, 3])[mine]  # none of view 2, one of view 3
    spread = koleo_loss(F.normalize(x, dim=-1), views, 4)
    out["rank mean: koleo"] = spread.detach()
    (loss + spread).backward()
    out["rank mean: loss"] = loss.detach()
    for name, p in head.named_parameters():
        out[f"rank mean: gradient of {name}"] = p.grad
    out["rows: gradient of x"] = x.grad / ranks  # as DDP's averaging has it
    return out


def check_reductions(rank: int) -> None:
    assert world_size() == 2
    x = torch.tensor([1.0 + rank, 5.0 - rank], requires_grad=True)
    total = sum_over_ranks(x)
    assert total.tolist() == [3, 9]
    assert max_over_ranks(x).tolist() == [2, 5]
    here = Ranks(rank, 2, torch.device("cpu"))
    assert here.gather([f"{rank}"] * (1 + rank)) == [["0"], ["1", "1"]]
    assert here.from_first(lambda: f"asked of {rank}") == "asked of 0"
    ((1 + rank) * total).sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_two_ranks_follow_one(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for split, ends in SPLITS.items():
        for name, expected in work(ends, None).items():
            a, b = first[split][name], second[split][name]
            if name.startswith("rows"):
                got = torch.cat([a, b])
            elif name.startswith("rank mean"):
                got = (a + b) / 2
            else:
                assert torch.equal(a, b)
                got = a
            assert got.shape == expected.shape
            error = (got - expected).norm() / expected.norm().clamp(min=1e-6)
            assert error < 1e-4, f"{split}, {name}: {error}"  # rounding, of gradients through small variances


STARTS = """
import os, signal, sys, time
import torch
from torch.distributed import TCPStore
from odis.machine.ranks import ranks

torch.set_num_threads(1)
store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
last = int(sys.argv[1])
where = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
os.environ.update({name: str(value) for name, value in where.items()}, TORCHELASTIC_USE_AGENT_STORE="True")

def begin(start, rank):
    os.environ["RANK"] = str(rank)
    time.sleep(0.5 if start and rank == last else 0)
    with ranks(torch.device("cpu")) as here:
        here.barrier()
        if not start:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(1, f"{rank} ".encode())  # in one piece: both ranks have this pipe

for start in range(2):
    children = []
    for rank in range(2):
        children.append(os.fork())
        if not children[-1]:
            begin(start, rank)
            os._exit(0)
    for child in children:
        os.waitpid(child, 0)
"""


@pytest.mark.parametrize("last", ["0", "1"])
def test_ranks_that_start_again_do_not_look_for_those_that_were_killed(last: str) -> None:
    """torchrun's store lives on with the addresses of the dead."""
    command = [sys.executable, "-c", STARTS, last]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert sorted(done.stdout.split()) == ["0", "1"], done.stderr


def test_what_torchrun_says_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch() == Launch(rank=0, world_size=1, local_rank=0, local_world_size=1)
    names = {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4}
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))
    assert launch() == Launch(rank=5, world_size=8, local_rank=1, local_world_size=4)
    assert world_size() == 1  # they have not met yet


def test_one_process_is_the_first_of_one() -> None:
    with ranks(torch.device("cpu")) as here:
        assert here.is_first
        assert not here.distributed
        assert here.from_first(lambda: 3) == 3
        here.barrier()


def test_one_process_needs_no_group():
    assert world_size() == 1
    x = torch.randn(3, requires_grad=True)
    assert sum_over_ranks(x) is x
    assert torch.equal(max_over_ranks(x), x)


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    check_reductions(rank)
    torch.save({split: work(ends, rank) for split, ends in SPLITS.items()}, folder / f"{rank}.pt")
    dist.destroy_process_group()
