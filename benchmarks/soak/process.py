"""Commands in processes of their own that cost no start: forked from this one, where odis is loaded."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from odis.cli import main

KILLED = -signal.SIGKILL


def run(command: Sequence[str], log: Path, *, ranks: int = 1, after: float | None = None) -> int:
    """Run `odis COMMAND`, and kill it and all its processes after some seconds.

    Args:
        command: The words behind `odis`.
        log: Gets what it prints.
        ranks: Processes, as of torchrun.
        after: Seconds; None lets it end.

    Returns:
        The largest exit code of the ranks; `KILLED` if it was killed.
    """
    port = _free_port()
    group = 0
    started = []
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            _become(command, log, rank, ranks, port, group)
        group = group or pid
        os.setpgid(pid, group)
        started.append(pid)
    codes: dict[int, int] = {}
    ends = None if after is None else time.monotonic() + after
    while len(codes) < ranks:
        for pid in started:
            if pid not in codes and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(ended[1])
        if ends is not None and time.monotonic() >= ends:
            break
        time.sleep(0.002)
    whole = len(codes) == ranks
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)  # workers too
    for pid in started:
        if pid not in codes:
            os.waitpid(pid, 0)
    return max(codes.values(), key=abs) if whole else KILLED


def _become(command: Sequence[str], log: Path, rank: int, ranks: int, port: int, group: int) -> None:
    """What the child does; never returns."""
    code = 1
    try:
        os.setpgid(0, group)
        if ranks > 1:
            os.environ |= {
                "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
            }  # fmt: skip
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        main(list(command))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return int(one.getsockname()[1])
