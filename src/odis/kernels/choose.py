"""Which kernel runs: the one place, beside `machine/devices.py`, that asks what hardware there is.

| kernel | used | gain where it was measured |
| --- | --- | --- |
| `bmm_attention` | bf16 on a CPU with bf16 instructions, up to 512 tokens | time |
| `conv_linear` | fp32 on an AMD CPU with AVX-512, from 1536 rows on | time |
| `recompute_mlp.gelu_linear` | wherever gradients are needed | memory |
| `packed_tokens` | where enough read-only object tokens are read by nobody | time, memory |

`benchmarks/RESULTS.md` has the figures.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odis.errors import ConfigError
from odis.kernels.bmm_attention import bmm_attention
from odis.kernels.conv_linear import conv_linear, is_plain_linear
from odis.kernels.packed_tokens import PackedTokens
from odis.kernels.recompute_mlp import gelu_linear, is_plain_mlp

AttentionKernel = Callable[[Tensor, Tensor | None, bool, bool], Tensor]
"""`kernel(qkv, keys, objects_first, objects_seen)`: see `bmm_attention`."""

MANY_ROWS = 1536  # below this many rows, oneDNN's weight reorder costs more than it saves
FEW_TOKENS = 512  # above this many tokens, torch's kernel, which never holds all weights, is faster

WORTH_PACKING = 32  # tokens are packed if one in so many is left out

_VARIABLE = "ODIS_KERNELS"
_reference = 0  # how many `reference()` are open


@contextlib.contextmanager
def reference() -> Iterator[None]:
    """Turn every kernel off, in this process: what runs is `method/` with torch's own operations.

    It may be nested. Data workers are separate processes, but run no kernel of this package.
    """
    global _reference
    _reference += 1
    try:
        yield
    finally:
        _reference -= 1


def uses_reference() -> bool:
    """Whether all kernels are off, by `reference()` or by `ODIS_KERNELS=reference`.

    Raises:
        ConfigError: the variable has another value than `auto` or `reference`.
    """
    return _reference > 0 or _from_environment()


@cache
def _from_environment() -> bool:
    value = os.environ.get(_VARIABLE) or "auto"
    if value not in ("auto", "reference"):
        raise ConfigError(f"{_VARIABLE}: is {value!r}, must be auto or reference")
    return value == "reference"


def attention(qkv: Tensor, *, masked: bool, dropout: float, normed: bool) -> AttentionKernel | None:
    """The kernel for one attention, or None: the two calls of `method/attention.py`.

    Args:
        qkv: (B, T, 3, h, d).
        masked: Whether object queries are masked.
        dropout: Share of the attention weights that are dropped.
        normed: Whether queries or keys are normalised first.
    """
    if torch.compiler.is_compiling() or uses_reference() or dropout > 0 or normed:
        return None
    if qkv.device.type != "cpu" or qkv.shape[1] > FEW_TOKENS or qkv.dtype != torch.bfloat16:
        return None
    return bmm_attention if _has_bf16_instructions() else None


def linear(module: nn.Module, x: Tensor) -> Tensor:
    """`module(x)`, to rounding.

    Args:
        module: A layer; only a plain `nn.Linear` without hooks is not called as it is.
        x: (..., D).

    Returns:
        (..., O).
    """
    if torch.compiler.is_compiling() or uses_reference() or not is_plain_linear(module):
        return module(x)
    return conv_linear(x, module.weight, module.bias) if _conv_is_faster(x) else module(x)


def mlp(module: Any, x: Tensor) -> Tensor:
    """`module(x)`, to rounding, in less memory.

    Args:
        module: The MLP of a block; only timm's plain one with GELU is not called as it is.
        x: (..., D).
    """
    if torch.compiler.is_compiling() or uses_reference() or not is_plain_mlp(module):
        out: Tensor = module(x)
        return out
    hidden = linear(module.fc1, x)
    if not torch.is_grad_enabled():
        return linear(module.fc2, F.gelu(hidden))
    return gelu_linear(hidden, module.fc2, convolve=_conv_is_faster(hidden))


def packing(views: int, context: int, queries: int, objects: Tensor) -> PackedTokens | None:
    """How to leave out read-only object tokens that nobody reads, or None: all stay.

    Args:
        views: B.
        context: Tokens of a view that are no object's.
        queries: Q, read-only object tokens of a view.
        objects: int64 (R,), those that are read: positions in the flattened (B * Q).
    """
    spared = views * queries - len(objects)
    if uses_reference() or queries == 0 or spared * WORTH_PACKING < views * (context + queries):
        return None
    return PackedTokens(views, context, queries, objects)


def _conv_is_faster(x: Tensor) -> bool:
    """Whether a product of (..., D) is faster as a convolution: see `conv_linear`."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    return x.numel() >= MANY_ROWS * x.shape[-1] and _mkl_is_slow()


@cache
def _mkl_is_slow() -> bool:
    """Whether oneDNN is there, and MKL, which torch takes for fp32 products, does not use all of the CPU."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"):
        return False
    with contextlib.suppress(OSError):  # not Linux
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return False


@cache
def _has_bf16_instructions() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported())
