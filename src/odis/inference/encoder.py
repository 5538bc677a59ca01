"""A frozen backbone and all that embedding objects with it needs; `queries.py` explains the modes.

Letters: B images of one size, Q objects of a query, P patches, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from odis.backbones.attention_maps import object_attention_maps
from odis.backbones.baseline import TimmBaseline
from odis.backbones.features import as_one_object, last_blocks
from odis.backbones.fp16_range import require_fp16_range
from odis.config.pixels import RGB, Channels, PixelFormat
from odis.config.query import MODES, READOUTS, QueryConfig, Readout
from odis.config.training import MaskShape, PretrainConfig
from odis.config.wording import counted
from odis.data.views import normalize_pixels
from odis.errors import OdisError
from odis.inference.pictures import Picture, as_objects, as_pixels, is_one_picture
from odis.inference.queries import Query, QueryBuilder, read_out
from odis.machine.devices import DTYPES
from odis.method.pair import pool
from odis.method.vit import ObjectViT
from odis.types import Features, Tokens

_WHOLE = -1  # tags the query of the whole image beside those of its objects

T = TypeVar("T")


@dataclass
class Encoder:
    """A frozen backbone that reads images as it was trained to.

    Args:
        model: The backbone, on its device. A `TimmBaseline` has no object token, so no masked attention.
        image_size: Side in pixels it was trained at, and the default size of queries.
        mean: Channel means of pixels in 0..1.
        std: Channel deviations.
        mask_coverage: Share of a patch that an object must cover for the patch to belong to it, relative to
            the patch it covers most.
        mask_margin: Patches by which masks are widened: of boxes, or with `component-boxes` all.
        mask_shape: Which patches the covered ones become (`views.mask_shape`).
        object_readout: `token`, or `mean-pool` for a model whose objects are means of patches.
        interpolation: How images were resized in its training.
        precision: Arithmetic of the forward pass: `fp32`, `bf16` or `fp16`.
        provenance: Where the objects it was trained on came from.
        source: What it was loaded from.
        card: Metadata of its file.
        largest_by_block: In fp16, the largest value that each block leaves (`backbones.fp16_range`).
        pixels: Channels of an image, and the ranges of its numbers.
    """

    model: ObjectViT | TimmBaseline
    image_size: int
    mean: Channels
    std: Channels
    mask_coverage: float = 0.5
    mask_margin: int = 0
    mask_shape: MaskShape = "area"
    object_readout: str = "token"
    interpolation: str = "bicubic"
    precision: str = "fp32"
    provenance: str = ""
    source: str = ""
    card: dict[str, Any] = field(default_factory=dict)
    largest_by_block: list[float] = field(default_factory=list, compare=False)
    pixels: PixelFormat = RGB

    @staticmethod
    def of(
        model: ObjectViT,
        config: PretrainConfig,
        *,
        precision: str = "fp32",
        provenance: str = "",
        source: str = "",
    ) -> Encoder:
        """An encoder of a backbone in memory, with sizes and masks as `config` trains it."""
        views = config.views
        return Encoder(
            model,
            views.global_size,
            *views.statistics,
            views.mask_coverage,
            views.mask_margin,
            views.mask_shape,
            object_readout=config.model.object_readout,
            precision=precision,
            provenance=provenance,
            source=source,
            pixels=views.pixels,
        )

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        if isinstance(self.model, TimmBaseline):
            return int(self.model.patch_side)
        return int(self.model.patch_embed.patch_size[0])

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def width(self, mode: str, readout: Readout = "obj") -> int:
        """D of object features in a mode."""
        if isinstance(self.model, TimmBaseline):
            return int(self.model.patch_dim if mode == "mean-pool" else self.model.image_dim)
        return int(self.model.embed_dim) * (2 if readout == "both" else 1)

    @property
    def modes(self) -> tuple[str, ...]:
        """Modes of this model. A `TimmBaseline` has no object token, and perhaps no feature map."""
        if isinstance(self.model, ObjectViT):
            return MODES
        return tuple(
            m for m in MODES if m != "masked-attention" and (m != "mean-pool" or self.model.patch_dim)
        )

    def readouts(self, mode: str) -> tuple[Readout, ...]:
        """What can be read in a mode: `cls` and `both` where a pass has `[CLS]` beside what stands for the
        object.
        """
        if not isinstance(self.model, ObjectViT) or not self.model.has_class_token:
            return ("obj",)
        pooled = mode == "mean-pool" or self.object_readout == "mean-pool"
        return READOUTS if pooled or self.model.object_tokens != "single" else ("obj",)

    @property
    def readout(self) -> str:
        """How an image or a crop is read: by its object token, the mean of its patches, or timm's pooling."""
        return f"timm's {self.model.pooling}" if isinstance(self.model, TimmBaseline) else self.object_readout

    def query_builder(self, query: QueryConfig) -> QueryBuilder:
        """What turns images and objects into queries of this model, in one mode.

        Raises:
            OdisError: for more than one mode, a mode or readout that is unknown or that the model lacks, a
                size that its patches do not tile, or a context that does not go with the mode.
        """
        mode, context = query.mode, query.context
        size = self.image_size if query.size is None else query.size
        query.check()
        known = next(m for m in MODES if m == mode)
        plain = isinstance(self.model, TimmBaseline)
        if size < 1 or (not plain and size % self.patch_size):
            raise OdisError(f"size {size} must be a multiple of the patch size {self.patch_size}")
        if known not in self.modes:
            lacks = "object token" if known == "masked-attention" else "feature map"
            raise OdisError(
                f"mode {mode}: {self.source or 'this model'} has no {lacks}; its modes are "
                f"{', '.join(self.modes)}"
            )
        if query.readout not in self.readouts(known):
            raise OdisError(
                f"readout {query.readout}: {self.source or 'this model'} has no [CLS] beside what mode "
                f"{mode} reads; its readout is obj"
            )
        square = self.model.grid_at(size, self.device) if isinstance(self.model, TimmBaseline) else None
        one_each = (
            known == "masked-attention"
            and self.object_readout == "token"
            and getattr(self.model, "object_tokens", "") in ("single", "beside")
        )
        fill = tuple(round(255 * m) for m in self.mean)
        return QueryBuilder(
            known, size, context, self.patch_size, *query.widths(self.mask_coverage, self.mask_margin),
            self.mask_shape, one_each, fill, square, self.interpolation, query.readout, self.pixels,
        )  # fmt: skip

    def embed(
        self,
        images: Picture | Sequence[Picture],
        objects: Any = None,
        mode: str = "masked-attention",
        *,
        boxes: Any = None,
        masks: Any = None,
        size: int | None = None,
        context: float | None = None,
        readout: Readout = "obj",
        mask_coverage: float | None = None,
        mask_margin: int | None = None,
        batch_size: int = 64,
    ) -> Any:
        """Features of the objects of each image.

        Images may be of any size. They are resized, keeping their aspect, to the grid of patches nearest to
        `size` x `size` pixels in area. Nothing is padded or cut off. (A model that is no plain ViT gets them
        resized to the square.)

        Args:
            images: One picture or several: paths, PIL images, arrays (height, width, C) or (height, width),
                tensors (C, height, width); uint8, or floats from 0 to 1. Paths are turned as their EXIF says;
                PIL images are taken as they are.
            objects: For each image its `Object`s, n >= 0. None, with no boxes and masks either, takes each
                image as one object.
            mode: One of `MODES`.
            boxes: In place of objects: for each image (n, 4), x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
            masks: In place of objects, or beside boxes: for each image bool (n, height, width).
            size: Side in pixels, a multiple of the patch size; by default the size it was trained at.
            context: With `masked-attention`, side of an object's window over the longer side of its box; None
                reads objects in the whole image.
            readout: What stands for an object, and for the image as one: `obj`, what the mode reads; `cls`,
                `[CLS]` of the same pass; `both`, concatenated.
            mask_coverage: Share of a patch that an object must cover (`QueryConfig`); None as in training.
            mask_margin: Patches by which masks are widened; None as in training.
            batch_size: Queries in one forward pass.

        Returns:
            list[Features], one for each image (one picture: its Features, in no list), float32 on the CPU:
            objects (n, D); and, if the model sees the whole image (not in `crop`, `blackout` or a context),
            `image`, which is the whole image as one object in the same mode, and the patches. These never
            depend on the objects: read-only tokens are not seen by others, and for the other kinds a pass of
            the whole image as one object is made beside the n passes.

        Raises:
            DataError: for a picture, box or mask that cannot be used; the message names it.
            OdisError: see `query_builder`.
        """
        if is_one_picture(images):
            one = [None if given is None else [given] for given in (objects, boxes, masks)]
            picture: Any = images
            return self.embed(
                [picture], one[0], mode, boxes=one[1], masks=one[2], size=size, context=context,
                readout=readout, mask_coverage=mask_coverage, mask_margin=mask_margin, batch_size=batch_size,
            )[0]  # fmt: skip
        asked = QueryConfig((mode,), False, size, context, readout, mask_coverage, mask_margin)
        builder = self.query_builder(asked)
        pictures: list[Any] = list(images)  # type: ignore[arg-type]  # one picture was ruled out
        if objects is not None and (boxes is not None or masks is not None):
            raise OdisError("objects were given, and boxes or masks beside them; give one of the two")
        for name, given in (("objects", objects), ("boxes", boxes), ("masks", masks)):
            if given is not None and len(given) != len(pictures):
                there, wanted = (counted(len(some), "image") for some in (given, pictures))
                raise OdisError(f"{name} are of {there}, must be of {wanted}")
        counts: list[int] = []
        shows_image = context is None and mode not in ("crop", "blackout")
        beside = shows_image and mode != "whole-image" and not builder.one_each

        def queries() -> Iterator[tuple[tuple[int, int], Query]]:
            for i, picture in enumerate(pictures):
                image = as_pixels(picture, f"image {i}", self.pixels)
                mine = (None if given is None else given[i] for given in (objects, boxes, masks))
                items = as_objects(*mine, image=image, name=f"image {i}")
                counts.append(len(items))
                for n, query in enumerate(builder(image, items)):
                    if beside:  # the whole image is one more object of the same pass
                        query = Query(
                            query.pixels,
                            np.concatenate([query.masks, np.ones((1, query.masks.shape[1]), dtype=bool)]),
                        )
                    yield (i, n), query
                if shows_image and builder.one_each:
                    yield (i, _WHOLE), builder.whole(image)

        objects_of: list[dict[int, Tensor]] = [{} for _ in pictures]
        whole: list[Features] = [Features(torch.empty(0)) for _ in pictures]
        # Windows of one image may have several sizes, so batches come in any order of images. Features go to
        # the CPU at once.
        for batch, read, tokens in self.run_queries(queries(), builder, batch_size):
            read = read.float().cpu()
            for b, ((i, n), query) in enumerate(batch):
                if n != _WHOLE:
                    objects_of[i][n] = read[b, : len(query.masks) - beside].clone()
                if shows_image and (n == _WHOLE or not builder.one_each):
                    of_all = read[b, len(query.masks) - 1].clone()
                    whole[i] = Features(torch.empty(0), of_all, tokens.patches[b].float().cpu(), tokens.grid)
        features = []
        for answers, of_image, count in zip(objects_of, whole, counts):
            parts = [answers[n] for n in sorted(answers)] or [torch.empty(0, self.width(mode, readout))]
            of_image.objects = parts[0].repeat(count, 1) if mode == "whole-image" else torch.cat(parts)
            features.append(of_image)
        return features

    def run_queries(
        self, queries: Iterable[tuple[T, Query]], builder: QueryBuilder, batch_size: int
    ) -> Iterator[tuple[list[tuple[T, Query]], Tensor, Tokens]]:
        """Run queries in batches of one image size. Those of one size stay in order.

        Yields:
            B queries with their tags; their objects (B, Q, D) on the device, where a query of fewer than Q
            masks has its own first; and all their tokens.
        """
        waiting: dict[tuple[int, ...], list[tuple[T, Query]]] = {}
        count = 0
        for tag, query in queries:
            waiting.setdefault(query.pixels.shape, []).append((tag, query))
            count += 1
            # Pictures come in any number of sizes: at most four batches of queries wait.
            if len(waiting[query.pixels.shape]) == batch_size or count == 4 * batch_size:
                largest = max(waiting, key=lambda shape: len(waiting[shape]))
                group = waiting.pop(largest)
                count -= len(group)
                yield group, *self._run([query for _, query in group], builder)
        for group in waiting.values():
            yield group, *self._run([query for _, query in group], builder)

    def _run(self, queries: list[Query], builder: QueryBuilder) -> tuple[Tensor, Tokens]:
        found, tokens = self._objects(queries, builder.mode)
        if builder.readout == "obj":
            return found, tokens
        assert tokens.image is not None
        cls = tokens.image[:, None].expand(-1, found.shape[1], -1)
        return read_out(found, cls, builder.readout), tokens

    def _objects(self, queries: list[Query], mode: str) -> tuple[Tensor, Tokens]:
        """What the mode reads (B, Q, D), and all tokens."""
        most = max(len(query.masks) for query in queries)
        masks = torch.ones(len(queries), most, queries[0].masks.shape[1], dtype=torch.bool)  # (B, Q, P)
        for i, query in enumerate(queries):
            masks[i, : len(query.masks)] = torch.from_numpy(query.masks)
        masks = masks.to(self.device)
        plain = isinstance(self.model, TimmBaseline)
        pooled = mode == "mean-pool" or self.object_readout == "mean-pool"
        tokens = self.tokens(
            np.stack([query.pixels for query in queries]), None if plain or pooled or not most else masks
        )
        if pooled:
            return pool(tokens.patches.float(), masks), tokens
        if plain:  # the object is all that the model sees
            assert tokens.image is not None
            return tokens.image[:, None].expand(-1, most, -1), tokens
        if tokens.objects is None or not most:  # none of these images has an object
            return tokens.patches[:, :0], tokens
        return tokens.objects, tokens

    @torch.no_grad()  # not inference_mode: a probe may be trained on what comes out
    def tokens(self, pixels: np.ndarray, masks: Tensor | None = None) -> Tokens:
        """All tokens of a batch of resized images, on the device, in the precision of the model.

        Args:
            pixels: uint8 (B, C, H, W), sides multiples of the patch size; or float32 from 0 to 255, which
                is used up.
            masks: bool (B, Q, P) on the device, or None for plain images.
        """
        with self._asked(pixels) as images:
            if masks is None:
                return as_one_object(self.model, images)
            tokens: Tokens = self.model(images, masks)
        return tokens

    @torch.no_grad()
    def block_tokens(self, pixels: np.ndarray, blocks: int) -> list[tuple[Tensor, Tensor]]:
        """`[CLS]` (B, D) and patches (B, P, D) of each of the last blocks; see `backbones.features`.

        Args:
            pixels: As for `tokens`.
            blocks: How many.

        Raises:
            ConfigError: for a model without them.
        """
        with self._asked(pixels) as images:
            return last_blocks(self.model, images, blocks)

    @contextmanager
    def _asked(self, pixels: np.ndarray) -> Iterator[Tensor]:
        """Images on the device, while the model is in eval mode and computes in its precision."""
        training, dtype = self.model.training, DTYPES[self.precision]
        self.model.eval()
        try:
            images = normalize_pixels(torch.from_numpy(pixels).to(self.device), self.mean, self.std)
            if dtype == torch.float16 and not self.largest_by_block:
                self.largest_by_block = require_fp16_range(self.model, images, self.source or "this model")
            with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
                yield images
        finally:
            self.model.train(training)

    def object_attention(self, query: Query, layer: int = -1) -> Tensor:
        """Attention of `[OBJ]` in one block: float32 (Q, heads, P), on the CPU; see
        `backbones.attention_maps`.

        Raises:
            OdisError: for a model without object tokens, or whose attention is not timm's common one.
        """
        if not isinstance(self.model, ObjectViT):
            raise OdisError(
                f"{self.source or 'this model'} has no object token, so there is no attention of one"
            )
        images = normalize_pixels(torch.from_numpy(query.pixels[None]).to(self.device), self.mean, self.std)
        masks = torch.from_numpy(query.masks[None]).to(self.device)
        if self.model.object_tokens != "read-only":  # one object a pass
            parts = [
                object_attention_maps(self.model, images, masks[:, i : i + 1], layer)
                for i in range(masks.shape[1])
            ]
            return torch.cat(parts, dim=1)[0].float().cpu()
        return object_attention_maps(self.model, images, masks, layer)[0].float().cpu()
