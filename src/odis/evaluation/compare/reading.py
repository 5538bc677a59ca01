"""Images read once for two networks, and all that one pass of each of them gives.

A pass over a whole image with the masks of its objects answers for the objects by masked attention, for their
means of patches, for the whole image, and for its patches. Two networks that take the same input share it.

Letters: n objects of an image, P patches, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from odis.backbones.baseline import TimmBaseline
from odis.config.query import QueryConfig, ReadConfig
from odis.data.workers import WorkerLoader
from odis.errors import DataError, OdisError
from odis.evaluation.evaluation import Progress
from odis.evaluation.label_maps import LabelledImages
from odis.evaluation.subset import Subset, real_path
from odis.inference import Encoder
from odis.inference.queries import Query, QueryBuilder
from odis.method.pair import pool
from odis.objects.clean import usable_objects
from odis.objects.pixels import load_pixels
from odis.types import Object, Skipped

CHUNK = 128
"""Images that are held at a time."""

_WHOLE = -1  # tags the query of the whole image beside those of its objects


@dataclass(frozen=True)
class Asked:
    """One network and how it is asked.

    Args:
        encoder: The network.
        size: Side in pixels, a multiple of its patches' side.
        modes: Those of the comparison that it has.
    """

    encoder: Encoder
    size: int
    modes: tuple[str, ...]

    @staticmethod
    def of(encoder: Encoder, modes: Sequence[str], size: int) -> Asked:
        """The network in those modes that it has, at the multiple of its patches' side nearest to a size."""
        patch = 1 if isinstance(encoder.model, TimmBaseline) else encoder.patch_size
        return Asked(
            encoder,
            max(1, round(size / patch)) * patch,
            tuple(mode for mode in modes if mode in encoder.modes),
        )

    @property
    def plain(self) -> bool:
        """Whether it is a timm model without object tokens."""
        return isinstance(self.encoder.model, TimmBaseline)

    @property
    def has_patches(self) -> bool:
        """Whether it has a feature map."""
        return "mean-pool" in self.encoder.modes

    @cached_property
    def input(self) -> QueryBuilder:
        """Makes its input: the whole image and the masks of all objects."""
        return self._builder("mean-pool" if self.has_patches else "whole-image")

    @cached_property
    def crops(self) -> QueryBuilder | None:
        """Makes the crop of every object, if it is asked by crop."""
        return self._builder("crop") if "crop" in self.modes else None

    @cached_property
    def run(self) -> QueryBuilder:
        """What its passes over whole images are run by."""
        token = not self.plain and self.encoder.object_readout == "token"
        return self._builder("masked-attention") if token else self.input

    def check(self) -> None:
        """Refuse what it cannot be asked, before an image is read.

        Raises:
            OdisError: See `Encoder.query_builder`.
        """
        for mode in {"mean-pool" if self.has_patches else "whole-image", *self.modes}:
            self._builder(mode)

    def _builder(self, mode: str) -> QueryBuilder:
        return self.encoder.query_builder(QueryConfig((mode,), size=self.size))


@dataclass(slots=True)
class ReadItem:
    """One image as each network sees it."""

    whole: list[Query]  # of each input: the image, masks (n, P)
    crops: list[list[Query]]  # of each input: the crop of every object
    labels: list[int]  # n, -1 where there is none
    pixel_labels: (
        np.ndarray | None
    )  # int (H, W) at the size of the first input, IGNORE where nothing is known
    skipped: list[Skipped]
    read: bool


class ComparedRows(Dataset[ReadItem]):
    """Decodes rows of an index once, and makes every network's input, in the workers of a loader.

    Args:
        subset: The images.
        inputs: Makes the input of each network; those that are equal are made once.
        crops: Makes the crops of each, or None.
        pixels: Where labels of pixels are from; None for none.
    """

    def __init__(
        self,
        subset: Subset,
        inputs: Sequence[QueryBuilder],
        crops: Sequence[QueryBuilder | None],
        pixels: PixelLabels | None,
    ) -> None:
        self.subset, self.inputs, self.crops, self.pixels = subset, list(inputs), list(crops), pixels
        self._forms = dict.fromkeys(one.pixels for one in [*inputs, *crops] if one is not None)

    def __len__(self) -> int:
        return len(self.subset.rows)

    def __getitem__(self, i: int) -> ReadItem:
        index, number = self.subset.index, self.subset.rows[i]
        path = index.image_path(number)
        try:
            row = index[number]
            pixels = {form: load_pixels(path, (row.width, row.height), form) for form in self._forms}
        except DataError as error:
            skipped = [Skipped(path, str(error).removeprefix(f"{path}: "))]
            return ReadItem([], [], [], None, skipped, read=False)
        usable = usable_objects(row, len(index.classes))
        items = list(usable.objects)
        image = {form: torch.from_numpy(found).permute(2, 0, 1) for form, found in pixels.items()}
        whole = _made_once(self.inputs, lambda builder: _whole(builder, image[builder.pixels], items))
        crops = _made_once(self.crops, lambda builder: builder(image[builder.pixels], items) if items else [])
        labels = [-1 if item.label is None else item.label for item in items]
        skipped = usable.named(path)
        of_pixels = None
        if self.pixels is not None:
            of_pixels, more = self.pixels.read(number, path, whole[0], self.inputs[0])
            skipped += more
        return ReadItem(whole, crops, labels, of_pixels, skipped, read=True)


def _made_once(builders: Sequence[QueryBuilder | None], make: Any) -> list[Any]:
    """What each builder makes; equal ones share it."""
    made: list[Any] = []
    for k, builder in enumerate(builders):
        same = next((j for j in range(k) if builders[j] == builder), None)
        made.append(made[same] if same is not None else [] if builder is None else make(builder))
    return made


def _whole(builder: QueryBuilder, image: Tensor, items: list[Object]) -> Query:
    if not items or builder.mode == "whole-image":
        query = builder.whole(image)
        return Query(query.pixels, np.repeat(query.masks, len(items), axis=0))
    return builder(image, items)[0]


@dataclass(frozen=True, slots=True)
class PixelLabels:
    """A class for every pixel of the images of an index: of its objects, or of label maps of the same images.

    Args:
        images: The labels.
        rows: Row in `images` of each image of the index; None if they are the index's own.
        positions: int (classes of `images`,), what each class counts as, -1 for one that is not known.
    """

    images: LabelledImages
    rows: dict[str, int] | None
    positions: np.ndarray

    def read(
        self, number: int, path: str, seen: Query, builder: QueryBuilder
    ) -> tuple[np.ndarray | None, list[Skipped]]:
        """Labels int16 (H, W) of an image at the size at which it is seen, and what could not be used."""
        row = number if self.rows is None else self.rows.get(real_path(path))
        if row is None:
            return None, []
        try:
            labels, _ = self.images.read_labels(row)
        except DataError as error:
            return None, [Skipped(path, f"its labels of pixels: {error}")]
        known = np.where(labels >= 0, self.positions[np.maximum(labels, 0)], -1)
        height, width = seen.pixels.shape[1:]
        resized = Image.fromarray(known.astype(np.int32)).resize((width, height), Image.Resampling.NEAREST)
        return np.asarray(resized).astype(np.int16), []


@dataclass(slots=True)
class ImageFeatures:
    """All that one network says of one image, on the CPU in float32."""

    image: Tensor  # (D,)
    objects: dict[str, Tensor]  # of each mode (n, D)
    patches: Tensor  # (P, D), on the device
    grid: tuple[int, int]


def read_part(
    asked: Sequence[Asked],
    subset: Subset,
    pixels: PixelLabels | None,
    read: ReadConfig,
    progress: Progress | None,
    what: str,
) -> Iterator[tuple[int, ReadItem, list[ImageFeatures]]]:
    """Every image of a part that can be read, with what each network says of it, in order.

    Yields:
        Row of the index, the image, and its features of each network.

    Raises:
        DataError: With `read.strict`, for the first image or object that cannot be used.
        OdisError: Features that are not finite.
    """
    data = ComparedRows(subset, [one.input for one in asked], [one.crops for one in asked], pixels)
    loader = WorkerLoader(data, workers=read.workers, batch_size=None)
    waiting: list[tuple[int, ReadItem]] = []
    for position, item in enumerate(loader):
        if read.strict and item.skipped:
            raise DataError(f"{item.skipped[0].what}: {item.skipped[0].why}")
        waiting.append((subset.rows[position], item))
        if progress is not None:
            progress(what, position + 1, len(data))
        if len(waiting) == CHUNK or position + 1 == len(data):
            usable = [(row, item) for row, item in waiting if item.read]
            of_networks = [
                _embed(one, k, [item for _, item in usable], read.batch_size) for k, one in enumerate(asked)
            ]
            found = {row: [of_one[n] for of_one in of_networks] for n, (row, _) in enumerate(usable)}
            for row, item in waiting:
                yield row, item, found.get(row, [])
            waiting = []


def _embed(asked: Asked, k: int, items: Sequence[ReadItem], batch: int) -> list[ImageFeatures]:
    """What a network says of some images: one pass over each, and one over every crop that is asked for."""
    encoder, device = asked.encoder, asked.encoder.device
    one_each = asked.run.one_each
    found = [ImageFeatures(torch.empty(0), {}, torch.empty(0), (0, 0)) for _ in items]
    tokens_of: list[dict[int, Tensor]] = [{} for _ in items]

    def passes() -> Iterator[tuple[tuple[int, int], Query]]:
        for i, item in enumerate(items):
            query = item.whole[k]
            every = np.ones((1, query.masks.shape[1]), dtype=bool)
            if not one_each:
                yield (i, _WHOLE), Query(query.pixels, np.concatenate([query.masks, every]))
                continue
            yield (i, _WHOLE), Query(query.pixels, every)
            if "masked-attention" in asked.modes:
                for n, mask in enumerate(query.masks):
                    yield (i, n), Query(query.pixels, mask[None])

    for group, read, tokens in encoder.run_queries(passes(), asked.run, batch):
        read = read.float()
        for b, ((i, n), query) in enumerate(group):
            if n != _WHOLE:
                tokens_of[i][n] = read[b, 0].cpu()
                continue
            one, masks = found[i], torch.from_numpy(items[i].whole[k].masks).to(device)
            whole = (
                tokens.image[b] if asked.plain and tokens.image is not None else read[b, len(query.masks) - 1]
            )
            one.image, one.grid = whole.float().cpu(), tokens.grid
            one.patches = tokens.patches[b].float()
            if not bool(one.patches.isfinite().all() and one.image.isfinite().all()):
                raise OdisError(
                    f"{encoder.source}: features hold values that are not finite: its weights or its "
                    f"precision are at fault"
                )
            if "masked-attention" in asked.modes and not one_each:
                one.objects["masked-attention"] = read[b, : len(masks)].cpu()
            if "mean-pool" in asked.modes:
                one.objects["mean-pool"] = pool(one.patches[None], masks[None])[0].cpu()
    if one_each and "masked-attention" in asked.modes:
        for one, of_one in zip(found, tokens_of):
            rows = [of_one[n] for n in sorted(of_one)]
            one.objects["masked-attention"] = torch.stack(rows) if rows else torch.empty(0, len(one.image))
    if asked.crops is not None:
        _embed_crops(asked, k, items, found, batch)
    return found


def _embed_crops(
    asked: Asked, k: int, items: Sequence[ReadItem], found: Sequence[ImageFeatures], batch: int
) -> None:
    assert asked.crops is not None
    crops: list[dict[int, Tensor]] = [{} for _ in items]
    tagged = (((i, n), query) for i, item in enumerate(items) for n, query in enumerate(item.crops[k]))
    for group, read, _ in asked.encoder.run_queries(tagged, asked.crops, batch):
        for b, ((i, n), _) in enumerate(group):
            crops[i][n] = read[b, 0].float().cpu()
    for one, of_one in zip(found, crops):
        rows = [of_one[n] for n in sorted(of_one)]
        one.objects["crop"] = torch.stack(rows) if rows else torch.empty(0, len(one.image))
