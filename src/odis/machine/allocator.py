"""Memory of the C library's allocator: whether what is freed goes back to the system, or stays for what comes
next.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of glibc's <malloc.h>

LARGE = 2**20
"""Bytes from which on a block is mapped on its own, where freed memory is to be returned."""

_USUAL_MAPS = 65536  # blocks that glibc maps at most, unless told otherwise

_GROWTH = 2**26  # bytes by which the heap grows, where it is to be kept


def keep_freed_memory() -> bool:
    """Have all blocks come from the heap, and the heap never shrink; returns whether that can be had.

    As it is, glibc maps the large tensors of every step anew and unmaps them, and the system clears every
    page that it hands out: on a CPU a step of `benchmarks/step.py` met 100,000 new pages, and took 5 %
    longer; a pass of 64 images through ViT-S/16 without gradients 600,000, and 20 %. The setting is the whole
    process's. Other C libraries, and memory of a GPU, are left as they are.
    """
    return _set((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _GROWTH))


def return_freed_memory() -> bool:
    """Have blocks of `LARGE` bytes and more mapped on their own, and unmapped when they are freed; returns
    whether that can be had.

    glibc raises the threshold to the size of the largest block that was freed, up to 32 MiB. From then on
    activations come from its heap, where blocks of other sizes leave holes: a training step on a CPU then
    holds more than it uses. A threshold that was set stays. With activation checkpointing a step of
    `benchmarks/step.py` peaks at 1,624 MiB instead of 2,221; it takes longer (a step without checkpointing
    took 13 %), since the system clears every page that it hands out. The setting is the whole process's.
    Other C libraries, and memory of a GPU, are left as they are.
    """
    return _set((_MMAP_MAX, _USUAL_MAPS), (_MMAP_THRESHOLD, LARGE), (_TRIM_THRESHOLD, LARGE))


def _set(*parameters: tuple[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return False
    return all(mallopt(*parameter) for parameter in parameters)
