"""The tasks `detection` and `instances`: a detector from an object index, measured by COCO's AP."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from odis.data.views import normalize_pixels
from odis.downstream.average_precision import FoundObjects, Kind, as_found, crowds_in, match
from odis.downstream.detection_data import (
    AGNOSTIC,
    DetectionPart,
    DetectionSample,
    TestSamples,
    TrainSamples,
)
from odis.downstream.detector import Target, ViTDetector, pasted
from odis.downstream.pyramid import canvas_side, padded
from odis.downstream.settings import DetectionData, DetectionSettings
from odis.downstream.starts import Start
from odis.downstream.task import Reading
from odis.errors import DataError
from odis.evaluation.protocols.images.store import files_key
from odis.evaluation.settings import require_given
from odis.evaluation.subset import Subset, draw_rows, in_train_classes, overlap_note, shared_images
from odis.method.vit import ObjectViT
from odis.objects.index import ObjectIndex
from odis.types import ImageObjects


class DetectionTask:
    """Objects in images: their boxes, or boxes and masks.

    Args:
        data: The indexes. Their classes are matched by name; an index without classes has one, `object`.
        settings: How.
        masks: Learn and find masks too.

    Raises:
        OdisError: An index is not given.
        DataError: One cannot be read, or has no object to learn from or to find.
    """

    def __init__(self, data: DetectionData, settings: DetectionSettings, *, masks: bool) -> None:
        require_given(data)
        self.name, self.settings, self.masks = "instances" if masks else "detection", settings, masks
        train, test = ObjectIndex.open(data.train), ObjectIndex.open(data.test)
        self.agnostic = not train.classes
        self.classes = list(train.classes) or [AGNOSTIC]
        rows = [
            draw_rows(len(one), most, 0)
            for one, most in ((train, settings.max_train), (test, settings.max_test))
        ]
        for index, of_part in zip((train, test), rows):
            _require_objects(index, of_part, masks=masks, labels=not self.agnostic)
        positions: list[list[int]] = [[], []]
        if not self.agnostic:
            used = torch.tensor(sorted({n for i in rows[1] for n in _labels(test, i)}), dtype=torch.int64)
            positions = [list(range(len(train.classes))), in_train_classes(test, train, used).tolist()]
        self.train = DetectionPart(train, rows[0], positions[0], masks)
        self.test = DetectionPart(test, rows[1], positions[1], masks)
        self.notes = overlap_note(shared_images(Subset(test, rows[1]), Subset(train, rows[0])))
        self.crowds: dict[int, list[dict[str, Any]]] = {}
        if data.crowds is not None:
            names = [os.path.basename(test.image_path(i)) for i in rows[1]]
            self.crowds = crowds_in(data.crowds, names, self.classes, self.agnostic)
        self.sides = {
            side: {
                "index": part.index.path,
                "provenance": part.index.provenance,
                "images": len(part.rows),
                "objects": sum(len(part.index[i].objects) for i in part.rows),
                "classes": len(self.classes),
            }
            for side, part in (("train", self.train), ("test", self.test))
        }
        if self.crowds:
            self.sides["test"]["crowds"] = sum(map(len, self.crowds.values()))
        self._crowds = [data.crowds] if data.crowds is not None else []

    def fingerprint(self) -> str:
        """See `Task.fingerprint`: of the content of the indexes."""
        indexes = [self.train.index.fingerprint(), self.test.index.fingerprint()]
        return " ".join([*indexes, *([files_key(self._crowds)] if self._crowds else [])])

    def check(self, start: Start, patch: int) -> None:
        """See `Task.check`: every size will do."""

    def module(self, backbone: ObjectViT, start: Start, dtype: torch.dtype) -> ViTDetector:
        """See `Task.module`."""
        return ViTDetector(backbone, len(self.classes), self.settings, masks=self.masks, dtype=dtype)

    def side(self, patch: int) -> int:
        """Side of the square that images lie on, in pixels."""
        return canvas_side(self.settings.size, patch, self.settings.scales)

    def samples(self, patch: int, seed: int, first: int, count: int) -> Dataset[Any]:
        """See `Task.samples`."""
        size, scale = self.settings.size, self.settings.scale
        return TrainSamples(self.train, size, self.side(patch), scale, seed=seed, start=first, count=count)

    def path_of(self, sample: DetectionSample) -> str:
        """See `Task.path_of`."""
        return sample.truth.image

    def losses(
        self, module: nn.Module, samples: list[DetectionSample], start: Start, device: torch.device
    ) -> dict[str, Tensor]:
        """See `Task.losses`: those of torchvision."""
        side = self.side(_patch(module))
        images, sizes = on_square([one.pixels for one in samples], start, side, device)
        targets = [target_of(one, side, masks=self.masks, device=device) for one in samples]
        found: dict[str, Tensor] = module(images, sizes, targets)[0]
        return found

    def measure(self, module: nn.Module, start: Start, reading: Reading) -> FoundObjects:
        """See `Task.measure`."""
        side = self.side(_patch(module))
        truth: list[ImageObjects] = []
        found: list[ImageObjects] = []
        crowds: dict[int, list[dict[str, Any]]] = {}
        views = TestSamples(self.test, self.settings.size)
        for batch in reading.batches(views, len(views), self.settings.batch, f"{start.source}, test"):
            own = [(one.truth.height, one.truth.width) for one in batch]
            answers = find(module, [one.pixels for one in batch], own, start, side, reading.device)
            for one, answer in zip(batch, answers):
                if one.number in self.crowds:
                    crowds[len(truth)] = self.crowds[one.number]
                truth.append(one.truth)
                masks = answer["masks"].cpu().numpy() if self.masks else None
                labels = answer["labels"].cpu().numpy() - 1
                boxes, scores = (answer[name].cpu().numpy() for name in ("boxes", "scores"))
                found.append(as_found(boxes, labels, scores, masks, (one.truth.width, one.truth.height)))
        if not truth:
            raise DataError(f"{self.test.index.path}: none of its images could be read")
        kinds: list[Kind] = ["box", "mask"] if self.masks else ["box"]
        return match(truth, found, len(self.classes), kinds, crowds)

    def measured(self, tensors: Mapping[str, Tensor]) -> FoundObjects:
        """See `Task.measured`."""
        return FoundObjects.of(tensors)


def on_square(
    pictures: Sequence[np.ndarray], start: Start, side: int, device: torch.device
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Images (B, 3, side, side) of uint8 (3, h, w), normalised and then padded with zeros, and h and w."""
    images, sizes = [], []
    for pixels in pictures:
        normal = normalize_pixels(torch.from_numpy(pixels).to(device), start.mean, start.std)
        sizes.append((int(normal.shape[1]), int(normal.shape[2])))
        images.append(padded(normal, side))
    return torch.stack(images), sizes


def target_of(sample: DetectionSample, side: int, *, masks: bool, device: torch.device) -> Target:
    """True objects as torchvision takes them; an image without any has boxes (0, 4)."""
    target = {
        "boxes": torch.from_numpy(sample.boxes).to(device),
        "labels": torch.from_numpy(sample.labels).to(device) + 1,
    }
    if masks:
        height, width = sample.masks.shape[1:]
        whole = np.zeros((len(sample.masks), side, side), np.uint8)
        whole[:, :height, :width] = sample.masks
        target["masks"] = torch.from_numpy(whole).to(device)
    return target


@torch.no_grad()
def find(
    module: nn.Module,
    pictures: Sequence[np.ndarray],
    originals: Sequence[tuple[int, int]],
    start: Start,
    side: int,
    device: torch.device,
) -> list[dict[str, Tensor]]:
    """What a detector finds, in pixels of the images at their own size.

    Args:
        module: The detector, in eval mode.
        pictures: uint8 (3, h, w) of each.
        originals: Height and width of each at its own size.
        start: Its pixel statistics.
        side: Of the square.
        device: Where it runs.
    """
    shown, sizes = on_square(pictures, start, side, device)
    found = []
    for answer, (height, width), size in zip(module(shown, sizes)[1], sizes, originals):
        found.append(pasted(answer, (size[1] / width, size[0] / height), size))
    return found


def _patch(module: nn.Module) -> int:
    backbone: Any = module.backbone
    return int(backbone.patch_embed.patch_size[0])


def _labels(index: ObjectIndex, row: int) -> list[int]:
    try:
        objects = index[row].objects
    except DataError:  # named when it is read
        return []
    return [one.label for one in objects if one.label is not None and 0 <= one.label < len(index.classes)]


def _require_objects(index: ObjectIndex, rows: Sequence[int], *, masks: bool, labels: bool) -> None:
    """Refuse a part without an object that can be learned from, or found.

    Raises:
        DataError: Saying what its objects lack.
    """
    some = False
    for i in rows:
        try:
            objects = index[i].objects
        except DataError:
            continue
        some = some or bool(objects)
        if any(
            (one.mask is not None or not masks) and (one.label is not None or not labels) for one in objects
        ):
            return
    lacks = "a mask" if masks else "a label"
    what = f"none of its objects has {lacks}" if some else "it holds no object"
    more = "; `detection` takes boxes" if some and masks else ""
    raise DataError(f"{index.path}: {what}{more}")
