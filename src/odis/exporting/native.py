"""A timm ViT under the names of an architecture of transformers: ViT, DINOv2, DINOv2 with registers.

The names are those of the files on the hub, which every version of transformers reads. Registers and `[CLS]`
get their positions added, where timm keeps these apart, since transformers has none for registers.

The three differ in how they interpolate positions to another size. DINOv2 with registers does it as timm does
(bicubic, antialiased), so it equals odis at every size, also without a register; ViT and DINOv2 do not
antialias, so they equal odis at one size.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.layers import GluMlp, LayerNorm, LayerScale, Mlp, QuickGELU, resample_abs_pos_embed
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn

from odis.backbones.rotary import RotaryViT
from odis.exporting.native_rotary import rotary_config, rotary_fault, rotary_weights
from odis.exporting.network import Exported
from odis.exporting.prefix import beside_fault, is_beside, patch_positions, prefix_tokens

Native = Literal["vit", "dinov2", "dinov2_with_registers", "dinov3_vit"]
CLASSES: dict[Native, str] = {
    "vit": "ViTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}

_LAYER_NORMS = {nn.LayerNorm, LayerNorm}


def nearest(network: Any) -> Native:
    """The architecture that has what the network has: rotations, registers, layer scale, or none of them."""
    if isinstance(network, RotaryViT):
        return "dinov3_vit"
    if network.reg_token is not None or is_beside(network):
        return "dinov2_with_registers"
    scaled = any(isinstance(getattr(block, "ls1", None), LayerScale) for block in network.blocks)
    return "dinov2" if scaled or isinstance(network.blocks[0].mlp, GluMlp) else "vit"


def native_fault(network: Any, native: Native) -> str | None:
    """What of a network the architecture has no place for; None if it has one for everything."""
    if not network.has_class_token:
        return "it has no class token"
    if isinstance(network, RotaryViT) != (native == "dinov3_vit"):
        return "its positions are rotations" if native != "dinov3_vit" else "its positions are no rotations"
    if (fault := beside_fault(network)) is not None:
        return fault
    if native == "dinov3_vit":
        return rotary_fault(network)
    if network.pos_embed is None:
        return "it has no absolute positions"
    if not isinstance(network.norm_pre, nn.Identity):
        return "it has a norm before its blocks"
    if not isinstance(network.patch_embed.norm, nn.Identity) or network.patch_embed.proj.bias is None:
        return "it embeds patches with a norm, or without a bias"
    if len(set(network.patch_embed.grid_size)) > 1 or len(set(network.patch_embed.patch_size)) > 1:
        return "its patches or its grid of positions are no squares"
    if not isinstance(final_norm(network), nn.LayerNorm):
        return "its final norm is no layer norm"
    if network.reg_token is not None and native != "dinov2_with_registers":
        return "it has registers"
    if is_beside(network) and native != "dinov2_with_registers":
        return "it has an object token beside [CLS], which would be a register"
    for block in network.blocks:
        if (fault := _block_fault(block, native)) is not None:
            return fault
    width, hidden = network.embed_dim, _hidden(network)
    if native != "vit" and not isinstance(network.blocks[0].mlp, GluMlp) and hidden % width:
        return f"its MLP is {hidden / width:.3f} times as wide as its tokens"
    return None


def _block_fault(block: Any, native: Native) -> str | None:
    if type(block) is not Block or type(block.attn) is not Attention:
        return "its blocks are not of the common kind"
    norms = (block.attn.q_norm, block.attn.k_norm, getattr(block.attn, "norm", nn.Identity()))
    if not all(isinstance(norm, nn.Identity) for norm in norms):
        return "it normalises within attention"
    if getattr(block.attn, "gate", None) is not None or block.attn.proj.bias is None:
        return "its attention has a gate, or no bias in its projection"
    if not all(type(norm) in _LAYER_NORMS for norm in (block.norm1, block.norm2)):
        return "its blocks have other norms than layer norms"
    mlp = block.mlp
    if isinstance(mlp, GluMlp):
        plain = isinstance(mlp.act, nn.SiLU) and not mlp.gate_last and isinstance(mlp.norm, nn.Identity)
        if native == "vit" or not plain or not _gated_ratio(*_widths(mlp)):
            return "its MLP is gated"
    elif type(mlp) is not Mlp or not isinstance(mlp.norm, nn.Identity) or _activation(mlp.act) is None:
        return f"its MLP is a {type(mlp).__name__} with {type(mlp.act).__name__}"
    if native == "vit" and isinstance(block.ls1, LayerScale):
        return "it has layer scale"
    return None


def _activation(act: nn.Module) -> str | None:
    """The name in transformers."""
    if isinstance(act, nn.GELU):
        return "gelu" if act.approximate == "none" else "gelu_pytorch_tanh"
    return "quick_gelu" if isinstance(act, QuickGELU) else None


def final_norm(network: Any) -> nn.Module:
    """timm has one of the two; the other is an identity."""
    norm: nn.Module = network.fc_norm if isinstance(network.norm, nn.Identity) else network.norm
    return norm


def _hidden(network: Any) -> int:
    return int(network.blocks[0].mlp.fc2.in_features)


def native_config(exported: Exported, native: Native) -> dict[str, Any]:
    """Arguments of the configuration class. Nothing is left to a default that differs between libraries."""
    network: Any = exported.network
    if native == "dinov3_vit":
        return rotary_config(exported)
    block, width, hidden = network.blocks[0], network.embed_dim, _hidden(exported.network)
    gated = isinstance(block.mlp, GluMlp)
    config: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": len(network.blocks),
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": "silu" if gated else _activation(block.mlp.act),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": final_norm(network).eps,
        "image_size": table_side(exported, native) * exported.encoder.patch_size,
        "patch_size": exported.encoder.patch_size,
        "num_channels": exported.encoder.pixels.channels,
        "qkv_bias": block.attn.qkv.bias is not None,
    }
    if native == "vit":
        # The pooler of ViT is a layer that nobody trained: an identity hands `[CLS]` on as it is.
        return config | {"intermediate_size": hidden, "pooler_act": "linear", "pooler_output_size": width}
    config |= {"mlp_ratio": _gated_ratio(width, hidden) if gated else hidden // width}
    config |= {"use_swiglu_ffn": gated, "layerscale_value": 1.0, "drop_path_rate": 0.0}
    if native == "dinov2":
        return config | {"use_mask_token": True}
    return config | {"num_register_tokens": prefix_tokens(network).shape[1] - 1}


def _widths(mlp: Any) -> tuple[int, int]:
    return int(mlp.fc1.in_features), int(mlp.fc2.in_features)


def _gated_ratio(width: int, hidden: int) -> int:
    """The ratio of which transformers makes this width of a gated MLP, by taking two thirds; 0 if none is."""
    for ratio in range(1, 17):
        if (int(width * ratio * 2 / 3) + 7) // 8 * 8 == hidden:
            return ratio
    return 0


def table_side(exported: Exported, native: Native) -> int:
    """Patches of a side of the position table."""
    if native == "dinov2_with_registers":
        network: Any = exported.network
        return int(network.patch_embed.grid_size[0])
    return exported.size // exported.encoder.patch_size


def native_weights(exported: Exported, native: Native) -> dict[str, Tensor]:
    """The state dict under the names of files on the hub."""
    network: Any = exported.network
    if native == "dinov3_vit":
        return rotary_weights(network)
    width = network.embed_dim
    state: dict[str, Tensor] = {}
    state["embeddings.patch_embeddings.projection.weight"] = network.patch_embed.proj.weight
    state["embeddings.patch_embeddings.projection.bias"] = network.patch_embed.proj.bias
    tokens, side = prefix_tokens(network), table_side(exported, native)
    positions = resample_abs_pos_embed(
        patch_positions(network),
        new_size=[side, side],
        old_size=list(network.patch_embed.grid_size),
        num_prefix_tokens=0,
    )
    state["embeddings.cls_token"] = tokens[:, :1]
    state["embeddings.position_embeddings"] = torch.cat([torch.zeros(1, 1, width), positions], dim=1)
    if native != "vit":
        state["embeddings.mask_token"] = network.mask_token[0]
    if native == "dinov2_with_registers":
        state["embeddings.register_tokens"] = tokens[:, 1:]
    for number, block in enumerate(network.blocks):
        for name, value in _block(block, native).items():
            state[f"encoder.layer.{number}.{name}"] = value
    for name, value in final_norm(network).named_parameters():
        state[f"layernorm.{name}"] = value
    if native == "vit":
        state["pooler.dense.weight"], state["pooler.dense.bias"] = torch.eye(width), torch.zeros(width)
    return {name: value.detach().clone().contiguous() for name, value in state.items()}


def _block(block: Any, native: Native) -> dict[str, Tensor]:
    vit = native == "vit"
    state: dict[str, Tensor] = {}

    def add(name: str, module: nn.Module) -> None:
        state.update({f"{name}.{key}": value for key, value in module.named_parameters()})

    add("layernorm_before" if vit else "norm1", block.norm1)
    add("layernorm_after" if vit else "norm2", block.norm2)
    for kind in ("weight", "bias"):
        if (fused := getattr(block.attn.qkv, kind)) is not None:
            for name, part in zip(("query", "key", "value"), fused.chunk(3)):
                state[f"attention.attention.{name}.{kind}"] = part
    add("attention.output.dense", block.attn.proj)
    gated = isinstance(block.mlp, GluMlp)
    first, second = ("intermediate.dense", "output.dense") if vit else ("mlp.fc1", "mlp.fc2")
    if gated:
        first, second = "mlp.weights_in", "mlp.weights_out"
    add(first, block.mlp.fc1)
    add(second, block.mlp.fc2)
    if not vit:
        width = block.norm1.normalized_shape[0]
        for number, scale in ((1, block.ls1), (2, block.ls2)):
            gamma = scale.gamma if isinstance(scale, LayerScale) else torch.ones(width)
            state[f"layer_scale{number}.lambda1"] = gamma
    return state
