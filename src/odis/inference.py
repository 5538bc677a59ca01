"""Ask a frozen backbone about objects: load one, and embed the objects of images or of a whole object index.

`queries.py` says what the modes are. Letters: B images of one size, Q objects asked of an image, P patches, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from odis.config import ModelConfig, PretrainConfig
from odis.data.views import normalise
from odis.errors import ConfigError, DataError, OdisError
from odis.model.pair import pool
from odis.model.saved import load_model
from odis.model.vit import ObjectViT, build_vit
from odis.objects.index import ObjectIndex
from odis.queries import MODES, Asker, IndexRows, Mode, Query, as_objects, as_pixels
from odis.types import Features, Object, Skipped, Tokens

__all__ = ["MODES", "Encoder", "IndexFeatures", "Mode", "embed_index", "load"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

T = TypeVar("T")


@dataclass(slots=True)
class IndexFeatures:
    """Features of the n objects of an object index that could be used, in the index's order."""

    features: Tensor  # float32 (n, D), on the CPU
    labels: Tensor  # int64 (n,), -1 where an object has none
    rows: Tensor  # int64 (n,), the image: a row of the index
    numbers: Tensor  # int64 (n,), the object: its place in that row
    images: int  # images that were read
    skipped: list[Skipped]


@dataclass
class Encoder:
    """A frozen backbone with all that is needed to ask it as it was trained.

    Args:
        model: The backbone, on the device it is to run on.
        image_size: Side in pixels it was trained at, and is asked at unless told otherwise.
        mean: Channel means of pixels in 0..1.
        std: Channel deviations.
        mask_coverage: Share of a patch an object must cover for the patch to belong to it, measured by the patch it covers most.
        mask_margin: Patches by which masks of box objects are widened.
        object_readout: `token`, or `mean-pool` for a model whose objects are means of patches.
        precision: Arithmetic of the forward pass: `fp32`, `bf16` or `fp16`.
        provenance: Where the objects it was trained on came from.
        source: What it was loaded from.
        card: What its file says of itself.
    """

    model: ObjectViT
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mask_coverage: float = 0.5
    mask_margin: int = 0
    object_readout: str = "token"
    precision: str = "fp32"
    provenance: str = ""
    source: str = ""
    card: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(model: ObjectViT, config: PretrainConfig, *, precision: str = "fp32", provenance: str = "", source: str = "") -> Encoder:
        """An encoder of a backbone in memory, asked as `config` trains it."""
        views = config.views
        return Encoder(
            model, views.global_size, views.mean, views.std, views.mask_coverage, views.mask_margin,
            object_readout=config.model.object_readout, precision=precision, provenance=provenance, source=source,
        )  # fmt: skip

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.model.patch_embed.patch_size[0]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.mask_token.device

    def asker(self, mode: str, size: int | None = None, context: float | None = None) -> Asker:
        """How images are asked in a mode.

        Raises:
            OdisError: for an unknown mode, a size that patches do not tile, or a context that does not go with the mode.
        """
        size = self.image_size if size is None else size
        known = next((m for m in MODES if m == mode), None)
        if known is None:
            raise OdisError(f"mode {mode!r} is none of {', '.join(MODES)}")
        if size < 1 or size % self.patch_size:
            raise OdisError(f"size {size} must be a multiple of the patch size {self.patch_size}")
        if context is not None and (known != "masked-attention" or not 1 <= context < float("inf")):
            raise OdisError(f"context {context:g} with mode {mode}: must be 1 or more, and goes with masked-attention only")
        one_each = known == "masked-attention" and self.object_readout == "token" and self.model.object_tokens == "single"
        red, green, blue = (round(255 * m) for m in self.mean)
        return Asker(known, size, context, self.patch_size, self.mask_coverage, self.mask_margin, one_each, (red, green, blue))

    def embed(
        self,
        images: Sequence[Image.Image | Tensor],
        objects: Sequence[Sequence[Object] | np.ndarray | Tensor] | None = None,
        mode: str = "masked-attention",
        *,
        size: int | None = None,
        context: float | None = None,
        batch_size: int = 64,
    ) -> list[Features]:
        """Features of the objects of each image.

        Args:
            images: PIL images, or uint8 tensors (3, height, width).
            objects: For each image its objects, or their boxes (n, 4) in pixels, n >= 0; None takes each image as one object.
            mode: One of `MODES`.
            size: Side in pixels to ask at, a multiple of the patch size; by default the one it was trained at.
            context: With `masked-attention`, side of an object's window over the longer side of its box; None asks in the whole image.
            batch_size: Queries answered at once.

        Returns:
            For each image its `Features`, float32 on the CPU: objects (n, D); and, where one pass saw the whole image and no object's mask
            changed its patches, the `[CLS]` token and the patches of that pass.

        Raises:
            DataError: for a box or mask that cannot be used; the message names it.
            OdisError: see `asker`.
        """
        asker = self.asker(mode, size, context)
        if objects is not None and len(objects) != len(images):
            raise OdisError(f"objects of {len(objects)} images were given, but {len(images)} images")
        counts: list[int] = []

        def queries() -> Iterator[tuple[int, Query]]:
            for i, picture in enumerate(images):
                image = as_pixels(picture, f"image {i}")
                items = as_objects(None if objects is None else objects[i], image, f"image {i}")
                counts.append(len(items))
                for query in asker(image, items):
                    yield i, query

        found: list[list[Features]] = [[] for _ in images]
        # All queries of an image have one size, and those of one size are answered in order.
        for asked, objects_read, tokens in self._answers(queries(), asker, batch_size):
            for i, (tag, query) in enumerate(asked):
                image_token = None if tokens.image is None else tokens.image[i]
                found[tag].append(Features(objects_read[i, : len(query.masks)], image_token, tokens.patches[i], tokens.grid))
        plain = context is None and mode not in ("crop", "blackout") and not asker.one_each
        return [self._joined(parts, n, mode, plain) for parts, n in zip(found, counts)]

    def _joined(self, parts: list[Features], count: int, mode: str, plain: bool) -> Features:
        """One image's answers as one, float32 on the CPU."""
        if not parts:
            return Features(torch.empty(0, self.model.embed_dim))
        objects = torch.cat([part.objects for part in parts]).float().cpu()
        image = parts[0].image
        if mode == "whole-image":
            image = objects[0] if image is None else image  # `single` tokens: `[CLS]` stood for the whole image
            objects = objects.repeat(count, 1)
        if not plain:
            return Features(objects)
        assert parts[0].patches is not None
        return Features(objects, None if image is None else image.float().cpu(), parts[0].patches.float().cpu(), parts[0].grid)

    def _answers(
        self, queries: Iterable[tuple[T, Query]], asker: Asker, batch_size: int
    ) -> Iterator[tuple[list[tuple[T, Query]], Tensor, Tokens]]:
        """Ask queries of one size together. Those of one size stay in order.

        Yields:
            B queries with their tags; their objects (B, Q, D), on the device, a query with fewer than Q masks having its answers first;
            and all their tokens.
        """
        waiting: dict[tuple[int, ...], list[tuple[T, Query]]] = {}
        count = 0
        for tag, query in queries:
            waiting.setdefault(query.pixels.shape, []).append((tag, query))
            count += 1
            # Pictures may come in any number of sizes, but only so many wait.
            if len(waiting[query.pixels.shape]) == batch_size or count == 4 * batch_size:
                largest = max(waiting, key=lambda shape: len(waiting[shape]))
                group = waiting.pop(largest)
                count -= len(group)
                yield group, *self._answer([query for _, query in group], asker)
        for group in waiting.values():
            yield group, *self._answer([query for _, query in group], asker)

    @torch.no_grad()  # not inference_mode: a probe may be trained on what comes out
    def _answer(self, queries: list[Query], asker: Asker) -> tuple[Tensor, Tokens]:
        pixels = torch.from_numpy(np.stack([query.pixels for query in queries])).to(self.device)
        most = max(len(query.masks) for query in queries)
        masks = torch.ones(len(queries), most, queries[0].masks.shape[1], dtype=torch.bool)  # (B, Q, P)
        for i, query in enumerate(queries):
            masks[i, : len(query.masks)] = torch.from_numpy(query.masks)
        masks = masks.to(self.device)
        pooled = asker.mode == "mean-pool" or self.object_readout == "mean-pool"
        training, dtype = self.model.training, _DTYPES[self.precision]
        self.model.eval()
        try:
            with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
                tokens = self.model(normalise(pixels, self.mean, self.std), None if pooled or not most else masks)
        finally:
            self.model.train(training)
        if pooled:
            return pool(tokens.patches.float(), masks), tokens
        # Without a mask there is no object token: none of these images has an object.
        return tokens.patches[:, :0] if tokens.objects is None else tokens.objects, tokens


def embed_index(
    encoder: Encoder,
    index: ObjectIndex,
    mode: str = "masked-attention",
    *,
    rows: Sequence[int] | None = None,
    size: int | None = None,
    context: float | None = None,
    batch_size: int = 64,
    workers: int = 0,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> IndexFeatures:
    """Features of every object of an index, read image by image: only the features stay in memory.

    Args:
        encoder: What to ask.
        index: Images and objects.
        mode: One of `MODES`.
        rows: Rows of the index to take, in this order; by default all.
        size: See `Encoder.embed`.
        context: See `Encoder.embed`.
        batch_size: Queries answered at once.
        workers: Processes that decode and resize; 0 does it here.
        strict: Raise for the first image or object that cannot be used, instead of naming and counting it.
        progress: Called after each image with the number of images so far.

    Raises:
        DataError: with `strict`.
        OdisError: see `Encoder.asker`.
    """
    asker = encoder.asker(mode, size, context)
    rows = range(len(index)) if rows is None else rows
    loader = DataLoader(IndexRows(index, rows, asker), batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    done = IndexFeatures(torch.empty(0), torch.empty(0), torch.empty(0), torch.empty(0), 0, [])
    labels: list[int] = []
    places: list[tuple[int, int]] = []  # row and number of each object

    def queries() -> Iterator[tuple[range, Query]]:
        for position, item in enumerate(loader):
            if strict and item.skipped:
                raise DataError(f"{item.skipped[0].what}: {item.skipped[0].why}")
            done.skipped.extend(item.skipped)
            done.images += item.read
            start = len(labels)
            labels.extend(item.labels)
            places.extend((rows[position], number) for number in item.numbers)
            for i, query in enumerate(item.queries):
                # One query answers for all objects of the image, or each for its own.
                yield range(start, len(labels)) if len(item.queries) == 1 else range(start + i, start + i + 1), query
            if progress is not None:
                progress(position + 1)

    parts: list[tuple[list[int], Tensor]] = []
    for asked, objects, _ in encoder._answers(queries(), asker, batch_size):
        objects = objects.float().cpu()
        read = [objects[i, : len(query.masks)].expand(len(span), -1) for i, (span, query) in enumerate(asked)]
        parts.append(([n for span, _ in asked for n in span], torch.cat(read)))
    done.features = torch.empty(len(labels), encoder.model.embed_dim)
    while parts:  # freed as they are copied
        positions, part = parts.pop()
        done.features[torch.tensor(positions)] = part
    done.labels = torch.tensor(labels, dtype=torch.int64)
    done.rows, done.numbers = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return done


def _as_it_is(item: Any) -> Any:
    return item


def load(source: str | Path, *, device: str = "auto", precision: str = "fp32") -> Encoder:
    """The encoder in a run's folder, in a `model.safetensors`, or of timm's published weights.

    Args:
        source: A folder or file that `odis pretrain` wrote; `timm:NAME`, which downloads the weights or reads the local hub cache; or
            `timm:NAME@FILE`, which reads them from a file.
        device: `auto` (the GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        precision: `fp32`, `bf16` or `fp16`.

    Raises:
        OdisError: for anything else, a damaged file, weights that cannot be fetched, or a device that is not here.
    """
    if precision not in _DTYPES:
        raise OdisError(f"precision {precision!r} is none of {', '.join(_DTYPES)}")
    where = _device(device)
    encoder = _published(str(source)) if str(source).startswith("timm:") else _trained(Path(source))
    encoder.model.to(where).requires_grad_(False).eval()
    encoder.precision, encoder.source = precision, str(source)
    return encoder


def _trained(path: Path) -> Encoder:
    if path.is_dir():
        file = path / "model.safetensors"
        if not file.exists():
            raise DataError(
                f"{path}: this run has not written its model.safetensors yet"
                if (path / "config.yaml").exists()
                else f"{path}: not a run's folder: it has no model.safetensors"
            )
        path = file
    elif not path.exists():
        raise DataError(f"{path}: no such run folder or model file (a model by name is timm:NAME)")
    model, card = load_model(path)
    try:
        return Encoder(
            model, card["image_size"], tuple(card["mean"]), tuple(card["std"]), card["mask_coverage"], card["mask_margin"],
            object_readout=card["model"]["object_readout"], provenance=card["provenance"], card=card,
        )  # fmt: skip
    except KeyError as error:
        raise DataError(f"{path}: not a model that odis wrote: its card lacks {error}") from error


def _published(source: str) -> Encoder:
    name, _, file = source.removeprefix("timm:").partition("@")
    if not timm.is_model(name):
        raise ConfigError(f"{source}: timm has no model {name}; timm.list_models('vit_*') lists them")
    published = timm.get_pretrained_cfg(name, allow_unregistered=False)
    data = timm.data.resolve_data_config(pretrained_cfg=published.to_dict() if published else {})
    size = data["input_size"][-1]
    config = ModelConfig(name=name, weights=file or "timm", object_tokens="read-only")
    try:
        model = build_vit(config, size, drop_path=0.0)
    except ConfigError as error:
        if file:
            raise
        raise OdisError(f"{source}: {error}; without a network, give the weights as a file: timm:{name}@FILE.safetensors") from error
    # A model without [CLS] has nothing that an object token could start from.
    readout = "token" if model.has_class_token else "mean-pool"
    return Encoder(model, size, tuple(data["mean"]), tuple(data["std"]), object_readout=readout, provenance="timm's weights")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise OdisError(f"device {name!r} must be auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OdisError(f"device {name!r}: {torch.cuda.device_count()} GPUs are here; auto takes what there is")
    return device
