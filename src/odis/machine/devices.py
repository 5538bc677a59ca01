"""The one place where a device and a precision are resolved. Which kernel runs is decided in `kernels/`."""

from __future__ import annotations

import platform
import re
import resource
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F

from odis.config.wording import counted
from odis.errors import ConfigError
from odis.machine.ranks import launch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions by name: the dtype of autocast. Weights stay in fp32."""

CLEARLY_FASTER = 1.2
"""How many times as fast bf16 must be on a CPU before `auto` takes it. A ratio near 1 would flip from one
measurement to the next."""

_ROWS, _WIDTH, _HIDDEN = 512, 384, 1536  # a linear layer in the MLP of ViT-S
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Precision:
    """The arithmetic of forward and backward passes, resolved."""

    name: str
    why: str = ""
    """Why `auto` chose it; empty for a precision given by name."""

    @property
    def dtype(self) -> torch.dtype:
        """Its floating-point type."""
        return DTYPES[self.name]


def resolve_device(name: str, setting: str = "device") -> torch.device:
    """The device of a name. A numbered GPU becomes the current GPU of this process.

    Args:
        name: `auto` (this rank's GPU if there is one, else the CPU), `cpu`, `cuda`, `cuda:N`, or `mps`, which
            `auto` never takes.
        setting: Name of the setting, for messages.

    Raises:
        ConfigError: for another name, or a device that this machine lacks.
    """
    if name == "auto":
        name = f"cuda:{launch().local_rank}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"{setting}: is {name!r}, must be auto, cpu, cuda, cuda:N or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"{setting}: is {name!r}, but this machine has none; auto takes what there is")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(f"{setting}: is {name!r}, but {count} GPUs are here; auto takes what there is")
        if device.index is not None:
            torch.cuda.set_device(device)  # calls without a device, as `is_bf16_supported`, mean this GPU
    return device


def describe_device(device: torch.device) -> str:
    """A device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {counted(torch.get_num_threads(), 'thread')}"


@lru_cache
def _processor() -> str:
    """The CPU's name, where the system tells it; else what kind it is."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        info = ""
    named = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    if named is not None and named[1].strip().strip("?") not in ("", "unknown"):
        return " ".join(named[1].split())
    return f"{platform.processor() or platform.machine()} CPU"


def peak_memory(device: torch.device) -> float:
    """Largest memory so far in GiB: the GPU's allocations, or this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        # Not getrusage: its maximum is inherited from the process that started this one.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**20
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def resolve_precision(
    name: str, device: torch.device, setting: str = "precision", *, measure: bool = False
) -> Precision:
    """The precision of a name on a device.

    Args:
        name: `fp32`, `bf16`, `fp16`, or `auto`: bf16 on a GPU that computes in it, else fp32.
        device: Where the arithmetic runs.
        setting: Name of the setting, for messages.
        measure: On a CPU, let `auto` measure whether bf16 is faster (about 0.1 s, once a process). Otherwise
            it takes fp32 there.

    Raises:
        ConfigError: for another name.
    """
    if name in DTYPES:
        return Precision(name)
    if name != "auto":
        raise ConfigError(f"{setting}: is {name!r}, must be one of auto, {', '.join(DTYPES)}")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16", "this GPU computes in bf16")
        return Precision("fp32", "this GPU does not compute in bf16")
    if device.type == "cpu" and measure:
        ratio = bf16_speedup(torch.get_num_threads())
        why = f"products in bf16 are {ratio:.1f} times as fast as in fp32 on this CPU"
        return Precision("bf16" if ratio >= CLEARLY_FASTER else "fp32", why)
    return Precision("fp32", f"the default on {device.type}")


@lru_cache
def bf16_speedup(threads: int) -> float:
    """How many times as fast matrix products are in bf16 as in fp32 on this CPU, measured.

    The instruction set does not tell: of two CPUs with avx512_bf16, one can be slower in bf16 and the other
    several times as fast. The best of several rounds counts. Rounds alternate between the two dtypes, so that
    a busy machine slows both.

    Args:
        threads: torch's current number of threads, for the cache.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_ROWS, _WIDTH, generator=generator)
    weight = torch.randn(_HIDDEN, _WIDTH, generator=generator)
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    with torch.inference_mode():
        operands = {dtype: (x.to(dtype), weight.to(dtype)) for dtype in best}
        for number in range(1 + _ROUNDS):
            for dtype, (a, b) in operands.items():
                start = time.perf_counter()
                F.linear(a, b)
                if number:  # the first call builds the kernel
                    best[dtype] = min(best[dtype], time.perf_counter() - start)
            if number and best[torch.bfloat16] > 4 * best[torch.float32]:
                break  # emulated: no need to wait for more rounds
    return best[torch.float32] / best[torch.bfloat16]


def full_precision(x: torch.Tensor) -> torch.autocast:
    """A context in which products with `x` are in its own precision, also under autocast."""
    return torch.autocast(x.device.type, enabled=False)


def has_gpu() -> bool:
    """Whether this process can use a GPU, to which batches go faster from page-locked memory."""
    return torch.cuda.is_available()
