"""Where `[OBJ]` looks: attention weights, which the method itself never builds."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Attention
from torch import Tensor

from odis.errors import ConfigError
from odis.method.attention import weights_at
from odis.method.block import attention_input
from odis.method.layout import ObjectTokens
from odis.method.vit import ObjectViT


@torch.no_grad()
def object_attention_maps(model: ObjectViT, images: Tensor, object_masks: Tensor, layer: int = -1) -> Tensor:
    """The attention of object tokens to the patches in one block.

    Args:
        model: The network.
        images: (B, 3, H, W).
        object_masks: bool (B, Q, P).
        layer: Block, counted from 0, or from the end if negative.

    Returns:
        (B, Q, heads, P); what is missing to 1 goes to the token itself, to `[CLS]` if it sees that, and to
        registers for an all-true mask.

    Raises:
        ConfigError: for a model whose attention is not timm's common one.
    """
    _require_common(model)
    x, keys, layout, _ = model.embed(images, object_masks, None)
    assert keys is not None
    number = layer % len(model.blocks)
    x = model.apply_blocks(model.blocks[:number], x, keys, layout)
    block: Any = model.blocks[number]
    weights = object_attention_weights(block.attn, attention_input(block, x), keys, layout.kind)
    return weights[..., layout.patch_slice]


@torch.no_grad()
def object_attention_layers(model: ObjectViT, images: Tensor, object_masks: Tensor) -> Tensor:
    """The attention of object tokens to the patches in every block, by one pass through the network.

    Args:
        model: The network.
        images: (B, 3, H, W).
        object_masks: bool (B, Q, P).

    Returns:
        (layers, B, Q, heads, P); each layer as `object_attention_maps` gives it.

    Raises:
        ConfigError: for a model whose attention is not timm's common one.
    """
    _require_common(model)
    x, keys, layout, _ = model.embed(images, object_masks, None)
    assert keys is not None
    maps = []
    for block in model.blocks:
        attn: Any = block
        weights = object_attention_weights(attn.attn, attention_input(block, x), keys, layout.kind)
        maps.append(weights[..., layout.patch_slice])
        x = model.apply_blocks([block], x, keys, layout)
    return torch.stack(maps)


def _require_common(model: ObjectViT) -> None:
    if not model.split_queries:
        raise ConfigError(
            "model.name: attention maps need timm's common attention, which this model does not have"
        )


def object_attention_weights(attn: Attention, x: Tensor, keys: Tensor, kind: ObjectTokens) -> Tensor:
    """The attention weights of the object queries.

    Args:
        attn: timm's module.
        x: (B, T, D) tokens.
        keys: bool (B, Q, T) from `visible_keys`.
        kind: Which token is the object's.

    Returns:
        (B, Q, h, T), rows that sum to 1.
    """
    queries = keys.shape[1]
    object_tokens = x[:, :queries] if kind == "single" else x[:, x.shape[1] - queries :]
    return weights_at(attn, x, object_tokens, keys)[0].transpose(1, 2)
