"""Linear layers as a CPU computes them fastest.

Letters: N rows, D inputs, O outputs.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_MANY_ROWS = 1536  # of fewer, a convolution puts the weights in order for longer than it spares


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    """`module(x)`, to rounding: on some CPUs, and for many rows, as a convolution of one pixel.

    It is the same arithmetic. oneDNN's convolution first brings the weights into the order that its kernel
    reads, and adds the bias in the kernel; its product of matrices does neither, and MKL's, which torch takes
    in fp32, does not use all of an AMD CPU.

    Args:
        module: Any; only a plain `nn.Linear` without hooks is not called as it is.
        x: (..., D).

    Returns:
        (..., O).
    """
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    if not is_plain(module) or not convolution_is_faster(x, dtype):
        return module(x)
    return _Linear.apply(x.to(dtype), *cast(module, x))


def is_plain(module: nn.Module) -> bool:
    """Whether a module is an `nn.Linear` and no more: no subclass, and no hook that wants to see it
    called.
    """
    return type(module) is nn.Linear and not is_watched(module)


def is_watched(module: nn.Module) -> bool:
    """Whether hooks want to see a module called."""
    return any(
        (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    )


def cast(module: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as autocast would have them; inside of a function of one's own it casts nothing."""
    weight, bias = module.weight, module.bias
    if not torch.is_autocast_enabled(x.device.type):
        return weight, bias
    dtype = torch.get_autocast_dtype(x.device.type)
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def convolution_is_faster(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether a product is faster as a convolution, as measured: of many rows, without a compiler, which
    chooses itself.

    Args:
        x: (..., D), on the device of the product.
        dtype: Of the product.
    """
    if x.device.type != "cpu" or x.numel() < _MANY_ROWS * x.shape[-1] or torch.compiler.is_compiling():
        return False
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    if dtype == torch.bfloat16:
        return torch.cpu._is_avx512_bf16_supported()
    return dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX512" and _is_amd()


@cache
def _is_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """linear(x), (..., O), of (..., D) and (O, D); without autograd."""
    if not convolution_is_faster(x, x.dtype):
        return F.linear(x, weight, bias)
    return (
        F.conv2d(_as_pixels(x), weight[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)
    )


def of_input(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient (..., D) of what a product was made of, from that of the product (..., O)."""
    if grad.dtype != torch.float32:  # in halves a convolution is no faster here
        return grad @ weight
    return product(grad, weight.T, None)


def of_weight(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient (O, D) of the weight, from that of the product (..., O) and what it was made of (...,
    D).
    """
    grad, x = grad.flatten(0, -2), x.flatten(0, -2)
    tall = x.shape[1] > grad.shape[1]
    if (
        tall and grad.dtype == torch.float32 and grad.device.type == "cpu"
    ):  # takes 10 to 17 % less time, as measured on a Zen 4
        return (x.T @ grad).T
    return grad.T @ x


def _as_pixels(x: Tensor) -> Tensor:
    """(B, D, T, 1) of (..., T, D), in the same memory: views as images, tokens as pixels."""
    return x.reshape(-1, x.shape[-2], 1, x.shape[-1]).permute(0, 3, 1, 2)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        wants = ctx.needs_input_grad
        return (
            of_input(grad, weight) if wants[0] else None,
            of_weight(grad, x) if wants[1] else None,
            grad.flatten(0, -2).sum(0) if wants[2] else None,
        )
