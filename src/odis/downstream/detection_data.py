"""Images and their objects as a detector is shown them: resized, flipped, cut, on one square.

Letters: S side of the square, n objects of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from odis.data.loader import sample_order
from odis.errors import DataError
from odis.evaluation.protocols.images.views import pixels_of
from odis.objects import rle
from odis.objects.clean import usable_objects
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex
from odis.types import ImageObjects, Object, Skipped

AGNOSTIC = "object"
"""The one class of an index without classes."""


@dataclass(slots=True)
class DetectionSample:
    """One image as a detector is shown it.

    Attributes:
        number: Its place among the images of the part.
        pixels: uint8 (3, h, w), h and w at most S.
        boxes: float32 (n, 4), x0, y0, x1, y1 in these pixels.
        labels: int64 (n,), from 0.
        masks: uint8 (n, h, w) of 0 and 1; (0, h, w) where none are wanted.
        truth: The image with all objects that can be used, labels as of `DetectionPart`.
        skipped: What was left out of it.
    """

    number: int
    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    truth: ImageObjects
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DetectionPart:
    """The images of one part.

    Args:
        index: The index.
        rows: Which of its images.
        positions: The class that each label of the index stands for; empty where every object is one of
            `AGNOSTIC`.
        masks: Objects without a mask are left out.
    """

    index: ObjectIndex
    rows: Sequence[int]
    positions: Sequence[int]
    masks: bool

    def read(self, number: int) -> tuple[Image.Image, ImageObjects, list[Skipped]]:
        """An image, its objects with labels from 0, and what was left out.

        Raises:
            DataError: The image cannot be read.
        """
        row = self.rows[number]
        path, objects = self.index.image_path(row), self.index[row]
        usable = usable_objects(objects, len(self.index.classes))
        skipped, kept = usable.named(path) if self.positions else usable.skipped(path), []
        for place, item in zip(usable.numbers, usable.objects):
            if self.positions and item.label is None and place not in usable.mended:
                skipped.append(Skipped(f"{path}, object {place}", "has no label"))
            elif self.masks and item.mask is None:
                skipped.append(Skipped(f"{path}, object {place}", "has no mask"))
            elif not self.positions:
                kept.append(Object(item.box, item.mask, 0))
            elif item.label is not None:
                kept.append(Object(item.box, item.mask, self.positions[item.label]))
        image = load_image(path, (objects.width, objects.height))
        return image, ImageObjects(path, objects.width, objects.height, tuple(kept)), skipped


class TrainSamples(Dataset["DetectionSample | Skipped"]):
    """The images of some steps, resized by a random factor, flipped half of the time, cut to the square.

    Each is drawn from (seed, epoch, image) alone.

    Args:
        part: The images.
        size: Longer side of an image at factor 1.
        side: S.
        scale: Smallest and largest factor.
        seed: Of the run.
        start: Number of the first image, counted from the start of the run.
        count: Images wanted.
    """

    def __init__(
        self,
        part: DetectionPart,
        size: int,
        side: int,
        scale: Sequence[float],
        *,
        seed: int,
        start: int,
        count: int,
    ) -> None:
        self.part, self.size, self.side, self.scale = part, size, side, tuple(scale)
        self.seed, self.start, self.count = seed, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> DetectionSample | Skipped:
        ((epoch, number),) = sample_order(len(self.part.rows), self.seed, self.start + place, 1)
        rng = np.random.default_rng([self.seed, 5, epoch, number])
        factor, flip = float(rng.uniform(self.scale[0], self.scale[1])), bool(rng.random() < 0.5)
        corner = (float(rng.random()), float(rng.random()))
        return _sample(self.part, number, self.size * factor, self.side, flip, corner)


class TestSamples(Dataset["DetectionSample | Skipped"]):
    """The images of a part, each once, with their longer side at `size` pixels."""

    __test__ = False  # pytest: the name is no test

    def __init__(self, part: DetectionPart, size: int) -> None:
        self.part, self.size = part, size

    def __len__(self) -> int:
        return len(self.part.rows)

    def __getitem__(self, number: int) -> DetectionSample | Skipped:
        return _sample(self.part, number, self.size, self.size, False, (0.0, 0.0))


def _sample(
    part: DetectionPart, number: int, longer: float, side: int, flip: bool, corner: tuple[float, float]
) -> DetectionSample | Skipped:
    path = part.index.image_path(part.rows[number])
    try:
        image, truth, skipped = part.read(number)
    except DataError as error:
        return Skipped(path, str(error).removeprefix(f"{path}: "))
    pixels, boxes, labels, masks = shown(image, truth, longer, side, flip, corner, masks=part.masks)
    return DetectionSample(number, pixels, boxes, labels, masks, truth, skipped)


def shown(
    image: Image.Image,
    objects: ImageObjects,
    longer: float,
    side: int,
    flip: bool = False,
    corner: tuple[float, float] = (0.0, 0.0),
    *,
    masks: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """An image and its objects, resized, mirrored and cut.

    Args:
        image: The image.
        objects: Its objects.
        longer: Its longer side afterwards, in pixels; it may be more than the square.
        side: S.
        flip: Mirror it.
        corner: Where the square is cut from an image that is larger, from 0 (left, top) to 1.
        masks: Make masks too.

    Returns:
        Pixels, boxes, labels and masks of a `DetectionSample`. Objects of which less than a pixel a side is
        left are not in it.
    """
    share = longer / max(image.size)
    width, height = (max(1, round(one * share)) for one in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    across, down = width / image.width, height / image.height
    boxes = objects.boxes * np.array([across, down, across, down], np.float32)
    if flip:
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    left, top = (int(place * (max(0, one - side) + 1 - 1e-9)) for place, one in zip(corner, (width, height)))
    right, bottom = min(width, left + side), min(height, top + side)
    boxes[:, 0::2] = boxes[:, 0::2].clip(left, right) - left
    boxes[:, 1::2] = boxes[:, 1::2].clip(top, bottom) - top
    large = (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)
    kept = [item for item, inside in zip(objects.objects, large) if inside]
    cut = (slice(top, bottom), slice(left, right))
    made = [small_mask(item, objects, (width, height), flip)[cut] for item in kept] if masks else []
    planes = np.stack(made) if made else np.zeros((0, bottom - top, right - left), np.uint8)
    pixels = pixels_of(resized.crop((left, top, right, bottom)))
    labels = np.array([item.label for item in kept], np.int64)
    return pixels, np.ascontiguousarray(boxes[large], np.float32), labels, planes


def small_mask(item: Object, objects: ImageObjects, size: tuple[int, int], flip: bool) -> np.ndarray:
    """An object's mask at another size: pixels that it covers by half or more, or the one that it covers
    most.

    Nearest pixels would lose what is small or thin.

    Args:
        item: The object; it has a mask.
        objects: Its image, for its size.
        size: Width and height wanted.
        flip: Mirror it.

    Returns:
        uint8 (height, width) of 0 and 1.
    """
    assert item.mask is not None
    whole = rle.decode(item.mask, objects.width, objects.height)
    covered = np.asarray(Image.fromarray(whole * np.uint8(255)).resize(size, Image.Resampling.BOX))
    mask = (covered >= 128).astype(np.uint8)
    if not mask.any():
        mask[np.unravel_index(int(covered.argmax()), mask.shape)] = 1
    return mask[:, ::-1] if flip else mask
