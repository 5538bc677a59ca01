"""FSDP2: where `fully_shard` is applied.

Of every parameter each rank holds a part. A block is gathered while it runs, forward and backward; what else
a pass reads (embeddings, tokens, the final norm, heads) while the pass runs. Optimizer and teacher's average
work on the parts.

All is gathered and reduced in fp32, and autocast casts for the products, as without sharding: the norms of a
block want weights in fp32, and FSDP casts a block as a whole.

`ObjectViT` takes its blocks apart instead of calling them, so FSDP's hooks are on the one place through which
all that a block computes goes: `ObjectViT.call`.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from odis.backbones.dense_blocks import whole_block
from odis.method.block import Branch
from odis.method.vit import ObjectViT


def shard(root: nn.Module, backbone: ObjectViT, mesh: DeviceMesh, *, trained: bool) -> None:
    """Shard all parameters of a pass over the ranks, in place. Everything that reads them goes through
    `root`.

    Args:
        root: A module whose forward is the pass.
        backbone: The backbone in it.
        mesh: The ranks.
        trained: A backward pass follows, so what is outside the blocks stays gathered between the two.
    """
    block: Any
    for block in backbone.blocks:
        fully_shard(block, mesh=mesh)
        block.gathered = partial(_run, block)
        register_fsdp_forward_method(block, "gathered")
    backbone.call = partial(_call_gathered, backbone.call)
    fully_shard(root, mesh=mesh, reshard_after_forward=not trained)
    # It warns of what would be lost if an output were written to in place; none is.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor")


def _call_gathered(call: Branch, function: Branch, block: Any, *given: Any) -> Tensor:
    """`call(function, block, *given)` while the block is gathered."""
    if function is whole_block:  # it calls the block, which gathers it
        return call(function, block, *given)
    out: Tensor = block.gathered(call, function, *given)
    return out


def _run(block: nn.Module, call: Branch, function: Branch, *given: Any) -> Tensor:
    return call(function, block, *given)
