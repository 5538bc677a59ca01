"""A timm ViT plus object tokens and a mask token.

`ObjectViT` takes over the modules of a timm model; what it adds is `mask_token` (hidden patches) and, for
`read-only` object tokens, `object_token`. With an all-true object mask and timm's weights every output equals
timm's.

Letters: B views, Q object tokens, P patches, T all tokens, D width, R selected object tokens, H selected
patches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from odis import kernels
from odis.kernels import PackedTokens
from odis.method.attention import dense_mask, visible_keys
from odis.method.block import (
    Branch,
    attention_branch,
    block_at,
    drop_scale,
    drop_views,
    mlp_branch,
    splits_queries,
)
from odis.method.layout import ObjectTokens, SelectedRows, TokenLayout
from odis.types import SelectedTokens, Tokens


class Architecture(Protocol):
    """What `ObjectViT` asks of a class of timm ViTs; `backbones/adapters.py` has one adapter for each.

    `net` is the `ObjectViT`, which holds timm's parameters and modules under timm's names.
    """

    embed_dim: int  # D
    has_class_token: bool  # `[CLS]` stands first
    num_prefix_tokens: int  # `[CLS]` and registers
    no_embed_class: bool  # these have no position

    def embed_patches(
        self, net: Any, images: Tensor
    ) -> Tensor: ...  # (B, rows, columns, D), without positions
    def add_prefix(self, net: Any, patches: Tensor) -> Tensor: ...  # (B, T, D) of these, with positions
    def normalize(self, net: Any, x: Tensor) -> Tensor: ...  # the final norm
    def class_start(
        self, net: Any
    ) -> Tensor | None: ...  # (1, 1, D), `[CLS]` at the first block, if there is one
    def no_weight_decay(self) -> set[str]: ...  # names of parameters


class ObjectViT(nn.Module):
    """A timm ViT that reads objects (DESIGN, section 3; ODIS, arXiv 2506.05409).

    State-dict keys are those of the timm model without a classifier, plus `mask_token` and `object_token`
    (`read-only` only). Blocks of the common kind (`block.splits_queries`) attend with split queries; any
    other kind is given an explicit T x T mask, which is as correct but slower. `backbones.adapters.adopt`
    makes one of a timm model.

    Args:
        architecture: The adapter of the timm model's class.
        parts: The timm model's parameters and modules, under their names; they are shared, not copied.
        object_tokens: `single`: `[CLS]` stands for the object. `read-only`: object tokens beside the others.
    """

    blocks: nn.Sequential
    patch_embed: Any
    norm_pre: Any
    mask_token: nn.Parameter
    object_token: nn.Parameter

    def __init__(
        self,
        architecture: Architecture,
        parts: Iterable[tuple[str, nn.Parameter | nn.Module | None]],
        object_tokens: ObjectTokens,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.object_tokens: ObjectTokens = object_tokens
        self.embed_dim = architecture.embed_dim
        self.has_class_token = architecture.has_class_token
        self.num_prefix_tokens = architecture.num_prefix_tokens
        self.no_embed_class = architecture.no_embed_class
        for name, part in parts:
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_parameter(name, part)
        self.split_queries = all(splits_queries(block) for block in self.blocks)
        self.grad_checkpointing = False
        self.attention_branch: Branch = attention_branch
        self.mlp_branch: Branch = mlp_branch
        self.last_block: Branch = block_at
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
        trunc_normal_(self.mask_token, std=0.02)
        if object_tokens == "read-only":
            self.object_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
            self.start_object_token()

    @torch.no_grad()
    def start_object_token(self) -> None:
        """Set the read-only object token to what `[CLS]` is at the first block, so that both read the same at
        first.

        It includes the position embedding of `[CLS]`, if there is one. Without a class token it is drawn at
        random.
        """
        start = self.architecture.class_start(self)
        if start is None:
            trunc_normal_(self.object_token, std=0.02)
        else:
            self.object_token.copy_(start)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed."""
        return self.architecture.no_weight_decay() | {"mask_token", "object_token"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass, to save memory."""
        self.grad_checkpointing = enable

    def forward(
        self, images: Tensor, object_masks: Tensor | None = None, prediction_masks: Tensor | None = None
    ) -> Tokens:
        """All tokens of B views after the final norm.

        Without object masks this is timm's forward pass: the whole image, read by `[CLS]`.

        Args:
            images: (B, 3, H, W), sides multiples of the patch size; positions are interpolated to their grid.
            object_masks: bool (B, Q, P), the patches of each object; Q is 1 for `single`. An empty mask sees
                no patch.
            prediction_masks: bool (B, P), patches replaced by the mask token.

        Raises:
            ValueError: masks of another shape than the views'.
        """
        x, keys, layout, grid = self.embed(images, object_masks, prediction_masks)
        x = self.architecture.normalize(self, self.apply_blocks(self.blocks, x, keys))
        image = x[:, 0] if self.has_class_token else None
        patches = x[:, layout.patch_slice]
        if layout.queries == 0:
            return Tokens(None, image, patches, grid)
        objects = x[:, layout.object_slice]
        return Tokens(objects, None if layout.kind == "single" else image, patches, grid)

    def forward_selected(
        self,
        images: Tensor,
        object_masks: Tensor | None,
        prediction_masks: Tensor | None,
        patches: Tensor,
        objects: Tensor,
        *,
        image: bool = True,
    ) -> SelectedTokens:
        """The selected tokens of `forward`; the last block skips the rest.

        A loss reads some object tokens and the hidden patches, which are few. Read-only object tokens that
        are not selected, such as those of objects that a view does not show, are left out from the first
        block on, if they are enough to be worth it.

        Images and masks are those of `forward`.

        Args:
            patches: int64 (H,), which patches: positions in the flattened (B * P).
            objects: int64 (R,), which object tokens: positions in the flattened (B * Q), none twice. Without
                masks there are none.
            image: Select `[CLS]` beside object tokens; without object masks it is selected in any case.
        """
        x, keys, layout, _ = self.embed(images, object_masks, prediction_masks)
        if layout.queries == 0:
            objects, image = objects[:0], True
        image = image and self.has_class_token and (layout.queries == 0 or layout.kind == "read-only")
        rows = SelectedRows(
            image=layout.class_rows(len(x) if image else 0, x.device),
            objects=layout.object_rows(objects),
            patches=layout.patch_rows(patches),
        )
        if self.split_queries:
            packed = kernels.packing(len(x), layout.context, layout.own, objects)
            x = self.apply_blocks(self.blocks[:-1], x if packed is None else packed.pack(x), keys, packed)
            x = x if packed is None else packed.unpack(x)
            # Where no patch is selected, only a few positions of a view can be.
            few = None if len(patches) else layout.summary_positions(image, x.device)
            x = self._last_block(x, keys, rows.stacked(), few)
        else:
            x = self.apply_blocks(self.blocks, x, keys).flatten(0, 1)[rows.stacked()]
        of_image, of_objects, of_patches = rows.split(self.architecture.normalize(self, x))
        return SelectedTokens(of_objects if layout.queries else None, of_image if image else None, of_patches)

    def embed(
        self, images: Tensor, object_masks: Tensor | None, prediction_masks: Tensor | None
    ) -> tuple[Tensor, Tensor | None, TokenLayout, tuple[int, int]]:
        """Tokens (B, T, D) at the first block, the keys that object queries see, where tokens lie, the patch
        grid.
        """
        x = self.architecture.embed_patches(self, images)  # (B, rows, columns, D)
        views, rows, columns, _ = x.shape
        if prediction_masks is not None:
            _require_shape("prediction_masks", prediction_masks, (views, rows * columns))
            x = torch.where(prediction_masks.view(views, rows, columns, 1), self.mask_token.to(x.dtype), x)
        x = self.architecture.add_prefix(self, x)
        queries = 0 if object_masks is None else object_masks.shape[1]
        layout = TokenLayout(
            self.object_tokens, self.has_class_token, self.num_prefix_tokens, rows * columns, queries
        )
        keys = None
        if object_masks is not None:
            _require_shape("object_masks", object_masks, (views, queries, rows * columns))
            if layout.kind == "single" and (queries != 1 or not self.has_class_token):
                raise ValueError(
                    f"single object tokens: one object a view, read by [CLS]; got {queries} objects"
                )
            keys = visible_keys(object_masks, layout)
            if layout.own:
                x = torch.cat([x, self.object_token.to(x.dtype).expand(views, queries, -1)], dim=1)
        return self.norm_pre(x), keys, layout, (rows, columns)

    def apply_blocks(
        self, blocks: Iterable[nn.Module], x: Tensor, keys: Tensor | None, packed: PackedTokens | None = None
    ) -> Tensor:
        """Tokens x (B, T, D), or packed (N, D), after these blocks."""
        masks = keys
        if keys is not None and not self.split_queries:
            # Additive, since some of timm's unfused attentions add their mask as it is.
            visible = dense_mask(keys, self.object_tokens).unsqueeze(1)
            masks = torch.zeros_like(visible, dtype=x.dtype).masked_fill_(~visible, float("-inf"))
        for block in blocks:
            x = self._checkpointed(self._block, block, x, masks, packed)
        return x

    def _block(self, block: Any, x: Tensor, masks: Tensor | None, packed: PackedTokens | None) -> Tensor:
        if not self.split_queries:
            return block(x) if masks is None else block(x, attn_mask=masks)
        branch = self.attention_branch(block, x, masks, self.object_tokens, packed)
        x = x + drop_views(block.drop_path1, branch, packed)
        return x + drop_views(block.drop_path2, self.mlp_branch(block, x), packed)

    def _last_block(self, x: Tensor, keys: Tensor | None, rows: Tensor, positions: Tensor | None) -> Tensor:
        """`block_at` of these rows; with drop path and checkpointing."""
        block: Any = self.blocks[-1]
        scales = [drop_scale(drop, x, rows) for drop in (block.drop_path1, block.drop_path2)]
        return self._checkpointed(
            self.last_block, block, x, keys, self.object_tokens, rows, positions, *scales
        )

    def _checkpointed(self, function: Branch, *given: Any) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            out: Tensor = checkpoint(function, *given, use_reentrant=False)
            return out
        return function(*given)


def _require_shape(name: str, masks: Tensor, shape: tuple[int, ...]) -> None:
    if masks.shape != shape or masks.dtype != torch.bool:
        raise ValueError(f"{name}: is {masks.dtype} {tuple(masks.shape)}, must be torch.bool {shape}")
