"""Other processes: what they do, as Linux tells it, and who of them hears Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path


def processor_seconds(pids: Sequence[int]) -> float | None:
    """Processor time that these processes took so far, together; None where the system does not tell."""
    total = 0
    for pid in pids:
        fields = _stat(pid)
        if fields is None:
            return None
        total += int(fields[11]) + int(fields[12])  # user and system time
    return total / os.sysconf("SC_CLK_TCK")


def state_of(pid: int) -> str | None:
    """`R` runs, `S` sleeps, `D` waits for a disk, `T` is stopped, `Z` has ended; None where the system does
    not tell.
    """
    fields = _stat(pid)
    return None if fields is None else fields[0]


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the name, which may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Processes that are started in this block never hear Ctrl-C: who started them ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # which alone may set handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
