"""Whether a network's values fit into fp16, which ends at 65,504.

Public vision towers hold single values of tens of thousands in their last blocks (SigLIP; training of DINOv3
in fp16 fails). Beyond fp16's range they become infinite, and features are not numbers.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from odis.backbones.baseline import TimmBaseline
from odis.backbones.features import whole_masks
from odis.errors import OdisError
from odis.method.vit import ObjectViT

LIMIT = 20_000.0
"""Largest value that a block may leave: a third of fp16's range, since another image may reach further, and
sums within a block do.
"""

PROBED = 8
"""Images that are looked at."""

_STAGE = re.compile(r"(blocks|stages|layers|layer)\d*[._]?\d+")


@torch.no_grad()
def largest_by_block(model: ObjectViT | TimmBaseline, images: Tensor) -> list[float]:
    """The largest absolute value that each block leaves, in fp32.

    Args:
        model: The backbone, in eval mode.
        images: (B, 3, H, W), normalised; the first `PROBED` are shown.
    """
    images = images[:PROBED].float()
    with torch.autocast(images.device.type, enabled=False):
        if isinstance(model, ObjectViT):
            x, keys, layout, _ = model.embed(images, whole_masks(model, images), None)
            found = []
            for block in model.blocks:
                x = model.apply_blocks([block], x, keys, layout)
                found.append(x.abs().max())
            return [float(one) for one in found]
        return _hooked(model.model, lambda: model(images))


def _hooked(net: nn.Module, run: Any) -> list[float]:
    """The same of any timm model: its stages and blocks, or what it is made of if it has none."""
    parts = {name: part for name, part in net.named_modules() if _STAGE.fullmatch(name)}
    parts = parts or dict(net.named_children())
    found: dict[str, float] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: Any, left: Any) -> None:
            if isinstance(left, Tensor) and left.is_floating_point() and left.numel():
                found[name] = max(found.get(name, 0.0), float(left.abs().max()))

        return hook

    handles = [part.register_forward_hook(note(name)) for name, part in parts.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def require_fp16_range(model: ObjectViT | TimmBaseline, images: Tensor, what: str) -> list[float]:
    """Refuse fp16 for a network whose values come near the end of its range.

    Args:
        model: See `largest_by_block`.
        images: See `largest_by_block`.
        what: Names the network.

    Returns:
        The largest value of each block.

    Raises:
        OdisError: A block leaves values above `LIMIT`, or that are not finite.
    """
    largest = largest_by_block(model, images)
    for number, value in enumerate(largest, 1):
        if not value <= LIMIT:
            raise OdisError(
                f"{what}: precision fp16: block {number} leaves values up to {value:,.0f}, and fp16 ends at "
                f"65,504; give precision bf16 or fp32"
            )
    return largest
