"""What a model computes for the report: attention of `[OBJ]`, patch features as colours, nearest objects.

Letters: P patches, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from odis.config.query import QueryConfig, ReadConfig
from odis.inference import Encoder, stream_index
from odis.inference.queries import QueryBuilder
from odis.inference.stream import concat
from odis.objects.pixels import ShownImage
from odis.report.drawing import region_of
from odis.report.runs import Run
from odis.report.samples import ReportSample
from odis.types import Features, Object

NEAREST = 5

_WINDOW = 200  # pixels of an object's window that is shown, at least


@dataclass(frozen=True, slots=True)
class AttentionMaps:
    """Attention of one object's `[OBJ]` to the patches."""

    layers: list[int]  # counted from 0
    weights: np.ndarray  # float32 (layers, heads, rows, columns)
    mask: np.ndarray  # bool (rows, columns): the patches it may attend to
    picture: Image.Image  # what the model saw: the image, or the object's window
    region: np.ndarray  # bool (height, width): the object in that picture


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An object of the index and its similarity."""

    row: int
    number: int
    cosine: float


def whole_size(encoder: Encoder, run: Run, size: int | None) -> int:
    """Side in pixels for whole images: the one given, or the one at which objects are about as large as in
    training.

    Training resizes a crop, a share of the image, to `global_size`. The whole image is larger by as much as
    the mean crop was smaller.

    Raises:
        OdisError: for a size that patches do not tile.
    """
    if size is None:
        scale = run.setting("config.views.global_scale")
        share = (
            sum(scale) / 2
            if isinstance(scale, list) and len(scale) == 2 and all(isinstance(v, int | float) for v in scale)
            else 1.0
        )
        size = encoder.patch_size * max(
            1, round(encoder.image_size / math.sqrt(min(max(share, 0.01), 1)) / encoder.patch_size)
        )
    return encoder.query_builder(QueryConfig(size=size)).size


def depth(encoder: Encoder) -> int:
    """Number of layers."""
    blocks: Any = encoder.model.blocks
    return len(blocks)


def layers_shown(count: int) -> list[int]:
    """First, middle and last of so many layers, counted from 0."""
    return sorted({0, (count - 1) // 2, count - 1})


def no_attention(encoder: Encoder) -> str | None:
    """Why a model has no attention of `[OBJ]` to show; None if it has."""
    if encoder.object_readout != "token":
        return (
            "It reads an object as the mean of its patches, so there is no [OBJ] whose attention could "
            "be shown."
        )
    if not encoder.model.split_queries:
        return "Its attention is not timm's common one, so the weights of [OBJ] cannot be read."
    return None


@torch.no_grad()
def attention_maps(
    encoder: Encoder, shown: ShownImage, objects: Sequence[Object], query: QueryConfig
) -> list[AttentionMaps]:
    """Attention of `[OBJ]` for each object, in the first, middle and last layer.

    Args:
        encoder: A model for which `no_attention` is None.
        shown: The image.
        objects: Usable objects of it.
        query: Size and context, in masked attention.
    """
    builder = encoder.query_builder(query)
    layers = layers_shown(depth(encoder))
    found: list[AttentionMaps] = []
    image, read = shown.image, torch.from_numpy(shown.pixels(encoder.pixels))
    for one_query in builder(read, objects):
        rows, columns = (side // encoder.patch_size for side in one_query.pixels.shape[1:])
        maps = [encoder.object_attention(one_query, layer) for layer in layers]
        weights = torch.stack(maps, dim=1).numpy()  # (Q, layers, heads, P)
        for one, mask in zip(weights, one_query.masks):  # (layers, heads, P)
            picture = _shown_to_model(builder, image, objects[len(found)])
            grid = one.reshape(*one.shape[:2], rows, columns)
            found.append(AttentionMaps(layers, grid, mask.reshape(rows, columns), *picture))
    return found


def _shown_to_model(
    builder: QueryBuilder, image: Image.Image, item: Object
) -> tuple[Image.Image, np.ndarray]:
    """What the model sees of an object, large enough for the page, and the object's region in it."""
    region = region_of(item, image.size, image.size)
    if builder.context is None:
        return image, region
    large = replace(builder, size=builder.size * math.ceil(_WINDOW / builder.size))
    # The region is cut and resized as the image is, so that the two lie on each other.
    pictures = (pil_to_tensor(image), torch.from_numpy(255 * region.astype(np.uint8)).expand(3, -1, -1))
    pixels, inside = (large(picture, [item])[0].pixels for picture in pictures)
    return Image.fromarray(pixels.transpose(1, 2, 0)), inside[0] > 127


def patch_features(encoder: Encoder, images: Sequence[ShownImage], size: int) -> list[Features]:
    """Patch features of whole images, one pass each."""
    read = (torch.from_numpy(image.pixels(encoder.pixels)) for image in images)
    return [encoder.embed([one], mode="whole-image", size=size)[0] for one in read]


def patch_colours(features: Sequence[Features]) -> tuple[list[np.ndarray], float]:
    """The first three principal components of all patches, as red, green and blue.

    Each component is scaled from its 2nd to its 98th percentile over the patches of all images.

    Returns:
        For each image uint8 (rows, columns, 3); and the share of the variance that the three components hold.
    """
    patches = [one.patches for one in features if one.patches is not None]
    flat = torch.cat(patches).double()
    centred = flat - flat.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:3]
    # A component's sign is open: its largest entry is made positive.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    values = centred @ (directions * largest.sign()).T
    values = F.pad(values, (0, 3 - values.shape[1]))
    low, high = (torch.quantile(values, q, dim=0) for q in (0.02, 0.98))
    unit = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    colours = (255 * unit).round().to(torch.uint8)
    variance = singular.square()
    share = float(variance[:3].sum() / variance.sum().clamp_min(1e-30))
    grids = [one.grid for one in features if one.grid is not None]
    return [
        part.reshape(*grid, 3).numpy() for part, grid in zip(colours.split([len(p) for p in patches]), grids)
    ], share


def nearest(
    encoder: Encoder,
    sample: ReportSample,
    query: QueryConfig,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[tuple[int, int], list[Neighbour]], int]:
    """The nearest objects of other images, for each object shown.

    Args:
        encoder: The model.
        sample: What is shown and searched.
        query: Size and context.
        progress: Called after each image with the number of images so far.

    Returns:
        By row and number of an object, its neighbours, the nearest first; and how many objects were searched.
    """
    chunks = stream_index(encoder, sample.index, query, ReadConfig(), rows=sample.searched, progress=progress)
    found = concat(list(chunks), encoder.width(query.mode))
    unit = F.normalize(found.features, dim=-1)
    places = {place: i for i, place in enumerate(zip(found.rows.tolist(), found.numbers.tolist()))}
    neighbours = {}
    for shown in sample.shown:
        elsewhere: Tensor = found.rows != shown.row
        for number in shown.numbers:
            cosine = (unit @ unit[places[shown.row, number]]).masked_fill(~elsewhere, -math.inf)
            best = cosine.topk(min(NEAREST, int(elsewhere.sum())))
            neighbours[shown.row, number] = [
                Neighbour(int(found.rows[i]), int(found.numbers[i]), float(c))
                for c, i in zip(best.values, best.indices)
            ]
    return neighbours, len(found.features)
