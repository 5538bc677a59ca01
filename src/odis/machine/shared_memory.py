"""Shared memory of this machine, in which data workers hand over their batches."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from multiprocessing import util
from pathlib import Path

FOLDER = Path("/dev/shm")
"""Where Linux keeps it. Docker gives a container 64 MiB unless it is told `--shm-size`."""

_SOCKET_PATH = 107  # bytes that the path of a Unix socket may have
_SOCKET_NAME = len("/listener-") + 8  # as multiprocessing names one


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """Bytes of shared memory: all, and what is free."""

    total: int
    free: int

    def __str__(self) -> str:
        if not self.total:
            return f"{FOLDER} is missing"
        return f"{FOLDER} has {mebibytes(self.total)}, of which {mebibytes(self.free)} are free"


def shared_memory() -> SharedMemory | None:
    """What there is now; None on a system that sets no such limit."""
    if not FOLDER.parent.is_dir() or os.uname().sysname != "Linux":
        return None
    try:
        state = os.statvfs(FOLDER)
    except OSError:
        return SharedMemory(0, 0)
    return SharedMemory(state.f_blocks * state.f_frsize, state.f_bavail * state.f_frsize)


def socket_fault() -> str | None:
    """Why processes here cannot open a socket to each other in the temporary folder; None if they can.

    Torch sends the descriptors of shared tensors through such sockets.
    """
    try:
        folder = util.get_temp_dir()
    except OSError as error:  # none of the folders that are tried can be written
        return f"no temporary folder can be written ({error.strerror or error})"
    if len(os.fsencode(folder)) + _SOCKET_NAME > _SOCKET_PATH:
        return f"the path of the temporary folder is too long for a socket ({tempfile.gettempdir()})"
    return None


def mebibytes(count: float) -> str:
    """A number of bytes in words."""
    mib = count / 2**20
    return f"{mib:,.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"
