"""timm's ViT classes as `ObjectViT`s. Their blocks have a file each: `dense_blocks`, `rotary`, `relative`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, trunc_normal_
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from odis.backbones.dense_blocks import DenseViT, splits_queries
from odis.backbones.relative import RelativeViT
from odis.backbones.rotary import RotaryViT
from odis.backbones.sample_drop import SkippingViT
from odis.method.layout import ObjectTokens
from odis.method.vit import ObjectViT

TimmViT = VisionTransformer | Eva | Beit
CLASSES: tuple[type[nn.Module], ...] = (VisionTransformer, Eva, Beit)
"""Classes of timm that `adopt` takes; not what is derived from them."""

_WITHOUT = ("head", "head_drop", "attn_pool")  # classifier and pooling


@dataclass(slots=True)
class PlainArchitecture:
    """What is in front of the blocks: positions that are added once, if there are any.

    Attributes:
        no_embed_class: `[CLS]` and registers have no position.
        pos_resize: How positions get to another grid, as in the config.
    """

    embed_dim: int
    has_class_token: bool
    num_prefix_tokens: int
    no_embed_class: bool
    pos_resize: Literal["timm", "dino"]

    @classmethod
    def of(cls, vit: TimmViT, pos_resize: Literal["timm", "dino"]) -> PlainArchitecture:
        """That of a model.

        Raises:
            ValueError: a model that takes images of one size only.
        """
        timm_vit: Any = vit
        if not getattr(vit, "dynamic_img_size", type(vit) is Beit):
            raise ValueError("the timm model takes one image size; create it with dynamic_img_size=True")
        return cls(
            timm_vit.embed_dim,
            timm_vit.cls_token is not None,
            timm_vit.num_prefix_tokens,
            bool(getattr(vit, "no_embed_class", False)),
            pos_resize,
        )

    def embed_patches(self, net: Any, images: Tensor) -> Tensor:
        """(B, rows, columns, D) of images (B, C, H, W), without positions."""
        embed = net.patch_embed
        if embed.flatten:  # of a model that is made for one size: BEiT
            sides = embed.patch_size
            if images.shape[-2] % sides[0] or images.shape[-1] % sides[1]:
                size = " x ".join(map(str, images.shape[-2:]))
                raise ValueError(f"images: are {size} pixels, must be multiples of {sides[0]} x {sides[1]}")
            one_size: Tensor = embed.norm(embed.proj(images).permute(0, 2, 3, 1))
            return one_size
        patches: Tensor = embed(images)
        return patches

    def add_prefix(self, net: Any, patches: Tensor) -> Tensor:
        """(B, T, D) of (B, rows, columns, D): positions are interpolated to the grid."""
        views, rows, columns, width = patches.shape
        x = patches.reshape(views, rows * columns, width)
        prefix = [
            token.expand(views, -1, -1) for token in (net.cls_token, net.reg_token) if token is not None
        ]
        if net.pos_embed is None:
            return torch.cat([*prefix, x], dim=1)
        resize = resample_abs_pos_embed if self.pos_resize == "timm" else dino_positions
        positions = resize(
            net.pos_embed,
            new_size=[rows, columns],
            old_size=list(net.patch_embed.grid_size),
            num_prefix_tokens=0 if self.no_embed_class else self.num_prefix_tokens,
        )
        if self.no_embed_class:
            x = torch.cat([*prefix, x + positions], dim=1)
        else:
            x = torch.cat([*prefix, x], dim=1) + positions
        dropped: Tensor = net.pos_drop(x)
        return dropped

    def normalize(self, net: Any, x: Tensor) -> Tensor:
        """The final norm: timm has one of the two, the other is an identity."""
        normed: Tensor = net.fc_norm(net.norm(x))
        return normed


def dino_positions(table: Tensor, new_size: list[int], old_size: list[int], num_prefix_tokens: int) -> Tensor:
    """Positions on another grid as DINO, iBOT and DINOv2 resize them (`interpolate_pos_encoding`).

    Bicubic without antialias, on a grid that is 0.1 larger than the new one, of which the last 0.1 is cut:
    new position i lies at (i + 0.5) * old / (new + 0.1) - 0.5 of the old ones.

    Args:
        table: (1, prefix + old patches, D).
        new_size: Rows and columns of the new grid.
        old_size: Those of the table's.
        num_prefix_tokens: Positions before the patches, which stay as they are.

    Returns:
        (1, prefix + new patches, D).
    """
    if new_size == old_size:
        return table
    grid = table[:, num_prefix_tokens:].reshape(1, *old_size, -1).permute(0, 3, 1, 2)
    scale = tuple((new + 0.1) / old for new, old in zip(new_size, old_size))
    resized = F.interpolate(grid, scale_factor=scale, mode="bicubic").permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([table[:, :num_prefix_tokens], resized], dim=1)


def adopt(
    vit: TimmViT,
    object_tokens: ObjectTokens,
    object_sees_cls: bool | None = None,
    *,
    skips_views: bool = False,
    pos_resize: Literal["timm", "dino"] = "timm",
) -> ObjectViT:
    """A timm model as an `ObjectViT`, which shares its parameters and modules; the model stays what it was.

    A `read-only` token starts as `[CLS]`. Token and position of `beside` are drawn as `[CLS]` and positions
    are (iBOT); see `start_object_token` for weights that are trained.

    Args:
        vit: A `VisionTransformer` or `Eva` made with `dynamic_img_size=True`, or a `Beit`.
        object_tokens: `single`, `read-only` or `beside`.
        object_sees_cls: Object tokens of their own see `[CLS]`; None: if they are `beside`.
        skips_views: It is to drop paths by `sample_drop.skip_views`.
        pos_resize: How positions get to another grid, as in the config.
    """
    kind = _network(vit, skips_views)
    sees_cls = object_tokens == "beside" if object_sees_cls is None else object_sees_cls
    model = kind(PlainArchitecture.of(vit, pos_resize), _parts(vit, object_tokens), object_tokens, sees_cls)
    if object_tokens == "read-only":
        start_object_token(model)
    return model.train(vit.training)


def _network(vit: TimmViT, skipping: bool) -> type[ObjectViT]:
    if isinstance(vit, Eva):
        return RotaryViT
    if isinstance(vit, Beit):
        return RelativeViT
    if not all(splits_queries(block) for block in vit.blocks):
        return DenseViT
    return SkippingViT if skipping else ObjectViT


def _parts(
    vit: TimmViT, object_tokens: ObjectTokens
) -> Iterator[tuple[str, nn.Parameter | nn.Module | None]]:
    """Parameters and modules in timm's order, without classifier and pooling, and tokens of our own; None for
    a parameter that timm's model has not.
    """
    found = dict(vit.named_parameters(recurse=False))
    yield from found.items()
    yield from ((name, None) for name in ("cls_token", "reg_token", "pos_embed") if name not in found)
    modules = {name: module for name, module in vit.named_children() if name not in _WITHOUT}
    yield from modules.items()
    yield from ((name, nn.Identity()) for name in ("norm_pre", "fc_norm") if name not in modules)
    yield from ((name, None) for name in ("rope", "rel_pos_bias") if name not in modules)
    yield "head", nn.Identity()  # timm's conversion of weights asks for it
    yield "mask_token", nn.Parameter(torch.zeros(1, 1, vit.embed_dim))  # as in iBOT and DINOv2
    if object_tokens == "read-only":
        yield "object_token", nn.Parameter(torch.zeros(1, 1, vit.embed_dim))
    if object_tokens == "beside":
        yield "object_token", _token(vit)
        yield "object_pos", _token(vit)


def _token(vit: TimmViT) -> nn.Parameter:
    """(1, 1, D), from a truncated normal of deviation .02."""
    token = nn.Parameter(torch.zeros(1, 1, vit.embed_dim))
    trunc_normal_(token, std=0.02)
    return token


@torch.no_grad()
def start_object_token(model: ObjectViT) -> None:
    """Set the object token to `[CLS]` at the first block, the one query that the blocks know how to answer.

    A `read-only` token then reads an all-true mask as `[CLS]` does; it holds the position of `[CLS]`, if that
    has one. `beside` has a position of its own for it. Without `[CLS]` the token is drawn at random. `single`
    has no such token.
    """
    if model.object_tokens == "single":
        return
    net: Any = model
    if net.cls_token is None:
        trunc_normal_(model.object_token, std=0.02)
        return
    has_position = net.pos_embed is not None and not model.no_embed_class
    position = net.pos_embed[:, :1] if has_position else torch.zeros_like(net.cls_token)
    if model.object_tokens == "beside":
        model.object_token.copy_(net.cls_token)
        model.object_pos.copy_(position)
    else:
        model.object_token.copy_(net.cls_token + position)
