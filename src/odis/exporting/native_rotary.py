"""A timm `Eva` under the names of transformers' DINOv3: its positions are rotations, at any size the same."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Mlp
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from odis.exporting.network import Exported
from odis.exporting.prefix import prefix_tokens


def rotary_fault(network: Any) -> str | None:
    """What of a network DINOv3 has no place for; None if it has one for everything."""
    rope = network.rope
    if rope is None or type(rope).__name__ != "RotaryEmbeddingDinoV3":
        return "its rotations are not DINOv3's"
    if network.pos_embed is not None:
        return "it has absolute positions beside rotations"
    if network.patch_embed.proj.bias is None or not isinstance(network.norm_pre, nn.Identity):
        return "it embeds patches without a bias, or has a norm before its blocks"
    blocks: Any = network.blocks
    for block in blocks:
        attn: Any = block.attn
        mlp: Any = block.mlp
        if type(block) is not EvaBlock or attn.qkv is None:
            return "its blocks are not of the common kind"
        if type(mlp) is not Mlp or not isinstance(mlp.act, nn.GELU):
            return f"its MLP is a {type(mlp).__name__}"
        norms = (attn.q_norm, attn.k_norm, attn.norm, mlp.norm)
        if not all(isinstance(norm, nn.Identity) for norm in norms) or attn.gate is not None:
            return "it normalises or gates within its blocks"
        if getattr(attn, "k_bias", None) is not None and bool(attn.k_bias.any()):
            return "its keys have a bias"
    return None


def rotary_config(exported: Exported) -> dict[str, Any]:
    """Arguments of `DINOv3ViTConfig`. Nothing is left to a default that differs between libraries."""
    network: Any = exported.network
    block = network.blocks[0]
    biased = getattr(block.attn, "q_bias", None) is not None or block.attn.qkv.bias is not None
    return {
        "hidden_size": network.embed_dim,
        "intermediate_size": block.mlp.fc1.out_features,
        "num_hidden_layers": len(network.blocks),
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": "gelu",
        "attention_dropout": 0.0,
        "layer_norm_eps": block.norm1.eps,
        "rope_theta": float(network.rope.temperature),
        "image_size": exported.size,
        "patch_size": exported.encoder.patch_size,
        "num_channels": exported.encoder.pixels.channels,
        "query_bias": biased,
        "key_bias": False,
        "value_bias": biased,
        "proj_bias": block.attn.proj.bias is not None,
        "mlp_bias": True,
        "layerscale_value": 1.0,
        "drop_path_rate": 0.0,
        "use_gated_mlp": False,
        "num_register_tokens": prefix_tokens(network).shape[1] - 1,
    }


def rotary_weights(network: Any) -> dict[str, Tensor]:
    """The state dict under the names of DINOv3's files on the hub."""
    tokens = prefix_tokens(network)
    state: dict[str, Tensor] = {
        "embeddings.cls_token": tokens[:, :1],
        "embeddings.register_tokens": tokens[:, 1:],
        "embeddings.mask_token": network.mask_token,
        "embeddings.patch_embeddings.weight": network.patch_embed.proj.weight,
        "embeddings.patch_embeddings.bias": network.patch_embed.proj.bias,
    }
    norm = network.fc_norm if isinstance(network.norm, nn.Identity) else network.norm
    state |= {f"norm.{name}": value for name, value in norm.named_parameters()}
    for number, block in enumerate(network.blocks):
        found = {
            "norm1": block.norm1,
            "norm2": block.norm2,
            "attention.o_proj": block.attn.proj,
            "mlp.up_proj": block.mlp.fc1,
            "mlp.down_proj": block.mlp.fc2,
        }
        own = {f"{n}.{key}": value for n, module in found.items() for key, value in module.named_parameters()}
        for name, part in zip("qkv", block.attn.qkv.weight.chunk(3)):
            own[f"attention.{name}_proj.weight"] = part
        if getattr(block.attn, "q_bias", None) is not None:
            own |= {"attention.q_proj.bias": block.attn.q_bias, "attention.v_proj.bias": block.attn.v_bias}
        elif block.attn.qkv.bias is not None:
            query, _, value = block.attn.qkv.bias.chunk(3)
            own |= {"attention.q_proj.bias": query, "attention.v_proj.bias": value}
        for n, gamma in ((1, block.gamma_1), (2, block.gamma_2)):
            own[f"layer_scale{n}.lambda1"] = torch.ones(network.embed_dim) if gamma is None else gamma
        state |= {f"layer.{number}.{name}": value for name, value in own.items()}
    return {name: value.detach().clone().contiguous() for name, value in state.items()}
