"""The precision of a detector: its image encoder may run in bf16 or fp16, its boxes stay in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def run_in(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Make a module run under autocast in `dtype` and return float32.

    For image encoders only: in bf16 a coordinate has 8 bits, which is four pixels in an image of a thousand.
    """
    if dtype == torch.float32:
        return
    forward = module.forward

    def forward_in_dtype(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, dtype=dtype):
            return _as_float32(forward(*args, **kwargs))

    module.forward = forward_in_dtype


def _as_float32(value: Any) -> Any:
    """The same nested tuples, lists and dictionaries with floating-point tensors in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):  # also the outputs of transformers, which are ordered dictionaries
        for key in list(value):
            value[key] = _as_float32(value[key])
        return value
    if type(value) in (list, tuple):
        return type(value)(_as_float32(item) for item in value)
    return value
