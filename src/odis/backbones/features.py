"""Patch features of the last attention layer: keys, queries, values, or the patches that come out.

Unsupervised discovery reads the keys of the last block (LOST, section 3.1; TokenCut, section 3.2), which say
what a patch is rather than what it asks for. They are projected here from what goes into the attention, so
that fused projections, separate ones and those that timm evaluates without calling them (Eva, BEiT) all
answer. Norms of queries and keys are applied as the attention applies them; rotary embeddings are not, since
they turn a key by where its patch is.

Letters: B images of one size, P patches, T all tokens, D width (that of all heads).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.eva import EvaBlockPostNorm
from torch import Tensor, nn

from odis.backbones.baseline import TimmBaseline, token_norm
from odis.backbones.relative import RelativeViT
from odis.backbones.rotary import RotaryViT
from odis.config.wording import counted
from odis.errors import ConfigError
from odis.method.vit import ObjectViT
from odis.types import Tokens

Facet = Literal["key", "query", "value", "token"]
FACETS: tuple[Facet, ...] = get_args(Facet)


@torch.no_grad()
def patch_features(
    model: ObjectViT | TimmBaseline, images: Tensor, facet: Facet
) -> tuple[Tensor, tuple[int, int]]:
    """One facet of the patches of B images (B, 3, H, W): (B, P, D), and rows and columns of the patch grid.

    The model is asked in eval mode and left in the mode it was in; no weight and no random state changes.
    Compiled blocks are run eagerly, where what goes into their attention can be seen.

    Raises:
        ConfigError: for `key`, `query` or `value` of a model whose last block has no attention over patches
            (see `has_attention`), and for `token` of one without a map of features.
    """
    if facet != "token" and not has_attention(model):
        raise ConfigError(
            f"discover.facet: is {facet}, but {_name(model)} has no attention over patches in its last "
            f"block; use token"
        )
    training = model.training
    model.eval()
    try:
        if facet != "token":
            return _from_attention(model, images, facet)
        if isinstance(model, TimmBaseline) and has_attention(
            model
        ):  # a row of tokens, of a grid that need not be square
            features = model.model.forward_features(images)
            if features.ndim == 3:
                return _patches(model, features, images)
        tokens = as_one_object(model, images)
    finally:
        model.train(training)
    if tokens.patches.shape[1] == 0:
        raise ConfigError(f"discover.facet: is token, but {_name(model)} has no map of features")
    return tokens.patches, tokens.grid


def whole_masks(model: ObjectViT, images: Tensor) -> Tensor | None:
    """The masks with which a network is asked about whole images (B, 3, H, W): bool (B, 1, P), all true, for
    `beside` object tokens, which were among the keys of all others in training; None for the other kinds.
    """
    if model.object_tokens != "beside":
        return None
    patches = images[0, 0].numel() // (model.patch_embed.patch_size[0] * model.patch_embed.patch_size[1])
    return torch.ones(len(images), 1, patches, dtype=torch.bool, device=images.device)


def as_one_object(model: ObjectViT | TimmBaseline, images: Tensor) -> Tokens:
    """Tokens of whole images (B, 3, H, W), as the network was trained to see them."""
    tokens: Tokens = (
        model(images, whole_masks(model, images)) if isinstance(model, ObjectViT) else model(images)
    )
    return tokens


@torch.no_grad()
def last_blocks(model: ObjectViT | TimmBaseline, images: Tensor, blocks: int) -> list[tuple[Tensor, Tensor]]:
    """`[CLS]` (B, D) and patches (B, P, D) as each of the last `blocks` blocks leaves them, each through the
    final norm; the last block comes last.

    Args:
        model: The backbone, in eval mode.
        images: (B, 3, H, W).
        blocks: How many.

    Raises:
        ConfigError: for a model without `[CLS]`, or that has not so many blocks.
    """
    if isinstance(model, ObjectViT):
        if not model.has_class_token:
            raise ConfigError(f"{_name(model)} has no [CLS]")
        if blocks > len(model.blocks):
            raise ConfigError(f"{_name(model)} has {counted(len(model.blocks), 'block')}, not {blocks}")
        x, keys, layout, _ = model.embed(images, whole_masks(model, images), None)
        found = []
        for number, block in enumerate(model.blocks):
            x = model.apply_blocks([block], x, keys, layout)
            if number >= len(model.blocks) - blocks:
                normed = model.architecture.normalize(model, x)
                found.append((normed[:, 0], normed[:, layout.patch_slice]))
        return found
    if blocks == 1:
        tokens = model(images)
        return [(tokens.image, tokens.patches)]
    timm_model: Any = model.model
    prefix_tokens: int = getattr(timm_model, "num_prefix_tokens", 0)
    if not prefix_tokens or not hasattr(timm_model, "forward_intermediates"):
        raise ConfigError(f"{_name(model)} has no [CLS] in its blocks; only its last features can be read")
    if blocks > len(timm_model.blocks):
        raise ConfigError(f"{_name(model)} has {counted(len(timm_model.blocks), 'block')}, not {blocks}")
    made = timm_model.forward_intermediates(
        images,
        indices=blocks,
        norm=True,
        return_prefix_tokens=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    norm = token_norm(timm_model)
    return [(norm(prefix[:, 0]), norm(patches)) for patches, prefix in made]


def has_attention(model: ObjectViT | TimmBaseline) -> bool:
    """Whether a model embeds plain patches and its last block attends over them with projections that can be
    read.
    """
    attention = last_attention(model)
    projections = [getattr(attention, name, None) for name in ("qkv", "k_proj")]
    plain = isinstance(getattr(_timm(model), "patch_embed", None), PatchEmbed)
    return plain and any(isinstance(p, nn.Linear) for p in projections)


def last_attention(model: ObjectViT | TimmBaseline) -> Any:
    """The attention module of the last block, or None where there is no row of blocks that have one."""
    blocks = getattr(_timm(model), "blocks", None)
    return (
        getattr(blocks[-1], "attn", None)
        if isinstance(blocks, nn.ModuleList | nn.Sequential) and len(blocks)
        else None
    )


def keeps_aspect(model: ObjectViT | TimmBaseline) -> bool:
    """Whether a model takes images of any shape in whole patches: `ObjectViT` does, and timm's with a dynamic
    image size.
    """
    return isinstance(model, ObjectViT) or (
        has_attention(model) and not model.model.patch_embed.strict_img_size
    )


def project(attention: Any, x: Tensor, facet: Facet) -> Tensor:
    """Queries, keys or values (B, T, D) that an attention module of timm makes of its input (B, T, C), heads
    side by side.
    """
    place = ("query", "key", "value").index(facet)
    if isinstance(getattr(attention, "qkv", None), nn.Linear):
        # Eva and BEiT keep the biases beside the projection.
        bias = attention.qkv.bias
        if getattr(attention, "q_bias", None) is not None:
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        part = F.linear(x, attention.qkv.weight, bias).chunk(3, dim=-1)[place]
    else:
        part = (attention.q_proj, attention.k_proj, attention.v_proj)[place](x)
    norm: Callable[[Tensor], Tensor] | None = (
        getattr(attention, ("q_norm", "k_norm", "")[place], None) if place < 2 else None
    )
    if norm is None or isinstance(norm, nn.Identity):
        return part
    width = attention.head_dim if hasattr(attention, "head_dim") else part.shape[-1] // attention.num_heads
    return norm(part.unflatten(-1, (-1, width)).transpose(1, 2)).transpose(1, 2).flatten(2)


def _from_attention(
    model: ObjectViT | TimmBaseline, images: Tensor, facet: Facet
) -> tuple[Tensor, tuple[int, int]]:
    attention = last_attention(model)
    if isinstance(model, RotaryViT | RelativeViT):
        x, keys, layout, _ = model.embed(images, whole_masks(model, images), None)
        *before, last = model.blocks
        x = model.apply_blocks(before, x, keys, layout)
        x = (x if isinstance(last, EvaBlockPostNorm) else last.norm1(x))[:, : layout.context]  # type: ignore[operator]
        return _patches(model, project(attention, x, facet), images)
    inputs: list[Tensor] = []
    # Where queries are split, the parts of the module are called, not the module.
    first = attention.qkv if isinstance(model, ObjectViT) and model.split_queries else attention
    handle = first.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        with torch.compiler.set_stance("force_eager"):
            if isinstance(model, TimmBaseline):
                _timm(model).forward_features(images)
            else:
                as_one_object(model, images)
    finally:
        handle.remove()
    x = inputs[-1]
    if isinstance(model, ObjectViT) and model.object_tokens == "beside":
        x = x[:, :-1]  # `[OBJ]` stands last
    return _patches(model, project(attention, x, facet), images)


def _patches(
    model: ObjectViT | TimmBaseline, tokens: Tensor, images: Tensor
) -> tuple[Tensor, tuple[int, int]]:
    """The patches among tokens (B, T, D), or (B, rows, columns, D), and their grid."""
    if tokens.ndim == 4:
        return tokens.flatten(1, 2), (tokens.shape[1], tokens.shape[2])
    height, width = images.shape[-2:]
    side = _timm(model).patch_embed.patch_size
    rows, columns = height // side[0], width // side[1]
    first = tokens.shape[1] - rows * columns
    # Some have their class token join after these blocks.
    if len(tokens) != len(images) or first not in (0, getattr(_timm(model), "num_prefix_tokens", 0)):
        shape = " x ".join(map(str, tokens.shape[:2]))
        raise ConfigError(
            f"discover.facet: {_name(model)} attends over {shape} tokens, not over {rows} x {columns} "
            f"patches; use token"
        )
    return tokens[:, first:], (rows, columns)


def _timm(model: ObjectViT | TimmBaseline) -> Any:
    return model.model if isinstance(model, TimmBaseline) else model


def _name(model: ObjectViT | TimmBaseline) -> str:
    return type(_timm(model)).__name__
