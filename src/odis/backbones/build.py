"""The backbone that a config names: a timm model, made an `ObjectViT`, with its weights."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from odis.backbones.adapters import CLASSES, adopt, start_object_token
from odis.backbones.channels import refused_random_channels
from odis.backbones.names import PLAIN, name_fault, timm_module
from odis.backbones.sample_drop import skip_views
from odis.backbones.weights import load_timm_weights, one_line
from odis.config.training import ModelConfig, PretrainConfig
from odis.config.wording import there_are
from odis.errors import ConfigError
from odis.method.block import Branch
from odis.method.heads import ProjectionHead
from odis.method.pair import Network, teacher_of
from odis.method.vit import ObjectViT


def build_vit(
    config: ModelConfig, image_size: int, drop_path: float | None = None, channels: int = 3
) -> ObjectViT:
    """The backbone a config names, with its weights if it names some.

    Args:
        config: Name, weights, kind of object tokens and overrides.
        image_size: Side in pixels whose patch grid the position embedding is made for; other sizes
            interpolate.
        drop_path: Stochastic depth in place of the config's.
        channels: Of an image. Weights of three are adapted as timm does: repeated and scaled, or for one
            summed, so that a grey image gives what it gave.

    Raises:
        ConfigError: an unknown name, another architecture, a size or an override that does not fit, unusable
            weights.
    """
    rate = config.drop_path if drop_path is None else drop_path
    skips = config.drop_path_kind == "dinov2" and rate > 0
    vit = _create(config, image_size, 0.0 if skips else rate, channels)
    patch = vit.patch_embed.patch_size
    if image_size % patch[0] or image_size % patch[1]:
        raise ConfigError(
            f"model.patch_size: is {patch[0]} ({config.name}), must divide the image size {image_size}"
        )
    token_readout = config.object_readout == "token"
    if token_readout and config.object_tokens == "single" and vit.cls_token is None:
        raise ConfigError(
            f"model.name: {config.name} has no class token to stand for the object; set "
            f"model.object_tokens read-only"
        )
    if config.object_sees_cls and vit.cls_token is None:
        raise ConfigError(f"model.object_sees_cls: is true, but {config.name} has no class token")
    if config.pos_resize == "dino" and getattr(vit, "pos_embed", None) is None:
        raise ConfigError(
            f"model.pos_resize: is dino, but {config.name} has no table of positions; set it to timm"
        )
    tokens = config.object_tokens if token_readout else "single"
    model = adopt(vit, tokens, config.object_sees_cls, skips_views=skips, pos_resize=config.pos_resize)
    if skips:
        skip_views(model, rate)
    if config.weights == "timm":
        start_object_token(model)
    elif config.weights is not None:
        load_timm_weights(model, config.weights)
    if config.grad_checkpointing:
        model.call = recomputed
    return model


def recomputed(function: Branch, *given: Any) -> Tensor:
    """`function(*given)`, computed again in the backward pass to save memory."""
    if not torch.is_grad_enabled():
        return function(*given)
    out: Tensor = checkpoint(function, *given, use_reentrant=False)
    return out


def build_pair(config: PretrainConfig) -> tuple[Network, Network]:
    """Student and teacher of a run, before its first step.

    Raises:
        ConfigError: a model that cannot be built, or view sizes that its patches do not tile.
    """
    backbone = build_vit(config.model, config.views.global_size, channels=config.views.channels)
    patch = backbone.patch_embed.patch_size[0]
    if config.views.local_views and config.views.local_size % patch:
        raise ConfigError(
            f"views.local_size: is {config.views.local_size}, must be a multiple of the patch size {patch}"
        )
    head = ProjectionHead(backbone.embed_dim, config.head)
    own_patch_head = not config.head.shared and config.loss.patch_weight > 0
    patch_head = ProjectionHead(backbone.embed_dim, config.head) if own_patch_head else None
    student = Network(backbone, head, patch_head, config.model.object_readout)
    _freeze_unreached(student, config)
    freeze_blocks(backbone, config.model.freeze_blocks)
    return student, teacher_of(student)


def freeze_blocks(backbone: ObjectViT, count: int) -> None:
    """Freeze the first blocks and all that is before them: embeddings, positions, `[CLS]`, registers. Tokens
    of our own stay trainable.

    Raises:
        ConfigError: the backbone has fewer blocks.
    """
    if count > len(backbone.blocks):
        raise ConfigError(f"model.freeze_blocks: is {count}, but {there_are(len(backbone.blocks), 'block')}")
    if count == 0:
        return
    net: Any = backbone
    before = [net.patch_embed, net.norm_pre, net.rope, net.rel_pos_bias, *backbone.blocks[:count]]
    parameters = [p for module in before if module is not None for p in module.parameters()]
    for parameter in [*parameters, net.cls_token, net.reg_token, net.pos_embed]:
        if parameter is not None:
            parameter.requires_grad_(False)


def _freeze_unreached(student: Network, config: PretrainConfig) -> None:
    """Freeze parameters that the losses can never reach, so that all others always get a gradient."""
    loss, backbone = config.loss, student.backbone
    if config.prediction.probability == 0 or config.prediction.ratio == 0:
        backbone.mask_token.requires_grad_(False)
    if loss.object_weight == 0 and backbone.object_tokens == "read-only":
        backbone.object_token.requires_grad_(False)
    if loss.object_weight == 0 and loss.image_weight == 0 and student.patch_head is not student.head:
        student.head.requires_grad_(False)


def _create(config: ModelConfig, image_size: int, drop_path: float, channels: int) -> Any:
    name = config.name
    if (fault := name_fault(name, vision_transformer=True)) is not None:
        raise ConfigError(f"model.name: {fault}")
    overrides: dict[str, Any] = {
        k: v
        for k in ("patch_size", "embed_dim", "depth", "num_heads")
        if (v := getattr(config, k)) is not None
    }
    if timm_module(name) != "beit":
        overrides["dynamic_img_size"] = True
    pretrained = config.weights == "timm"
    try:
        with refused_random_channels():
            vit = timm.create_model(
                name,
                pretrained=pretrained,
                img_size=image_size,
                num_classes=0,
                in_chans=channels,
                drop_path_rate=drop_path,
                **overrides,
            )
    except Exception as error:  # timm and its hub client raise whatever they like
        what = "model.weights: timm's weights for" if pretrained else "model.name:"
        raise ConfigError(f"{what} {name} with {overrides or 'its own sizes'}: {one_line(error)}") from error
    if type(vit) not in CLASSES:
        raise ConfigError(f"model.name: {name} is a timm {type(vit).__name__}; {PLAIN}")
    if type(vit.patch_embed) is not PatchEmbed:
        raise ConfigError(
            f"model.name: {name} embeds patches with {type(vit.patch_embed).__name__}; only ViTs on plain "
            f"patches are supported"
        )
    return vit
