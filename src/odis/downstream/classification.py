"""The task `classification`: a class for each image, by a linear layer on what stands for the whole image.

Letters: B images, D width, C classes, S side of a view, n test images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.mixup import Mixup
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.utils.data import Dataset

from odis.config.wording import counted
from odis.data.loader import sample_order
from odis.downstream.settings import ClassificationSettings, IndexedData
from odis.downstream.starts import Start
from odis.downstream.task import Reading, batch_pixels, check_tiled
from odis.errors import DataError, OdisError
from odis.evaluation.protocols.classification.classify import drawn, matched_labels, same_files, view_of
from odis.evaluation.protocols.images.store import files_key
from odis.evaluation.protocols.images.views import pixels_of
from odis.evaluation.protocols.layouts.classified import ClassifiedImages, open_classified
from odis.evaluation.settings import require_given
from odis.evaluation.subset import overlap_note
from odis.method.vit import ObjectViT
from odis.objects.images import load_image
from odis.types import Skipped

_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


class Classifier(nn.Module):
    """A ViT with a linear layer.

    It reads what odis reads of a whole image: `[OBJ]` with a mask of all patches, `[CLS]` where that is the
    object's token, or the mean of the patches of a model that was trained so.

    Args:
        backbone: The ViT.
        classes: C.
        mean_pool: Read the mean of the patches.
        dtype: Precision of the backbone.
    """

    def __init__(
        self, backbone: ObjectViT, classes: int, *, mean_pool: bool, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.backbone, self.mean_pool, self.dtype = backbone, mean_pool, dtype
        self.head = nn.Linear(backbone.embed_dim, classes)
        trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, C), float32, of normalised images (B, 3, S, S)."""
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            feature = self._feature(images)
        scores: Tensor = self.head(feature.float())
        return scores

    def _feature(self, images: Tensor) -> Tensor:
        if self.mean_pool:
            patches: Tensor = self.backbone(images).patches
            return patches.mean(dim=1)
        rows, columns = (side // patch for side, patch in zip(images.shape[-2:], self._patch()))
        masks = torch.ones(len(images), 1, rows * columns, dtype=torch.bool, device=images.device)
        objects: Tensor = self.backbone(images, masks).objects
        return objects[:, 0]

    def _patch(self) -> tuple[int, int]:
        embed: Any = self.backbone.patch_embed
        return int(embed.patch_size[0]), int(embed.patch_size[1])


@dataclass(frozen=True, slots=True)
class RightAnswers:
    """Of each test image the place of its true class in the ranking, from 0: int64 (n,)."""

    places: np.ndarray
    classes: int

    @property
    def units(self) -> int:
        """Test images."""
        return len(self.places)

    def scores(self, counts: np.ndarray) -> dict[str, float]:
        """Share of images whose class is the first, and with more than five classes among the first five."""
        total = counts.sum()
        found = {"top-1": float(counts @ (self.places == 0) / total)}
        if self.classes > 5:
            found["top-5"] = float(counts @ (self.places < 5) / total)
        return found

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be kept in a file."""
        return {"places": torch.from_numpy(self.places), "classes": torch.tensor(self.classes)}


@dataclass(slots=True)
class ClassifiedView:
    """An image as it is shown, with its class."""

    path: str
    pixels: np.ndarray  # uint8 (3, S, S)
    label: int
    skipped: list[Skipped] = field(default_factory=list)


class TrainCrops(Dataset["ClassifiedView | Skipped"]):
    """Random resized crops, mirrored half of the time, each drawn from (seed, epoch, image) alone."""

    def __init__(
        self, images: ClassifiedImages, side: int, least: float, *, seed: int, start: int, count: int
    ) -> None:
        self.images, self.side, self.least = images, side, least
        self.seed, self.start, self.count = seed, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> ClassifiedView | Skipped:
        ((epoch, number),) = sample_order(len(self.images), self.seed, self.start + place, 1)
        path = self.images.paths[number]
        try:
            image = load_image(path)
        except DataError as error:
            return Skipped(path, str(error).removeprefix(f"{path}: "))
        rng = np.random.default_rng([self.seed, 7, epoch, number])
        box = crop_box(image.width, image.height, self.least, rng)
        view = image.resize((self.side, self.side), Image.Resampling.BICUBIC, box=box)
        if rng.random() < 0.5:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return ClassifiedView(path, pixels_of(view), int(self.images.labels[number]))


class TestCrops(Dataset["ClassifiedView | Skipped"]):
    """Each image once: its shorter side at S * 256 / 224, and the middle of it."""

    __test__ = False  # pytest: the name is no test

    def __init__(self, images: ClassifiedImages, labels: np.ndarray, side: int) -> None:
        self.images, self.labels, self.view = images, labels, view_of(side)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> ClassifiedView | Skipped:
        path = self.images.paths[number]
        try:
            return ClassifiedView(path, self.view(load_image(path)), int(self.labels[number]))
        except DataError as error:
            return Skipped(path, str(error).removeprefix(f"{path}: "))


class ClassificationTask:
    """A class for each image.

    Args:
        data: Indexes or class folders; images whose objects have one label between them take part.
        settings: How.

    Raises:
        OdisError: A part is not given.
        DataError: One cannot be read, or nothing can be learned or measured.
    """

    name = "classification"

    def __init__(self, data: IndexedData, settings: ClassificationSettings) -> None:
        require_given(data)
        self.settings = settings
        self.train = drawn(open_classified(data.train), settings.max_train, 0)
        self.test = drawn(open_classified(data.test, classes=self.train.classes), settings.max_test, 0)
        self.labels = matched_labels(self.test, self.train)
        self.classes = list(self.train.classes)
        self.notes = overlap_note(same_files(self.test, self.train))
        self.sides: dict[str, dict[str, Any]] = {}
        for side, part in (("train", self.train), ("test", self.test)):
            self.sides[side] = {
                "index": part.path,
                "provenance": part.provenance,
                "images": len(part),
                "classes": len(self.classes),
            }
            if part.unlabelled:
                self.notes.append(
                    f"{part.path}: {counted(part.unlabelled, 'image')} left out: without exactly one label"
                )
        mixes = settings.mixup > 0 or settings.cutmix > 0
        self._mixup = (
            Mixup(
                settings.mixup,
                settings.cutmix,
                label_smoothing=settings.smoothing,
                num_classes=len(self.classes),
            )
            if mixes
            else None
        )

    def fingerprint(self) -> str:
        """See `Task.fingerprint`: of names, sizes and times of all files."""
        return files_key(sorted({*self.train.paths, *self.test.paths, self.train.path, self.test.path}))

    def check(self, start: Start, patch: int) -> None:
        """See `Task.check`: patches tile a view."""
        check_tiled(self.settings.size, patch)

    def module(self, backbone: ObjectViT, start: Start, dtype: torch.dtype) -> Classifier:
        """See `Task.module`."""
        mean_pool = start.model.object_readout == "mean-pool"
        return Classifier(backbone, len(self.classes), mean_pool=mean_pool, dtype=dtype)

    def samples(self, patch: int, seed: int, first: int, count: int) -> Dataset[Any]:
        """See `Task.samples`."""
        settings = self.settings
        return TrainCrops(self.train, settings.size, settings.crop, seed=seed, start=first, count=count)

    def path_of(self, sample: ClassifiedView) -> str:
        """See `Task.path_of`."""
        return sample.path

    def losses(
        self, module: nn.Module, samples: list[ClassifiedView], start: Start, device: torch.device
    ) -> dict[str, Tensor]:
        """See `Task.losses`: cross-entropy with smooth labels; mixup and CutMix once the backbone learns, as
        one batch against its reverse, of which an odd last image is left out.
        """
        backbone: Any = module.backbone
        learns = any(parameter.requires_grad for parameter in backbone.blocks.parameters())
        mixes = self._mixup is not None and learns and len(samples) > 1
        samples = samples[: len(samples) // 2 * 2] if mixes else samples
        images = batch_pixels([one.pixels for one in samples], start, device)
        labels = torch.tensor([one.label for one in samples], device=device)
        if not mixes or self._mixup is None:
            return {
                "loss_class": F.cross_entropy(module(images), labels, label_smoothing=self.settings.smoothing)
            }
        images, targets = self._mixup(images, labels)
        return {"loss_class": F.cross_entropy(module(images), targets)}

    @torch.no_grad()
    def measure(self, module: nn.Module, start: Start, reading: Reading) -> RightAnswers:
        """See `Task.measure`."""
        places: list[Tensor] = []
        views = TestCrops(self.test, self.labels, self.settings.size)
        for batch in reading.batches(views, len(views), self.settings.batch, f"{start.source}, test"):
            scores = module(batch_pixels([one.pixels for one in batch], start, reading.device))
            if not bool(scores.isfinite().all()):
                raise OdisError(
                    f"{start.source}: the fine-tuned network answers with numbers that are not finite"
                )
            places.append(places_of(scores.cpu(), torch.tensor([one.label for one in batch])))
        if not places:
            raise DataError(f"{self.test.path}: none of its images could be read")
        return RightAnswers(torch.cat(places).numpy(), len(self.classes))

    def measured(self, tensors: Mapping[str, Tensor]) -> RightAnswers:
        """See `Task.measured`."""
        return RightAnswers(tensors["places"].numpy(), int(tensors["classes"]))


def places_of(scores: Tensor, labels: Tensor) -> Tensor:
    """The place of the true class in the ranking of each image, from 0; of equal scores the first class
    leads.

    Args:
        scores: (B, C).
        labels: int64 (B,).
    """
    own = scores.gather(1, labels[:, None])
    before = torch.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(dim=1)


def crop_box(
    width: int, height: int, least: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A random box: x0, y0, x1, y1 within an image (Szegedy et al., arXiv 1409.4842).

    Its area is `least` to all of the image's, its aspect 3/4 to 4/3; if ten tries do not fit, the largest box
    of an allowed aspect in the middle.
    """
    for _ in range(_TRIES):
        area = width * height * rng.uniform(least, 1.0)
        aspect = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
            return left, top, left + across, top + down
    across = min(width, max(1, round(height * _RATIO[1])))
    down = min(height, max(1, round(width / _RATIO[0])))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down
