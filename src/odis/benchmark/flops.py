"""FLOPs of a training step, counted, and the matrix multiplication rate of a device, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from odis.machine.devices import DTYPES
from odis.train.update import TrainState, train_step
from odis.types import Batch


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def count_flops(run: TrainState, batch: Batch) -> int:
    """FLOPs of matrix multiplications, convolutions and attention in one step on `batch`: both passes, and
    the backward pass. The step is taken.

    What gradient checkpointing computes a second time counts a second time.
    """
    aten = torch.ops.aten
    # Torch counts attention on GPUs only. On CPUs it is the same arithmetic under another name.
    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        train_step(run, [batch])
    return int(counter.get_total_flops())


def matmul_rate(
    device: torch.device, precision: str, *, rows: int, width: int, seconds: float = 1.0
) -> float:
    """Best FLOPs a second of several products (rows, width) x (width, 4 width), as in the MLP of a ViT.

    Args:
        device: Where.
        precision: `fp32`, `bf16` or `fp16`.
        rows: Tokens in a batch.
        width: D.
        seconds: How long to measure.
    """
    dtype = DTYPES[precision]
    a = torch.randn(rows, width, device=device).to(dtype)
    b = torch.randn(width, 4 * width, device=device).to(dtype)
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    repeats, best, end = 1, 0.0, time.perf_counter() + seconds
    while best == 0 or time.perf_counter() < end:
        wait()
        start = time.perf_counter()
        for _ in range(repeats):
            a @ b
        wait()
        elapsed = time.perf_counter() - start
        if best == 0 and elapsed < seconds / 50:  # too short for the clock
            repeats *= 2
            continue
        best = max(best, repeats * 8 * rows * width * width / elapsed)
    return best
