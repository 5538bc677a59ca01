"""Ranks under torchrun's elastic agent, of which one is killed at random: all start again, from the newest
checkpoint.

The agent is torch's own; its ranks are forked from a process that has odis loaded.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from odis.cli import main

_STEP = re.compile(rb"^step \d+/\d+  loss", re.MULTILINE)
_DONE = re.compile(rb"^done: ", re.MULTILINE)
_LAST = 60.0  # seconds after that line in which all must have ended


@dataclass
class Elastic:
    """What became of an elastic run.

    Args:
        code: The exit code of the agent.
        began: For each start whose ranks took a step: how many seconds after the first of them was seen its
            first step was logged.
        killed: How many seconds after that step a rank was killed.
        trained: Seconds from the first step of the last start to the end.
    """

    code: int = 0
    began: list[float] = field(default_factory=list)
    killed: list[float] = field(default_factory=list)
    trained: float = 0.0


def run_elastic(
    command: Sequence[str], log: Path, *, ranks: int, seconds: float, kills: int, rng: np.random.Generator
) -> Elastic:
    """Run `odis COMMAND` on some ranks, and kill one of them again and again, once it trains.

    None is killed that is done: torch's agent, which has forked it, would wait for it forever (its event for
    the ends of all waits for each waiter to wake; an agent that starts commands has none).

    Args:
        command: The words behind `odis`.
        log: Gets what is printed: a line that begins with `step` after each step.
        ranks: Processes.
        seconds: A kill comes so long after the first step of a start, at most.
        kills: As many at most.
        rng: Draws moments and ranks.
    """
    agent = os.fork()
    if agent == 0:
        _become_agent(command, log, ranks, kills)
    run, before = Elastic(), set[int]()
    while True:
        after = float(rng.uniform(0, seconds))
        seen, began, done, printed = 0.0, 0.0, 0.0, 0
        while True:
            ended, status = os.waitpid(agent, os.WNOHANG)
            if ended:
                run.code = os.waitstatus_to_exitcode(status)
                run.trained = time.monotonic() - began if began else 0.0
                return run
            # The ranks of this start, which are others than those of the last.
            now = _children(agent) - before
            if len(now) == ranks and not seen:
                seen, printed = time.monotonic(), log.stat().st_size
            if seen and not began and _STEP.search(log.read_bytes()[printed:]):
                began = time.monotonic()
                run.began.append(round(began - seen, 3))
            if seen and not done and _DONE.search(log.read_bytes()):
                done = time.monotonic()
            if done and time.monotonic() > done + _LAST:
                for one in (agent, *_children(agent)):
                    os.kill(one, signal.SIGKILL)
            may = began and not done and len(run.killed) < kills and len(now) == ranks
            if may and time.monotonic() >= began + after:
                break
            time.sleep(0.01)
        victim = sorted(now)[int(rng.integers(ranks))]
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:  # it ended by itself
            continue
        run.killed.append(round(time.monotonic() - began, 3))
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
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=ranks, max_restarts=restarts,
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
    # Forked, it has the agent's handlers; a rank that torchrun starts has none.
    for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(one, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(command)
