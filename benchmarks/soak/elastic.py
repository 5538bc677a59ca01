"""Ranks under torchrun's elastic agent, of which one is killed at random: all start again, from the newest
checkpoint.

The agent is torch's own; its ranks are forked from a process that has odis loaded.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from odis.cli import main


def run_elastic(
    command: Sequence[str], log: Path, *, ranks: int, seconds: float, kills: int, rng: np.random.Generator
) -> tuple[int, list[float]]:
    """Run `odis COMMAND` on some ranks, and kill one of them again and again.

    Args:
        command: The words behind `odis`.
        log: Gets what is printed.
        ranks: Processes.
        seconds: A kill comes so long after a start, at most.
        kills: As many at most.
        rng: Draws moments and ranks.

    Returns:
        The exit code of the agent, and after how many seconds of each start a rank was killed.
    """
    agent = os.fork()
    if agent == 0:
        _become_agent(command, log, ranks, kills)
    killed: list[float] = []
    before: set[int] = set()
    while True:
        # Until the ranks of this start are there, which are others than those of the last.
        after = float(rng.uniform(0, seconds))
        at = time.monotonic() + after
        while True:
            ended, status = os.waitpid(agent, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status), killed
            now = _children(agent) - before
            if len(killed) < kills and len(now) == ranks and time.monotonic() >= at:
                break
            time.sleep(0.01)
        victim = sorted(now)[int(rng.integers(ranks))]
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:  # it ended by itself
            continue
        killed.append(round(after, 3))
        before |= now


def _children(pid: int) -> set[int]:
    """Ranks that an agent has started."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return set()
    return {int(word) for word in text.split()}


def _become_agent(command: Sequence[str], log: Path, ranks: int, restarts: int) -> None:
    """What the child does; never returns."""
    code = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        # More starts than kills: gloo was seen to be refused a connection in a start after a kill.
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=ranks, max_restarts=2 * restarts + 2,
            start_method="fork", rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id=str(os.getpid()),
            monitor_interval=0.05,
        )  # fmt: skip
        elastic_launch(config, _rank)(list(command))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _rank(command: list[str]) -> None:
    main(command)
