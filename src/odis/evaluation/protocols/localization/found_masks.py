"""The objects that `maskcut` scores: those that a model finds, those of an index, and those of another image.

Letters: H, W the image in pixels; S the side of the square it is shown in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage
from torch.nn.functional import normalize

from odis.config.discovery import DiscoverConfig
from odis.evaluation.protocols.layouts.boxed import BoxedImages
from odis.evaluation.protocols.localization.box_hits import rows_in
from odis.evaluation.protocols.localization.discovery import (
    OurDiscovery,
    facet_features,
    facet_of,
    store_of,
    stream_found,
    works_of,
)
from odis.evaluation.protocols.projection import Work
from odis.evaluation.runner import EvaluationRun
from odis.finding.discover.objects import clearness
from odis.finding.discover.refine import box_of, luminance, to_pixels
from odis.finding.discover.spectral import cut_objects
from odis.inference import Encoder
from odis.objects import rle
from odis.objects.clean import ANY_LABEL, usable_objects
from odis.objects.index import ObjectIndex
from odis.types import ImageObjects, Object

if TYPE_CHECKING:
    from odis.evaluation.protocols.localization.maskcut import MaskcutSettings

_SQUARE = 480
_REFINED = 0.5  # IoU of a mask before and after it follows the image's edges, below which it is dropped
_REPEATED = 0.5  # IoU with an earlier mask, above which it is dropped
_SMALL = 0.01  # share of the image, up to which it is dropped


class MaskSearch:
    """One model: how masks are found, and where they are kept.

    Attributes:
        size: Side in pixels that images are shown at.
    """

    def __init__(
        self, run: EvaluationRun, encoder: Encoder, images: BoxedImages, settings: MaskcutSettings
    ) -> None:
        self.run, self.encoder, self.images = run, encoder, images
        facet = facet_of(encoder, settings.facet)
        self._config = DiscoverConfig(
            method="spectral",
            size=settings.size,
            facet=facet,
            tau=settings.threshold,
            max_objects=settings.max_objects,
            batch_size=settings.read.batch_size,
        )
        self._name = encoder.source or "model"
        self._finder = None if settings.as_published else OurDiscovery(encoder, [self._config], self._name)
        self.size = _SQUARE if self._finder is None else self._finder.finder.size
        asked = settings.as_dict() | {"facet": facet, "size": self.size, "tau": settings.threshold}
        self._store = store_of(run, encoder, images, settings.cache, asked)

    def find(self, pictures: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """The objects of some images (H, W, 3)."""
        if self._finder is not None:
            return [_packed(objects) for objects in self._finder(pictures)[0]]
        return [_packed(_published(self.encoder, one, self._config)) for one in pictures]

    def works(self) -> Iterator[Work]:
        """What there is to do, measured."""
        return works_of(self.run, self.encoder, self.images, self.find, self._store)

    def objects(self) -> tuple[list[int], list[ImageObjects]]:
        """Which images could be read, and the objects found in each."""
        numbers, found = [], []
        what = f"{self._name}, test"
        for i, made in stream_found(self.run, self.images, what, self.find, self._store):
            row = self.images.rows[i]
            numbers.append(i)
            found.append(ImageObjects(row.image, row.width, row.height, _unpacked(made)))
        return numbers, found


def _published(encoder: Encoder, image: np.ndarray, config: DiscoverConfig) -> list[Object]:
    """Objects of an image (H, W, 3) shown squashed, as CutLER states it."""
    height, width = image.shape[:2]
    square = np.asarray(Image.fromarray(image).resize((_SQUARE, _SQUARE), Image.Resampling.LANCZOS))
    assert config.facet is not None
    features, grid = facet_features(encoder, square, config.facet)
    (cuts,) = cut_objects(features, grid, tau=config.tau, max_objects=config.max_objects)
    unit = normalize(features[0], dim=-1).cpu().numpy()
    patch, guide = encoder.patch_size, luminance(square)
    masks: list[np.ndarray] = []
    objects = []
    for cut in cuts:
        # What the padding of the last patches would add lies outside of the square.
        side = grid[0] * patch
        mask = to_pixels(cut, side, side, _padded(guide, side), config.edge_radius)[:_SQUARE, :_SQUARE]
        coarse = np.repeat(np.repeat(cut.mask, patch, axis=0), patch, axis=1)[:_SQUARE, :_SQUARE]
        mask = ndimage.binary_fill_holes(mask)
        if keeps(coarse, mask, masks):
            masks.append(mask)
            whole = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
            if whole.any():
                objects.append(Object(box_of(whole), rle.encode(whole), score=clearness(unit, cut.mask)))
    return objects


def keeps(before: np.ndarray, after: np.ndarray, earlier: Sequence[np.ndarray]) -> bool:
    """Whether a mask bool (S, S) is kept: it changed little when it was drawn to the image's edges, is more
    than 1 % of the image, and is no earlier mask again.
    """
    if mask_iou(before, after) < _REFINED or after.mean() <= _SMALL:
        return False
    return all(mask_iou(after, one) <= _REPEATED for one in earlier)


def mask_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks; 0 if both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0


def _padded(guide: np.ndarray, side: int) -> np.ndarray:
    return np.pad(guide, ((0, side - guide.shape[0]), (0, side - guide.shape[1])), mode="edge")


def objects_of_index(index: ObjectIndex, images: BoxedImages) -> tuple[list[ImageObjects], int]:
    """What an index has for each image, matched by the path of its file; and how many it does not have.

    Raises:
        DataError: It has none of the images.
    """
    places, found = rows_in(index, images), []
    for place, row in zip(places, images.rows):
        objects = () if place is None else usable_objects(index[place], ANY_LABEL).objects
        found.append(ImageObjects(row.image, row.width, row.height, objects))
    return found, places.count(None)


def of_other_images(images: BoxedImages, seed: int) -> list[ImageObjects]:
    """For each image the true boxes of another one, drawn evenly, at the same place relative to its sides."""
    rng = np.random.default_rng(seed)
    found = []
    for i, row in enumerate(images.rows):
        other = int(rng.integers(len(images) - 1))
        given = images.rows[other + (other >= i)]
        across, down = row.width / given.width, row.height / given.height
        objects = tuple(
            Object((one.box[0] * across, one.box[1] * down, one.box[2] * across, one.box[3] * down))
            for one in given.objects
        )
        found.append(ImageObjects(row.image, row.width, row.height, objects))
    return found


def _packed(objects: Sequence[Object]) -> dict[str, np.ndarray]:
    """Objects with masks and scores as arrays."""
    masks = [one.mask or b"" for one in objects]
    return {
        "boxes": np.array([one.box for one in objects], dtype=np.float64).reshape(-1, 4),
        "scores": np.array([one.score for one in objects], dtype=np.float64),
        "masks": np.frombuffer(b"".join(masks), dtype=np.uint8),
        "lengths": np.array([len(mask) for mask in masks], dtype=np.int64),
    }


def _unpacked(made: dict[str, np.ndarray]) -> tuple[Object, ...]:
    ends = np.cumsum(made["lengths"])
    content = made["masks"].tobytes()
    return tuple(
        Object((box[0], box[1], box[2], box[3]), content[end - length : end], score=score)
        for box, score, length, end in zip(
            made["boxes"].tolist(), made["scores"].tolist(), made["lengths"].tolist(), ends.tolist()
        )
    )
