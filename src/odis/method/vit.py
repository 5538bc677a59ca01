"""A timm ViT plus object tokens and a mask token.

`ObjectViT` takes over the modules of a timm model. It also has `mask_token` (hidden patches), `object_token`
(`read-only`, `beside`) and `object_pos` (`beside`). Without object masks every output equals timm's; also
with an all-true mask, unless the other tokens see `[OBJ]` or it sees `[CLS]`.

Letters: B views, Q object tokens, P patches, T all tokens, D width, R selected object tokens, H selected
patches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from odis import kernels
from odis.kernels import PackedTokens
from odis.method.attention import visible_keys
from odis.method.block import Branch, attention_branch, block_at, drop_scale, mlp_branch
from odis.method.layout import ObjectTokens, SelectedRows, TokenLayout
from odis.types import SelectedTokens, Tokens


class Architecture(Protocol):
    """What `ObjectViT`, here `net`, asks of a class of timm ViTs: see `backbones/adapters.py`."""

    embed_dim: int  # D
    has_class_token: bool  # `[CLS]` stands first
    num_prefix_tokens: int  # `[CLS]` and registers
    no_embed_class: bool  # these have no position

    # (B, rows, columns, D) without positions; (B, T, D) of these, with positions; the final norm
    def embed_patches(self, net: Any, images: Tensor) -> Tensor: ...
    def add_prefix(self, net: Any, patches: Tensor) -> Tensor: ...
    def normalize(self, net: Any, x: Tensor) -> Tensor: ...


class ObjectViT(nn.Module):
    """A timm ViT that reads objects (DESIGN, section 3; ODIS, arXiv 2506.05409).

    State-dict keys are those of the timm model without a classifier, plus these tokens. Its blocks are of
    timm's common kind. `backbones.adapters.adopt` makes one of a timm model.

    Args:
        architecture: The adapter of the timm model's class.
        parts: Parameters and modules under their names: the timm model's, which are shared, and the tokens.
        object_tokens: Which token is the object's: see `layout.py`.
        object_sees_cls: Object tokens of their own see `[CLS]`.
    """

    blocks: nn.Sequential
    patch_embed: Any
    norm_pre: Any
    mask_token: nn.Parameter
    object_token: nn.Parameter
    object_pos: nn.Parameter
    split_queries = True  # object queries attend apart from the others

    def __init__(
        self,
        architecture: Architecture,
        parts: Iterable[tuple[str, nn.Parameter | nn.Module | None]],
        object_tokens: ObjectTokens,
        object_sees_cls: bool,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.object_tokens: ObjectTokens = object_tokens
        self.object_sees_cls = object_sees_cls
        self.embed_dim = architecture.embed_dim
        self.has_class_token = architecture.has_class_token
        self.num_prefix_tokens = architecture.num_prefix_tokens
        self.no_embed_class = architecture.no_embed_class
        for name, part in parts:
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_parameter(name, part)
        self.attention_branch: Branch = attention_branch
        self.mlp_branch: Branch = mlp_branch
        self.last_block: Branch = block_at
        self.call: Branch = _call  # takes a block and what it is given

    def forward(
        self, images: Tensor, object_masks: Tensor | None = None, prediction_masks: Tensor | None = None
    ) -> Tokens:
        """All tokens of B views after the final norm.

        Without object masks this is timm's forward pass: the whole image, read by `[CLS]`.

        Args:
            images: (B, 3, H, W), sides multiples of the patch size; positions are interpolated to their grid.
            object_masks: bool (B, Q, P), the patches of each object; Q is 1 unless they are `read-only`. An
                empty mask sees no patch.
            prediction_masks: bool (B, P), patches replaced by the mask token.

        Raises:
            ValueError: masks of another shape than the views'.
        """
        x, keys, layout, grid = self.embed(images, object_masks, prediction_masks)
        x = self.architecture.normalize(self, self.apply_blocks(self.blocks, x, keys, layout))
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
        image = image and self.has_class_token and (layout.queries == 0 or layout.kind != "single")
        rows = SelectedRows(
            image=layout.class_rows(len(x) if image else 0, x.device),
            objects=layout.object_rows(objects),
            patches=layout.patch_rows(patches),
        )
        x = self.tokens_at(x, keys, layout, rows, objects)
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
            self.object_tokens, self.has_class_token, self.num_prefix_tokens, rows * columns, queries,
            self.object_sees_cls, (rows, columns),
        )  # fmt: skip
        keys = None
        if object_masks is not None:
            _require_shape("object_masks", object_masks, (views, queries, rows * columns))
            if layout.kind != "read-only" and queries != 1:
                raise ValueError(f"{layout.kind} object tokens: one object a view; got {queries}")
            if layout.kind == "single" and not self.has_class_token:
                raise ValueError("single object tokens: [CLS] is the object's, and there is none")
            keys = visible_keys(object_masks, layout)
            if layout.own:
                token: Tensor = self.object_token
                token = token + self.object_pos if layout.kind == "beside" else token
                x = torch.cat([x, token.to(x.dtype).expand(views, queries, -1)], dim=1)
        return self.norm_pre(x), keys, layout, (rows, columns)

    def apply_blocks(
        self,
        blocks: Iterable[nn.Module],
        x: Tensor,
        keys: Tensor | None,
        layout: TokenLayout,
        packed: PackedTokens | None = None,
    ) -> Tensor:
        """Tokens x (B, T, D), or packed (N, D), after these blocks; keys and layout as of `embed`."""
        for block in blocks:
            x = self.call(self._block, block, x, keys, layout.kind, packed)
        return x

    def tokens_at(
        self, x: Tensor, keys: Tensor | None, layout: TokenLayout, rows: SelectedRows, objects: Tensor
    ) -> Tensor:
        """These rows (N, D) of the tokens x (B, T, D) after all blocks; objects as in `forward_selected`."""
        packed = kernels.packing(len(x), layout.context, layout.unseen, objects)
        x = self.apply_blocks(self.blocks[:-1], packed.pack(x) if packed else x, keys, layout, packed)
        x = x if packed is None else packed.unpack(x)
        block: Any = self.blocks[-1]
        scales = [drop_scale(drop, x, len(x)) for drop in (block.drop_path1, block.drop_path2)]
        at = rows.stacked()
        at_rows = [None if scale is None else scale[at // layout.tokens] for scale in scales]
        # Where no patch is selected, only a few positions of a view can be.
        few = None if len(rows.patches) else layout.summary_positions(len(rows.image) > 0, x.device)
        return self.call(self.last_block, block, x, keys, layout.kind, at, few, *at_rows)

    def _block(
        self, block: Any, x: Tensor, keys: Tensor | None, kind: ObjectTokens, packed: PackedTokens | None
    ) -> Tensor:
        branch = self.attention_branch(block, x, keys, kind, packed)
        x = _add(x, branch, block.drop_path1, packed)
        return _add(x, self.mlp_branch(block, x), block.drop_path2, packed)


def _add(x: Tensor, branch: Tensor, drop_path: nn.Module, packed: PackedTokens | None) -> Tensor:
    """A residual sum; drop path draws by views."""
    scale = drop_scale(drop_path, branch, x.shape[0] if packed is None else packed.views)
    if scale is None:
        return x + branch
    return x + branch * (scale[:, None] if packed is None else packed.of_views(scale))


def _call(function: Branch, *given: Any) -> Tensor:
    return function(*given)


def _require_shape(name: str, masks: Tensor, shape: tuple[int, ...]) -> None:
    if masks.shape != shape or masks.dtype != torch.bool:
        raise ValueError(f"{name}: is {masks.dtype} {tuple(masks.shape)}, must be torch.bool {shape}")
