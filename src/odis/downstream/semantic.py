"""The task `semantic`: a class for each pixel, from label maps or the masks of an index; mean IoU.

Letters: B images, D width, C classes, S side of a view, h, w its patch grid, n test images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.utils.data import Dataset

from odis.data.loader import sample_order
from odis.data.views import normalize_pixels
from odis.downstream.pyramid import SimplePyramid, padded, patch_map
from odis.downstream.settings import SCALES, SemanticSettings
from odis.downstream.starts import Start
from odis.downstream.task import Reading, check_tiled
from odis.errors import DataError
from odis.evaluation.dense import train_positions
from odis.evaluation.label_maps import IGNORE
from odis.evaluation.measurable import FoundLabels, require_measurable
from odis.evaluation.protocols.images.store import files_key
from odis.evaluation.protocols.layouts.segmentation import SegmentedImages
from odis.evaluation.protocols.segmentation.ade_training import SegmentedRows, Shown, Shows, padded_labels
from odis.evaluation.protocols.segmentation.ade_views import RandomWindow
from odis.evaluation.protocols.segmentation.channel_head import ChannelHead, pixel_loss
from odis.evaluation.protocols.segmentation.segmented_settings import SegmentedData
from odis.evaluation.protocols.segmentation.window_scores import best_class, stitched, windows
from odis.evaluation.scores import confusion, overlaps
from odis.evaluation.subset import draw_rows, overlap_note, real_path
from odis.method.vit import ObjectViT
from odis.types import Skipped


class MultiScaleHead(nn.Module):
    """Class scores at twice the resolution of the patches, from a simple pyramid.

    The maps are enlarged or shrunk to one resolution and summed (Panoptic FPN, arXiv 1901.02446, section
    3.2, with one convolution a level), then come a 3 x 3 convolution, layer norm and the classes.

    Args:
        width: D.
        channels: Width of the head.
        classes: C.
        dropout: Share of channels that are dropped in training.
    """

    def __init__(self, width: int, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.pyramid = SimplePyramid(width, channels, SCALES)
        self.fuse = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm2d(channels), nn.GELU()
        )
        self.dropout, self.classes = nn.Dropout2d(dropout), nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 2 h, 2 w) of patches (B, D, h, w)."""
        size = (2 * x.shape[2], 2 * x.shape[3])
        levels = [F.interpolate(one, size, mode="bilinear", align_corners=False) for one in self.pyramid(x)]
        scores: Tensor = self.classes(self.dropout(self.fuse(torch.stack(levels).sum(0))))
        return scores


class Segmenter(nn.Module):
    """A ViT with a head that scores classes.

    Args:
        backbone: The ViT.
        classes: C.
        settings: Which head.
        dtype: Precision of backbone and head.
    """

    def __init__(
        self,
        backbone: ObjectViT,
        classes: int,
        settings: SemanticSettings,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.backbone, self.dtype = backbone, dtype
        width, dropout = backbone.embed_dim, settings.dropout
        self.head: nn.Module = (
            ChannelHead(width, classes, dropout)
            if settings.head == "linear"
            else MultiScaleHead(width, settings.channels, classes, dropout)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, C, rows, columns), float32, of normalised images (B, 3, H, W)."""
        x = patch_map(self.backbone, images, self.dtype)
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            scores: Tensor = self.head(x)
        return scores.float()


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Pixels of each class in both, predicted and labelled, of each test image: int64 (n, 3, C)."""

    counts: np.ndarray

    @property
    def units(self) -> int:
        """Test images."""
        return len(self.counts)

    def scores(self, counts: np.ndarray) -> dict[str, float]:
        """Mean IoU over classes that are labelled or predicted, and the share of right pixels."""
        both, predicted, labelled = np.tensordot(counts, self.counts.astype(np.float64), axes=1)
        union = predicted + labelled - both
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "mIoU": float(np.nanmean(both / union)) if (union > 0).any() else float("nan"),
                "pixel accuracy": float(both.sum() / labelled.sum()),
            }

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be kept in a file."""
        return {"counts": torch.from_numpy(self.counts)}


class TrainWindows(Dataset["Shown | Skipped"]):
    """Random windows of the images of some steps, each drawn from (seed, epoch, image) alone."""

    def __init__(self, part: SegmentedRows, side: int, *, seed: int, start: int, count: int) -> None:
        self.part, self.side, self.seed, self.start, self.count = part, side, seed, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> Shown | Skipped:
        ((epoch, number),) = sample_order(len(self.part.rows), self.seed, self.start + place, 1)
        row = self.part.rows[number]
        path = self.part.images.images.image_path(row)
        try:
            image, labels, skipped = self.part.read(row)
        except DataError as error:
            return Skipped(path, str(error).removeprefix(f"{path}: "))
        rng = np.random.default_rng([self.seed, 6, epoch, number])
        pixels, shown = RandomWindow(self.side)(image, labels, rng)
        return Shown(number, pixels, shown, shown, skipped)


class SemanticTask:
    """A class for each pixel.

    Args:
        data: The two parts; classes are matched by name.
        settings: How.

    Raises:
        OdisError: A part is not given.
        DataError: One cannot be read, or nothing can be learned or measured.
    """

    name = "semantic"

    def __init__(self, data: SegmentedData, settings: SemanticSettings) -> None:
        train, test = data.open()
        self.settings, self.classes = settings, list(train.images.classes)
        rows = draw_rows(train.count, settings.max_train, 0), draw_rows(test.count, settings.max_test, 0)
        self.train = SegmentedRows(train, rows[0], train_positions(train.images, train.images))
        self.test = SegmentedRows(test, rows[1], train_positions(test.images, train.images))
        require_measurable(_found(self.train), _found(self.test))
        _require_known(self.test, self.classes, train.images.path)
        paths = {real_path(test.images.image_path(i)) for i in rows[1]}
        self.notes = overlap_note(len(paths & {real_path(train.images.image_path(i)) for i in rows[0]}))
        self.sides = {
            side: {
                "index": part.images.images.path,
                "provenance": part.images.images.provenance,
                "images": len(part.rows),
                "classes": len(self.classes),
            }
            for side, part in (("train", self.train), ("test", self.test))
        }

    def fingerprint(self) -> str:
        """See `Task.fingerprint`: of names, sizes and times of all files."""
        found = []
        for part in (self.train, self.test):
            found += [path for row in part.rows for path in part.images.images.files(row)]
        return files_key(sorted(set(found)))

    def check(self, start: Start, patch: int) -> None:
        """See `Task.check`: patches tile a view."""
        check_tiled(self.settings.size, patch)

    def module(self, backbone: ObjectViT, start: Start, dtype: torch.dtype) -> Segmenter:
        """See `Task.module`."""
        return Segmenter(backbone, len(self.classes), self.settings, dtype)

    def samples(self, patch: int, seed: int, first: int, count: int) -> Dataset[Any]:
        """See `Task.samples`."""
        return TrainWindows(self.train, self.settings.size, seed=seed, start=first, count=count)

    def path_of(self, sample: Shown) -> str:
        """See `Task.path_of`."""
        return self.train.images.images.image_path(self.train.rows[sample.number])

    def losses(
        self, module: nn.Module, samples: list[Shown], start: Start, device: torch.device
    ) -> dict[str, Tensor]:
        """See `Task.losses`: cross-entropy of the labelled pixels."""
        side = self.settings.size
        labels = torch.from_numpy(np.stack([padded_labels(one.shown, side) for one in samples])).long()
        scores = module(_square([one.pixels for one in samples], start, side, device))
        return {"loss_pixel": pixel_loss(scores, labels.to(device))}

    @torch.no_grad()
    def measure(self, module: nn.Module, start: Start, reading: Reading) -> LabelCounts:
        """See `Task.measure`: sliding windows, at the label maps' own size."""
        side, found = self.settings.size, []
        views = Shows(self.test, side)
        for batch in reading.batches(views, len(views), 1, f"{start.source}, test"):
            for one in batch:
                label = label_image(module, one.pixels, one.labels.shape[:2], start, side, reading.device)
                truth = torch.from_numpy(one.labels).to(label.device)
                found.append(overlaps(confusion(label, truth, len(self.classes), ignore=IGNORE)))
        if not found:
            raise DataError(f"{self.test.images.images.path}: none of its images could be read")
        return LabelCounts(np.stack(found))

    def measured(self, tensors: Mapping[str, Tensor]) -> LabelCounts:
        """See `Task.measured`."""
        return LabelCounts(tensors["counts"].numpy())


@torch.no_grad()
def label_image(
    module: nn.Module,
    pixels: np.ndarray,
    size: tuple[int, int],
    start: Start,
    side: int,
    device: torch.device,
) -> Tensor:
    """The class of each pixel of an image, by windows that overlap by a third: int64 (height, width).

    Args:
        module: The segmenter, in eval mode.
        pixels: uint8 (3, H, W), with its shorter side at `side` pixels.
        size: Height and width of the image at its own size.
        start: Its pixel statistics.
        side: S.
        device: Where it runs.
    """
    shown = (int(pixels.shape[1]), int(pixels.shape[2]))
    corners = windows(*shown, side, max(1, round(side * 2 / 3)))
    views = [pixels[:, top : top + side, left : left + side] for top, left in corners]
    scores = [module(_square([one], start, side, device))[0] for one in views]
    return best_class(stitched(scores, corners, shown, side), size)


def _square(pictures: Sequence[np.ndarray], start: Start, side: int, device: torch.device) -> Tensor:
    """Normalised images (B, 3, S, S) of uint8 (3, h, w), padded with zeros."""
    found = []
    for pixels in pictures:
        one = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
        found.append(padded(normalize_pixels(one, start.mean, start.std), side))
    return torch.stack(found)


def _found(part: SegmentedRows) -> FoundLabels:
    images: SegmentedImages = part.images
    labels = (label for row in part.rows for label in _labels(part, row))
    return FoundLabels(images.images.path, images.images.classes, labels, "pixels", images.images.background)


def _require_known(part: SegmentedRows, classes: Sequence[str], train: str) -> None:
    """Refuse a test part that shows a class which the train part does not list, before the training.

    Raises:
        DataError: Naming the first such image.
    """
    names = part.images.images.classes
    for row in part.rows:
        foreign = [names[k] for k in _labels(part, row) if k != IGNORE and part.positions[k] < 0]
        if foreign:
            path = part.images.images.image_path(row)
            raise DataError(
                f"{path}: shows {foreign[0]!r}, a class that {train} does not list ({', '.join(classes)})"
            )


def _labels(part: SegmentedRows, row: int) -> list[int]:
    try:
        found: list[int] = np.unique(part.images.images.read(row)[1]).tolist()
    except DataError:  # named when it is shown
        return []
    return found
