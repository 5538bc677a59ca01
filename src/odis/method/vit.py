"""A timm ViT plus object tokens and a mask token.

`ObjectViT` adopts the modules of a timm `VisionTransformer`; what it adds is `mask_token` (hidden patches)
and, for `read-only` object tokens, `object_token`. With an all-true object mask and timm's weights every
output equals timm's.

Letters: B views, Q object tokens, P patches, T all tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp, trunc_normal_
from timm.models.vision_transformer import Attention, Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from odis.errors import ConfigError
from odis.kernels.linear import cast, is_plain, is_watched, linear, of_input, of_weight, product
from odis.method.attention import (
    ObjectTokens,
    PackedTokens,
    attend,
    attention_at,
    dense_mask,
    object_attention,
    object_attention_weights,
    object_keys,
    project,
)
from odis.types import SelectedTokens, Tokens

_WORTH_PACKING = 32  # one token in so many has to be spared


class ObjectViT(VisionTransformer):
    """A timm `VisionTransformer` that reads objects (DESIGN, section 3; ODIS, arXiv 2506.05409).

    State-dict keys are those of the timm model without a classifier, plus `mask_token` and `object_token`
    (`read-only` only). Blocks of the common kind (`Block`, `ResPostBlock` with `Attention`) attend with split
    queries; any other kind is given an explicit T x T mask, which is as correct but slower.

    Args:
        vit: The timm model whose modules and parameters are adopted (shared, not copied).
        object_tokens: `single`: `[CLS]` stands for the object. `read-only`: object tokens beside the others.
    """

    def __init__(self, vit: VisionTransformer, object_tokens: ObjectTokens) -> None:
        self.__dict__.update(vit.__dict__)
        for registry in (
            "_parameters",
            "_buffers",
            "_modules",
        ):  # own registries, so that `vit` keeps its classifier
            self.__dict__[registry] = dict(vit.__dict__[registry])
        self.head = nn.Identity()
        self._modules["attn_pool"] = None
        self.object_tokens = object_tokens
        self.split_queries = all(
            type(b) in (Block, ResPostBlock) and type(b.attn) is Attention for b in self.blocks
        )
        self.attention_branch: Callable[..., Tensor] = _attention_branch
        self.mlp_branch: Callable[..., Tensor] = _mlp_branch
        self.last_block: Callable[..., Tensor] = _last_block
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
        trunc_normal_(self.mask_token, std=0.02)
        if object_tokens == "read-only":
            self.object_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
            self.start_object_token()

    @torch.no_grad()
    def start_object_token(self) -> None:
        """Set the read-only object token to what `[CLS]` is at the first block, so that both read the same at
        the start.

        It includes the position embedding of `[CLS]`, if there is one. Without a class token it is drawn at
        random.
        """
        if self.cls_token is None:
            trunc_normal_(self.object_token, std=0.02)
            return
        self.object_token.copy_(self.cls_token)
        if self.pos_embed is not None and not self.no_embed_class:
            self.object_token.add_(self.pos_embed[:, :1])

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed."""
        return super().no_weight_decay() | {"mask_token", "object_token"}

    def compile_blocks(self) -> None:
        """Compile the two branches of the blocks, once for all blocks (drop path stays outside: its rate
        differs in each).

        And what `read` has of the last block: how many patches are read differs from step to step, so its
        sizes are left open.
        """
        self.attention_branch = torch.compile(_attention_branch)
        self.mlp_branch = torch.compile(_mlp_branch)
        self.last_block = torch.compile(_last_block, dynamic=True)

    def forward(  # type: ignore[override]  # takes masks, gives Tokens
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
        x, keys, grid = self._embed(images, object_masks, prediction_masks)
        x = self._blocks(self.blocks, x, keys)
        x = self.fc_norm(self.norm(x))  # timm has one of the two, the other is an identity
        return self._tokens(x, 0 if keys is None else keys.shape[1], grid)

    def read(
        self,
        images: Tensor,
        object_masks: Tensor | None,
        prediction_masks: Tensor | None,
        patches: Tensor,
        objects: Tensor,
        *,
        image: bool = True,
    ) -> SelectedTokens:
        """Some of the tokens of `forward`, without most of what only others need.

        A loss reads some object tokens and the hidden patches, which are few. For all others the last block
        still makes keys and values, but no MLP, no projection and, where no patch is read at all, no query.
        Read-only object tokens that are not read, such as those of objects that a view does not show, are
        left out from the first block on, if they are enough to be worth it.

        Args:
            images: As in `forward`.
            object_masks: As in `forward`.
            prediction_masks: As in `forward`.
            patches: int64 (H,), which are read: positions in the flattened (B * P).
            objects: int64 (R,), which object tokens are read: positions in the flattened (B * Q), none twice.
                Without masks there are none.
            image: Read `[CLS]` beside object tokens; without object masks it is read in any case.
        """
        x, keys, (height, width) = self._embed(images, object_masks, prediction_masks)
        views, tokens, _ = x.shape
        queries, single = 0 if keys is None else keys.shape[1], self.object_tokens == "single"
        objects = objects if queries else objects[:0]
        image = self.has_class_token and (queries == 0 or (image and not single))
        starts = torch.arange(
            0, views * tokens if image else 0, tokens, device=x.device
        )  # of the views, where `[CLS]` is
        of_objects = objects // max(queries, 1) * tokens + (
            0 if single else tokens - queries + objects % max(queries, 1)
        )
        of_patches = (
            patches // (height * width) * tokens + self.num_prefix_tokens + patches % (height * width)
        )
        rows = torch.cat([starts, of_objects, of_patches])
        few = None
        if not len(patches):  # then only these can be read of a view
            few = torch.arange(tokens, device=x.device)
            few = torch.cat(
                [few[: int(image or (single and queries > 0))], few[tokens - (0 if single else queries) :]]
            )
        if self.split_queries:
            x = self._read_last_block(self._blocks_before_last(x, keys, objects), keys, rows, few)
        else:
            x = self._blocks(self.blocks, x, keys).flatten(0, 1)[rows]
        of_views, of_objects, of_patches = self.fc_norm(self.norm(x)).split(
            [len(starts), len(objects), len(patches)]
        )
        return SelectedTokens(of_objects if queries else None, of_views if image else None, of_patches)

    def _blocks_before_last(self, x: Tensor, keys: Tensor | None, objects: Tensor) -> Tensor:
        """Tokens (B, T, D) before the last block; object tokens that are not read are zeros, if leaving them
        out spares enough.
        """
        views, tokens, _ = x.shape
        queries = 0 if keys is None or self.object_tokens == "single" else keys.shape[1]
        if (views * queries - len(objects)) * _WORTH_PACKING < views * tokens:
            return self._blocks(self.blocks[:-1], x, keys)
        packing = PackedTokens(views, tokens - queries, queries, objects)
        return packing.unpack(self._blocks(self.blocks[:-1], packing.pack(x), keys, packing))

    def _read_last_block(self, x: Tensor, keys: Tensor | None, rows: Tensor, few: Tensor | None) -> Tensor:
        """`_last_block` of these rows; with drop path and checkpointing."""
        places = None
        if few is not None:
            places = rows // x.shape[1] * len(few) + torch.searchsorted(few, rows % x.shape[1])
        block: Any = self.blocks[-1]
        scales = [_scale_of_rows(drop, x, rows) for drop in (block.drop_path1, block.drop_path2)]
        given = (block, x, keys, self.object_tokens, rows, few, places, *scales)
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(self.last_block, *given, use_reentrant=False)
        return self.last_block(*given)

    @torch.no_grad()
    def object_attention(self, images: Tensor, object_masks: Tensor, layer: int = -1) -> Tensor:
        """Where `[OBJ]` looks: its attention to the patches in one block.

        Args:
            images: (B, 3, H, W).
            object_masks: bool (B, Q, P).
            layer: Block, counted from 0, or from the end if negative.

        Returns:
            (B, Q, heads, P); what is missing to 1 goes to the token itself (and to registers, for an all-true
            mask).

        Raises:
            ConfigError: for a model whose attention is not timm's common one.
        """
        if not self.split_queries:
            raise ConfigError(
                "model.name: attention maps need timm's common attention, which this model does not have"
            )
        x, keys, (rows, columns) = self._embed(images, object_masks, None)
        assert keys is not None
        number = layer % len(self.blocks)
        block: Any = self.blocks[number]
        x = self._blocks(self.blocks[:number], x, keys)
        weights = object_attention_weights(
            block.attn, x if isinstance(block, ResPostBlock) else block.norm1(x), keys, self.object_tokens
        )
        return weights[..., self.num_prefix_tokens : self.num_prefix_tokens + rows * columns]

    def _embed(
        self, images: Tensor, object_masks: Tensor | None, prediction_masks: Tensor | None
    ) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        """Tokens at the first block, the keys object queries see, and the patch grid."""
        x = self.patch_embed(images)  # (B, rows, columns, D)
        views, rows, columns, _ = x.shape
        if prediction_masks is not None:
            _require_shape("prediction_masks", prediction_masks, (views, rows * columns))
            x = torch.where(prediction_masks.view(views, rows, columns, 1), self.mask_token.to(x.dtype), x)
        x = self._pos_embed(x)
        keys = None
        if object_masks is not None:
            keys = self._object_keys(object_masks, views, rows * columns)
            if self.object_tokens == "read-only":
                x = torch.cat(
                    [x, self.object_token.to(x.dtype).expand(views, object_masks.shape[1], -1)], dim=1
                )
        return self.norm_pre(x), keys, (rows, columns)

    def _object_keys(self, object_masks: Tensor, views: int, patches: int) -> Tensor:
        _require_shape("object_masks", object_masks, (views, object_masks.shape[1], patches))
        if self.object_tokens == "single" and (object_masks.shape[1] != 1 or not self.has_class_token):
            raise ValueError(
                f"single object tokens: one object a view, read by [CLS]; got {object_masks.shape[1]} objects"
            )
        registers = self.num_prefix_tokens - int(self.has_class_token)
        return object_keys(
            object_masks, class_token=self.has_class_token, registers=registers, kind=self.object_tokens
        )

    def _blocks(
        self, blocks: Any, x: Tensor, keys: Tensor | None, packing: PackedTokens | None = None
    ) -> Tensor:
        masks = keys
        if keys is not None and not self.split_queries:
            # Additive, since some of timm's unfused attentions add their mask as it is.
            visible = dense_mask(keys, self.object_tokens).unsqueeze(1)
            masks = torch.zeros_like(visible, dtype=x.dtype).masked_fill_(~visible, float("-inf"))
        for block in blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(self._block, block, x, masks, packing, use_reentrant=False)
            else:
                x = self._block(block, x, masks, packing)
        return x

    def _block(self, block: Any, x: Tensor, masks: Tensor | None, packing: PackedTokens | None) -> Tensor:
        if not self.split_queries:
            return block(x) if masks is None else block(x, attn_mask=masks)
        x = x + _drop_views(
            block.drop_path1, self.attention_branch(block, x, masks, self.object_tokens, packing), packing
        )
        return x + _drop_views(block.drop_path2, self.mlp_branch(block, x), packing)

    def _tokens(self, x: Tensor, queries: int, grid: tuple[int, int]) -> Tokens:
        prefix, end = self.num_prefix_tokens, self.num_prefix_tokens + grid[0] * grid[1]
        image = x[:, 0] if self.has_class_token else None
        patches = x[:, prefix:end]
        if queries == 0:
            return Tokens(None, image, patches, grid)
        if self.object_tokens == "single":
            return Tokens(x[:, :1], None, patches, grid)
        return Tokens(x[:, end:], image, patches, grid)


def _drop_views(drop_path: nn.Module, branch: Tensor, packing: PackedTokens | None) -> Tensor:
    """Drop path, by views."""
    if packing is None or isinstance(drop_path, nn.Identity) or not drop_path.training:
        return drop_path(branch)
    return branch * packing.of_views(drop_path(branch.new_ones(packing.views, 1)))


def _attention_branch(
    block: Any, x: Tensor, keys: Tensor | None, kind: ObjectTokens, packing: PackedTokens | None
) -> Tensor:
    attn: Any = block.attn
    if isinstance(block, ResPostBlock):
        return block.norm1(object_attention(attn, x, keys, kind, packing))
    return block.ls1(object_attention(attn, block.norm1(x), keys, kind, packing))


def _mlp_branch(block: Any, x: Tensor) -> Tensor:
    if isinstance(block, ResPostBlock):
        return block.norm2(lean_mlp(block.mlp, x))
    return block.ls2(lean_mlp(block.mlp, block.norm2(x)))


def _last_block(
    block: Any,
    x: Tensor,
    keys: Tensor | None,
    kind: ObjectTokens,
    rows: Tensor,
    few: Tensor | None,
    places: Tensor | None,
    scale1: Tensor | None,
    scale2: Tensor | None,
) -> Tensor:
    """Some tokens as a block leaves them, (N, D).

    Args:
        block: The block.
        x: (B, T, D) tokens before it.
        keys: bool (B, Q, T), as in `object_attention`.
        kind: Which token is the object's.
        rows: int64 (N,), which tokens: positions in the flattened (B * T).
        few: int64 (n,), ascending: if all of these are among the same n tokens of each view, which.
        places: int64 (N,): where among the (B * n) they are then.
        scale1: (N, 1) of drop path, see `_scale_of_rows`.
        scale2: The same for the second branch.
    """
    attn, post = block.attn, isinstance(block, ResPostBlock)
    normed = x if post else block.norm1(x)
    asking = normed.flatten(0, 1)[rows]
    if few is None:
        gathered = attend(attn, normed, keys, kind).flatten(0, 1)[rows]
    else:
        gathered = attention_at(attn, normed, normed[:, few], _visible_to_few(keys, kind, few)).flatten(0, 1)[
            places
        ]
    branch = project(attn, gathered, asking)
    branch = block.norm1(branch) if post else block.ls1(branch)
    y = x.flatten(0, 1)[rows] + (branch if scale1 is None else branch * scale1)
    branch = _mlp_branch(block, y)
    return y + (branch if scale2 is None else branch * scale2)


def _visible_to_few(keys: Tensor | None, kind: ObjectTokens, few: Tensor) -> Tensor | None:
    """bool (B, n, T): what the tokens at these positions see, of which object tokens are all Q or none; None:
    all.
    """
    if keys is None or kind == "single":
        return keys
    views, queries, tokens = keys.shape
    context = torch.arange(tokens, device=keys.device) < tokens - queries
    return torch.cat([context.expand(views, len(few) - queries, tokens), keys], dim=1)


def _scale_of_rows(drop_path: nn.Module, x: Tensor, rows: Tensor) -> Tensor | None:
    """What drop path multiplies these rows of the flattened (B * T) tokens by, (N, 1); each view's number is
    drawn as if all were there.
    """
    if isinstance(drop_path, nn.Identity) or not drop_path.training:
        return None
    return drop_path(x.new_ones(len(x), 1))[rows // x.shape[1]]


def lean_mlp(module: Any, x: Tensor) -> Tensor:
    """What the MLP of a block makes of x (..., D), with its gradients, in less memory.

    What its activation makes is as wide as the hidden layer, the widest there is, and cheap to make: it is
    computed again in the backward pass. Kept, it would be a quarter of all that a block keeps. Any module but
    timm's plain MLP with GELU is called as it is.
    """
    if not _is_plain_mlp(module) or torch.compiler.is_compiling():  # a compiler decides itself what it keeps
        return module(x)
    hidden = linear(module.fc1, x)
    if not torch.is_grad_enabled():
        return linear(module.fc2, F.gelu(hidden))
    return _GeluLinear.apply(hidden, *cast(module.fc2, hidden))


def _is_plain_mlp(module: Any) -> bool:
    if (
        type(module) is not Mlp
        or type(module.act) is not nn.GELU
        or module.act.approximate != "none"
        or is_watched(module.act)
    ):
        return False
    dropped = module.training and (module.drop1.p > 0 or module.drop2.p > 0)
    return type(module.norm) is nn.Identity and is_plain(module.fc2) and not dropped


class _GeluLinear(torch.autograd.Function):
    """linear(gelu(hidden)), of which only `hidden` is kept."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return product(F.gelu(hidden), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        hidden, weight = ctx.saved_tensors
        wants = ctx.needs_input_grad
        for_weight = of_weight(grad, F.gelu(hidden)) if wants[1] else None
        for_bias = grad.flatten(0, -2).sum(0) if wants[2] else None
        if not wants[0]:
            return None, for_weight, for_bias
        wide = of_input(grad, weight)
        torch.ops.aten.gelu_backward.grad_input(wide, hidden, grad_input=wide)
        return wide, for_weight, for_bias


def _require_shape(name: str, masks: Tensor, shape: tuple[int, ...]) -> None:
    if masks.shape != shape or masks.dtype != torch.bool:
        raise ValueError(f"{name}: is {masks.dtype} {tuple(masks.shape)}, must be torch.bool {shape}")
