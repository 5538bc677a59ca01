"""Where a detector runs, and in which arithmetic: its image encoder in the precision asked for, its boxes
always in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from odis.errors import OdisError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str) -> torch.device:
    """The device that `auto` (the GPU if there is one), `cpu`, `cuda` or `cuda:N` means.

    Raises:
        OdisError: It is no such name, or the GPU is not here.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise OdisError(f"device {name!r} must be auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OdisError(
            f"device {name!r}: {torch.cuda.device_count()} GPUs are here; auto takes what there is"
        )
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # what is asked of "the GPU" below is asked of this one
    return device


def find_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type that `fp32`, `bf16`, `fp16` or `auto` (bf16 on a GPU that has it, else fp32) means on a
    device.

    Raises:
        OdisError: It is no such name.
    """
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    if precision not in DTYPES:
        raise OdisError(f"precision {precision!r} is none of auto, {', '.join(DTYPES)}")
    return DTYPES[precision]


def run_in(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Make a part of a network run in `dtype` and answer in float32.

    Only image encoders are run so: a coordinate in bf16 has 8 bits, which is four pixels in an image of a
    thousand.
    """
    if dtype == torch.float32:
        return
    forward = module.forward

    def forward_in_dtype(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, dtype=dtype):
            return _as_float32(forward(*args, **kwargs))

    module.forward = forward_in_dtype


def _as_float32(value: Any) -> Any:
    """The same nest of tuples, lists and dictionaries with its floating-point tensors in float32; other
    things stay.
    """
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):  # also the outputs of transformers, which are ordered dictionaries
        for key in list(value):
            value[key] = _as_float32(value[key])
        return value
    if type(value) in (list, tuple):
        return type(value)(_as_float32(item) for item in value)
    return value
