"""Ranks without the cost of their start: one process imports torch, and forks the ranks of one run after
another.

`python forked_ranks.py JOBS.json` runs each job as `torchrun --nproc-per-node RANKS` would run `pretrain`. A
job has `out`, `ranks`, the `settings` of a config, and perhaps `goes_on`: the folder of a run that is copied
without its newest checkpoint. Each rank writes what it holds of the state into `out/held-RANK.json`. After
two steps the rank `killed` is, of which the others are told by SIGTERM, the rank `fails` raises, and the rank
`signalled` gets SIGUSR1. The rank `dies_saving` is killed when it has written its part of the last
checkpoint, and all others with it.
"""

import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from odis.config.options import load_recipe
from odis.data.loader import make_loader
from odis.machine.checksums import crc_of
from odis.machine.shards import local
from odis.objects.index import ObjectIndex
from odis.objects.storage import reading
from odis.train import loop, shard_files, update
from odis.train.checkpoint import checkpoints
from odis.train.update import TrainState

ENDS = {"killed", "fails", "signalled", "dies_saving", "attempts"}
"""With one of these a job does not end well."""


def held(run: TrainState) -> dict[str, float]:
    """Which share of the numbers this rank holds."""
    moments = [state["exp_avg"] for state in run.optimizer.state.values()]
    parts = {"student": list(run.student.parameters()), "teacher": list(run.teacher.parameters())}
    return {
        name: sum(local(x).numel() for x in tensors) / sum(x.numel() for x in tensors)
        for name, tensors in (parts | {"moments": moments}).items()
    }


def run_rank(job: dict[str, Any], rank: int) -> None:
    train_step, runs = update.train_step, list[TrainState]()

    def kept(run: TrainState, *given: Any, **more: Any) -> None:
        train_step(run, *given, **more)
        if job.get("killed") == rank and run.step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if job.get("fails") == rank and run.step == 2:
            raise MemoryError("a fault of its own")
        if job.get("signalled") == rank and run.step == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        runs[:] = [run]

    def checked(path: Path) -> int:
        if job.get("dies_saving") == rank and runs[0].step == job["settings"]["train__steps"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return crc_of(path)

    setattr(loop, "train_step", kept)  # noqa: B010
    setattr(shard_files, "crc_of", checked)  # noqa: B010
    reading.ATTEMPTS = job.get("attempts", reading.ATTEMPTS)
    out = Path(job["out"])
    loop.pretrain(load_recipe("debug", **job["settings"]), out)
    (out / f"held-{rank}.json").write_text(json.dumps(held(runs[0])))


def fork_ranks(job: dict[str, Any]) -> bool:
    """Whether all ranks of a job ended well."""
    if "goes_on" in job:
        shutil.copytree(job["goes_on"], job["out"])
        newest = checkpoints(Path(job["out"]) / "checkpoints")[-1]
        shutil.rmtree(newest) if newest.is_dir() else newest.unlink()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(job["ranks"]):
        child = os.fork()
        if child == 0:
            where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["ranks"]}
            where |= {"LOCAL_WORLD_SIZE": job["ranks"], "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in where.items()})
            try:
                run_rank(job, rank)
            except BaseException:
                said = f"rank {rank} of {job['out']}\n{traceback.format_exc()}"
                print(said, file=sys.stderr, flush=True)
                (Path(job["out"]) / f"said-{rank}.txt").write_text(said)
                os._exit(1)
            os._exit(0)
        children.append(child)
    ends = []
    if (first := job.get("killed", job.get("dies_saving"))) is not None:
        ends.append(os.waitpid(children.pop(first), 0)[1])
        if "killed" in job:
            time.sleep(1)  # as torchrun does, soon after; here while they find out who it was
        for child in children:
            os.kill(child, signal.SIGTERM if "killed" in job else signal.SIGKILL)
    ends += [os.waitpid(child, 0)[1] for child in children]
    return not any(ends)


def warm_up(job: dict[str, Any]) -> None:
    """Make a batch, so that the compiled loops are loaded once for all ranks."""
    config = load_recipe("debug", **job["settings"])
    next(iter(make_loader(ObjectIndex.open(config.data), config, patch_size=8, start_step=0, steps=1)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    jobs = json.loads(Path(sys.argv[1]).read_text())
    warm_up(jobs[0])
    went_well = [fork_ranks(job) != bool(ENDS & job.keys()) for job in jobs]
    sys.exit(0 if all(went_well) else 1)
