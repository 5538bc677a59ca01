"""The C library's allocator: whether freed memory goes back to the system or is kept for reuse."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of glibc's <malloc.h>

LARGE = 2**20
"""Bytes from which a block gets its own mapping under `return_freed_memory`."""

_USUAL_MAPS = 65536  # glibc's default: the most blocks with a mapping of their own

_GROWTH = 2**26  # bytes by which the heap grows at a time


def keep_freed_memory() -> bool:
    """Keep freed memory for reuse: all blocks come from the heap, and the heap never shrinks.

    By default glibc maps every large tensor anew and unmaps it when it is freed. The system then clears each
    page again, which costs 5 % of a training step and 20 % of a forward pass (`docs/cost.md`). The
    setting holds for the whole process. Other C libraries and GPU memory are not touched.

    Returns:
        Whether the C library accepted it.
    """
    return _set((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _GROWTH))


def return_freed_memory() -> bool:
    """Return freed memory to the system: blocks of `LARGE` bytes and more get a mapping of their own.

    By default glibc raises that threshold to the largest block freed so far, up to 32 MiB. Activations then
    come from the heap, where blocks of other sizes leave holes, and a training step holds more than it uses.
    A threshold that was set stays. With gradient checkpointing the peak falls by a quarter; a step takes
    longer, since the system clears each page again (`docs/cost.md`). The setting holds for the whole
    process. Other C libraries and GPU memory are not touched.

    Returns:
        Whether the C library accepted it.
    """
    return _set((_MMAP_MAX, _USUAL_MAPS), (_MMAP_THRESHOLD, LARGE), (_TRIM_THRESHOLD, LARGE))


def _set(*parameters: tuple[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return False
    return all(mallopt(*parameter) for parameter in parameters)
