"""The modes of inference: from an image and its objects to the input of the model. No model here.

- `masked-attention`: `[OBJ]` reads the object's patches in every layer, as in training. The whole image is
  resized to an area of about size x size, its aspect kept. With `context`, each object gets a window of its
  own: a square of `context` times the longer side of its box, resized to the same area. Objects are then as
  large as in training.
- `crop`: the object's box is cut out and resized to size x size. The whole crop is the object.
- `blackout`: the whole image, with the mean colour outside the box. The whole image is the object.
- `mean-pool`: the mean of the object's patch tokens. A model trained with `object_readout: mean-pool` reads
  objects so in every mode.
- `whole-image`: the whole image is the object. All objects of an image get the same vector.

Letters: Q objects of a query, P patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from odis.config.pixels import RGB, PixelFormat
from odis.config.query import Mode, Readout
from odis.config.training import MaskShape
from odis.data.geometry.patches import object_shapes, objects_on_grid, patch_grid
from odis.errors import DataError
from odis.objects.clean import usable_objects
from odis.objects.index import ObjectIndex
from odis.objects.pixels import load_pixels
from odis.types import Box, Crop, Object, Skipped


@dataclass(frozen=True, slots=True)
class Query:
    """One image as the model sees it, and the masks of the objects to read."""

    pixels: np.ndarray  # uint8 (C, H, W), sides multiples of the patch size
    masks: np.ndarray  # bool (Q, P)


@dataclass(frozen=True, slots=True)
class QueryBuilder:
    """Turns an image and its objects into queries. Picklable, for loader workers.

    Args:
        mode: The mode.
        size: Side in pixels; images are resized to about size x size.
        context: Side of an object's window over the longer side of its box (`masked-attention` only), or None
            for the whole image.
        patch: Side of a patch in pixels.
        coverage: Share of a patch that an object must cover, relative to the patch it covers most, as in
            training.
        margin: Patches by which masks are widened, as in training.
        mask_shape: Which patches the covered ones become, as in training.
        one_each: One object a query, as `single` and `beside` object tokens need.
        fill: Colour outside the box (`blackout`), 0..255.
        square: For models that take one shape only: rows and columns of their feature map. Every image is
            then resized to size x size.
        interpolation: Of resizes, that of the network's training: `bicubic` or another of torchvision's.
        readout: What stands for an object.
        pixels: Channels of an image, and their ranges.
    """

    mode: Mode
    size: int
    context: float | None
    patch: int
    coverage: float
    margin: int
    mask_shape: MaskShape
    one_each: bool
    fill: tuple[int, ...]
    square: tuple[int, int] | None = None
    interpolation: str = "bicubic"
    readout: Readout = "obj"
    pixels: PixelFormat = RGB

    def __call__(self, image: Tensor, objects: Sequence[Object]) -> list[Query]:
        """Queries for the objects in order: one each, or one for all of them.

        Args:
            image: uint8 (C, height, width).
            objects: Objects of the image that `usable_objects` keeps.
        """
        height, width = image.shape[1:]
        whole = Crop(0, 0, width, height)
        if self.mode == "crop":
            return [self._query(image, self.frame(o, width, height), square=True) for o in objects]
        if self.mode == "blackout":
            return [self._query(self._blackout(image, _outwards(o, width, height)), whole) for o in objects]
        if self.mode == "whole-image":
            return [self.whole(image)]
        if self.context is not None:
            return [self._query(image, self.frame(o, width, height), [o]) for o in objects]
        query = self._query(image, whole, objects)
        return (
            [Query(query.pixels, query.masks[i : i + 1]) for i in range(len(objects))]
            if self.one_each
            else [query]
        )

    def frame(self, item: Object, width: int, height: int) -> Crop:
        """The part of a `width` x `height` image that the query of an object shows."""
        if self.mode == "crop":
            return _outwards(item, width, height)
        if self.mode == "masked-attention" and self.context is not None:
            return _window(item, self.context, width, height)
        return Crop(0, 0, width, height)

    def whole(self, image: Tensor) -> Query:
        """The whole image as one object."""
        return self._query(image, Crop(0, 0, image.shape[2], image.shape[1]))

    def _query(
        self, image: Tensor, crop: Crop, objects: Sequence[Object] | None = None, square: bool = False
    ) -> Query:
        """The crop, resized, and the masks of `objects` in it; without objects, one mask of all patches."""
        shape = None if square else (crop.height, crop.width)
        rows, columns = grid = self.square or patch_grid(self.size, self.patch, shape)
        size = [self.size, self.size] if self.square else [rows * self.patch, columns * self.patch]
        box = (crop.y0, crop.x0, crop.height, crop.width)
        pixels = tv.resized_crop(
            image, *box, size=size, interpolation=InterpolationMode(self.interpolation), antialias=True
        )
        if objects is None:
            return Query(pixels.numpy(), np.ones((1, rows * columns), dtype=bool))
        return Query(
            pixels.numpy(),
            self._masks(objects, image.shape[2], image.shape[1], crop, grid).reshape(
                len(objects), rows * columns
            ),
        )

    def _masks(
        self, objects: Sequence[Object], width: int, height: int, crop: Crop, grid: tuple[int, int]
    ) -> np.ndarray:
        """bool (Q, rows, columns)."""
        boxes = np.array([item.box for item in objects], dtype=np.float64).reshape(-1, 4)
        shapes = object_shapes(boxes, [item.mask for item in objects], width, height)
        crops = np.array([[crop.x0, crop.y0, crop.x1, crop.y1]])
        masks = objects_on_grid(
            shapes, crops, np.array([crop.flip]), grid, self.coverage, self.margin, self.mask_shape
        )
        of_view: np.ndarray = masks[0]
        return of_view

    def _blackout(self, image: Tensor, crop: Crop) -> Tensor:
        dark = torch.tensor(self.fill, dtype=torch.uint8)[:, None, None].repeat(1, *image.shape[1:])
        dark[:, crop.y0 : crop.y1, crop.x0 : crop.x1] = image[:, crop.y0 : crop.y1, crop.x0 : crop.x1]
        return dark


def read_out(objects: Tensor, cls: Tensor, readout: Readout) -> Tensor:
    """Objects and `[CLS]` (..., D) as one feature: (..., D), or (..., 2 D) for `both`, `[CLS]` first."""
    return {"obj": objects, "cls": cls}[readout] if readout != "both" else torch.cat([cls, objects], dim=-1)


def _outwards(item: Object, width: int, height: int) -> Crop:
    """The box, rounded outwards to whole pixels of the image."""
    x0, y0, x1, y1 = item.box
    return Crop(
        int(max(np.floor(x0), 0)),
        int(max(np.floor(y0), 0)),
        int(min(np.ceil(x1), width)),
        int(min(np.ceil(y1), height)),
    )


def _window(item: Object, context: float, width: int, height: int) -> Crop:
    """A square around the box, shifted into the image and cut where the image is narrower."""
    box = _outwards(item, width, height)
    side = max(1, round(context * max(box.width, box.height)))
    w, h = min(side, width), min(side, height)
    x0 = min(max(round((box.x0 + box.x1 - w) / 2), 0), width - w)
    y0 = min(max(round((box.y0 + box.y1 - h) / 2), 0), height - h)
    return Crop(x0, y0, x0 + w, y0 + h)


@dataclass(slots=True)
class RowQueries:
    """The queries of one row of an index."""

    queries: list[Query]
    numbers: list[int]  # places of the n usable objects in the row; [-1] for the image as one object
    labels: list[tuple[int, ...]]  # n: the object's label, or all labels of an image
    boxes: list[Box]  # n
    skipped: list[Skipped]  # what could not be used
    read: bool  # the image was read


class IndexRows(Dataset[RowQueries]):
    """Decodes rows of an index and makes their queries, in the workers of a loader.

    Args:
        index: Images and objects.
        rows: Rows to take, in this order.
        builder: Makes the queries.
        images: Query each image as one object, whatever objects it has.
    """

    def __init__(
        self, index: ObjectIndex, rows: Sequence[int], builder: QueryBuilder, images: bool = False
    ) -> None:
        self.index, self.rows, self.builder, self.images = index, rows, builder, images

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> RowQueries:
        path = self.index.image_path(self.rows[i])
        try:
            row = self.index[self.rows[i]]
            pixels = load_pixels(path, (row.width, row.height), self.builder.pixels)
        except DataError as error:
            return RowQueries(
                [], [], [], [], [Skipped(path, str(error).removeprefix(f"{path}: "))], read=False
            )
        usable = usable_objects(row, len(self.index.classes))
        items, numbers = list(usable.objects), usable.numbers
        labels: list[tuple[int, ...]] = [() if item.label is None else (item.label,) for item in items]
        if self.images:
            items, numbers = [Object((0.0, 0.0, float(row.width), float(row.height)))], [-1]
            labels = [tuple(sorted({label for of_one in labels for label in of_one}))]
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        queries = self.builder(image, items) if items else []
        return RowQueries(queries, numbers, labels, [item.box for item in items], usable.named(path), True)
