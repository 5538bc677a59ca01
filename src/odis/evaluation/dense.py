"""Patch features and pixel labels: what segmentation by neighbours (`dense_knn.py`) and by a linear head
(`segment.py`) share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from odis.config.query import QueryConfig
from odis.data.workers import WorkerLoader
from odis.errors import DataError, OdisError
from odis.evaluation.label_layouts import open_label_maps
from odis.evaluation.label_maps import IGNORE, LabelledImages, patch_label_shares
from odis.evaluation.measurable import FoundLabels, require_classes, require_measurable
from odis.evaluation.runner import EvaluationRun
from odis.evaluation.scores import Score, confusion, iou_score, overlaps
from odis.evaluation.subset import Subset, draw_rows, overlap_note, real_path
from odis.inference import Encoder
from odis.inference.queries import Query, QueryBuilder
from odis.objects.index import ObjectIndex
from odis.types import Skipped

if TYPE_CHECKING:
    from odis.evaluation.dense_settings import DenseSettings

_AT_ONCE = 1 << 26  # scores of pixels held at a time: 256 MB


@dataclass(slots=True)
class DenseItem:
    """One image with its labels; without a query if it cannot be used."""

    query: Query | None
    labels: np.ndarray  # int (H, W), IGNORE where nothing is known
    skipped: list[Skipped]
    foreign: str | None = None  # a class it shows that the train part does not list


class DenseRows(Dataset[DenseItem]):
    """Decodes and resizes images and label maps, in the workers of a loader."""

    def __init__(
        self, data: LabelledImages, rows: Sequence[int], builder: QueryBuilder, classes: np.ndarray
    ) -> None:
        self.data, self.rows, self.builder, self.classes = data, rows, builder, classes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> DenseItem:
        path = self.data.image_path(self.rows[i])
        try:
            pixels, labels, skipped = self.data.read_pixels(self.rows[i], self.builder.pixels)
        except DataError as error:
            return DenseItem(None, np.empty((0, 0)), [Skipped(path, str(error).removeprefix(f"{path}: "))])
        known = labels >= 0
        mapped = np.full(labels.shape, IGNORE, dtype=np.int32)
        mapped[known] = self.classes[labels[known]]
        if (mapped[known] < 0).any():
            return DenseItem(
                None, mapped, skipped, self.data.classes[int(labels[known][mapped[known] < 0][0])]
            )
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        return DenseItem(self.builder.whole(image), mapped, skipped)


def open_labelled(path: str | Path, split: str, *, boxes: bool = False) -> LabelledImages:
    """Pixel labels from an object index (a Parquet file or a folder of them), or from a folder of PNG label
    maps.

    Args:
        path: Where.
        split: Of label maps, see `label_layouts.open_label_maps`; an index has one.
        boxes: Of an index, see `LabelledImages.from_index`.

    Raises:
        DataError: if it is neither, or an index without a label.
    """
    path = Path(path)
    if path.is_dir() and not any(path.glob("*.parquet")):
        return open_label_maps(path, split)
    index = ObjectIndex.open(path)
    data = LabelledImages.from_index(index, boxes)
    if not Subset(index, range(len(index))).labelled(1):
        raise DataError(f"{path}: none of its objects has a label; segmentation needs a labelled index")
    return data


def train_positions(data: LabelledImages, train: LabelledImages) -> np.ndarray:
    """Position in the train part of each class of a part, by name; -1 for one it lacks."""
    position = {name: i for i, name in enumerate(train.classes)}
    return np.array([position.get(name, -1) for name in data.classes], dtype=np.int32)


def draw_parts(
    run: EvaluationRun, train: LabelledImages, test: LabelledImages
) -> tuple[Sequence[int], Sequence[int]]:
    """Rows of both parts, drawn as the run's settings say. Images that are in both are noted in the run."""
    settings = run.settings
    train_rows = draw_rows(len(train), settings.max_train, settings.seed)
    test_rows = draw_rows(len(test), settings.max_test, settings.seed)
    paths = {real_path(test.image_path(i)) for i in test_rows}
    run.note(overlap_note(len(paths & {real_path(train.image_path(i)) for i in train_rows})))
    of_train, of_test = (stated_labels(part, rows) for part, rows in ((train, train_rows), (test, test_rows)))
    if of_train is not None and of_test is not None:
        require_measurable(of_train, of_test)
    elif of_train is not None:
        require_classes(of_train)
    return train_rows, test_rows


def stated_labels(data: LabelledImages, rows: Sequence[int]) -> FoundLabels | None:
    """The labels of a part as far as they are known before an image is opened; None for label maps."""
    found = data.stated_labels(rows)
    return None if found is None else _labels(data, found, data.classes)


def _labels(data: LabelledImages, found: Iterable[int], classes: Sequence[str]) -> FoundLabels:
    return FoundLabels(
        data.path, classes, found, "pixels", data.background, lambda: _without_masks(data), "has a label"
    )


def _without_masks(data: LabelledImages) -> str:
    return "; its objects have no masks: --boxes gives the whole box its class" if data.lacks_masks() else ""


@dataclass(slots=True)
class DenseReader:
    """Reads the parts of one evaluation with one model, and counts what they hold."""

    run: EvaluationRun
    settings: DenseSettings
    encoder: Encoder
    train: LabelledImages
    _found: list[int] = field(default_factory=list)  # classes that the train patches show

    def images(
        self, data: LabelledImages, rows: Sequence[int], side: str
    ) -> Iterator[tuple[int, Tensor, tuple[int, int], np.ndarray]]:
        """Each usable image, in no fixed order: row, patches (P, D) on the device, grid, and labels (H, W) in
        train classes.
        """
        settings, encoder = self.settings, self.encoder
        builder = encoder.query_builder(QueryConfig(("whole-image",), size=settings.query.size))
        dense_rows = DenseRows(data, rows, builder, train_positions(data, self.train))
        loader = WorkerLoader(dense_rows, workers=settings.read.workers, batch_size=None)
        counts = {"images": 0, "skipped": 0}
        what = f"{encoder.source or 'model'}, {side}"

        def queries() -> Iterator[tuple[tuple[int, np.ndarray], Query]]:
            for position, item in enumerate(loader):
                if settings.read.strict and item.skipped:
                    raise DataError(f"{item.skipped[0].what}: {item.skipped[0].why}")
                if item.foreign is not None:
                    raise DataError(
                        f"{data.path}: shows {item.foreign!r}, a class that {self.train.path} does not list"
                    )
                self.run.note_skipped(item.skipped)
                counts["skipped"] += len(item.skipped)
                if item.query is not None:
                    counts["images"] += 1
                    yield (rows[position], item.labels), item.query
                if self.run.progress is not None:
                    self.run.progress(what, position + 1, len(rows))

        for batch, _, tokens in encoder.run_queries(queries(), builder, settings.read.batch_size):
            patches = tokens.patches.float()
            if not bool(patches.isfinite().all()):
                raise OdisError(
                    f"{side} features hold values that are not finite: the model's weights or its "
                    f"precision are at fault"
                )
            for i, ((row, labels), _) in enumerate(batch):
                yield row, patches[i], tokens.grid, labels
        self.run.sides[side] = {
            "index": data.path,
            "provenance": data.provenance,
            **counts,
            "classes": len(data.classes),
        }

    def bank(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Train patches: features float32 (n, D), shares of their area in each class float32 (n, C), and
        their image int64 (n,); CPU.
        """
        features, shares, images = [], [], []
        most = max(1, self.settings.max_patches // len(rows))
        for row, patches, grid, labels in self.images(self.train, rows, "train"):
            of_patch = torch.from_numpy(patch_label_shares(labels, grid, len(self.train.classes)))
            usable = (of_patch.sum(1) > 0).nonzero()[:, 0]
            if len(usable) > most:
                usable = usable[
                    np.random.default_rng([self.settings.seed, row]).permutation(len(usable))[:most].copy()
                ]
            features.append(patches[usable.to(patches.device)].cpu())
            shares.append(of_patch[usable])
            images.append(torch.full((len(usable),), row))
        if not features or not sum(len(f) for f in features):
            raise DataError(f"{self.train.path}: none of its images has a pixel with a label")
        self._found = torch.stack([part.sum(0) for part in shares]).sum(0).nonzero()[:, 0].tolist()
        require_classes(_labels(self.train, self._found, self.train.classes))
        # Batches come by image size: sorted, the bank does not depend on their order.
        order = torch.cat(images).argsort(stable=True)
        return torch.cat(features)[order], torch.cat(shares)[order], torch.cat(images)[order]

    def measure(
        self, data: LabelledImages, rows: Sequence[int], predict: Callable[[Tensor], Tensor]
    ) -> tuple[Score, dict[str, float]]:
        """mIoU of pixels, and the IoU of each class that occurs.

        Args:
            data: The test part.
            rows: Which images.
            predict: From patches (P, D) to scores of classes (P, C); the scores are resized to the image
                before the highest is taken.
        """
        counts: dict[int, np.ndarray] = {}
        for row, patches, grid, labels in self.images(data, rows, "test"):
            predicted = label_pixels(predict(patches), grid, labels.shape).cpu().numpy()
            counts[row] = overlaps(confusion(predicted, labels, len(self.train.classes), ignore=IGNORE))
        names = self.train.classes
        of_class = sum((c[2] for c in counts.values()), np.zeros(len(names), dtype=np.int64))
        if not of_class.any():
            raise DataError(f"{data.path}: none of its images has a pixel with a label")
        occurring = np.flatnonzero(of_class).tolist()
        require_measurable(_labels(self.train, self._found, names), _labels(data, occurring, names))
        if unseen := [names[c] for c in occurring if c not in self._found]:
            self.run.note([f"classes without a train pixel, whose IoU is 0: {', '.join(unseen)}"])
        score, by_class = iou_score(
            np.stack([counts[row] for row in sorted(counts)]), seed=self.settings.seed
        )
        return score, {
            name: round(float(v), 3) for name, v in zip(self.train.classes, by_class) if np.isfinite(v)
        }


def label_pixels(scores: Tensor, grid: tuple[int, int], size: tuple[int, ...]) -> Tensor:
    """The class of each pixel: scores of patches, resized bilinearly to the image, the highest taken.

    Args:
        scores: (P, C).
        grid: Rows and columns of patches.
        size: Height and width of the image in pixels.

    Returns:
        int64 (height, width).
    """
    maps = scores.T.reshape(1, -1, *grid)
    height, width = size
    if maps.shape[1] * height * width <= _AT_ONCE:
        return F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)[0].argmax(0)
    # Many classes on a large image: class by class, the best so far.
    best = torch.full((height, width), float("-inf"), device=scores.device)
    label = torch.zeros((height, width), dtype=torch.int64, device=scores.device)
    for c in range(maps.shape[1]):
        of_class = F.interpolate(maps[:, c : c + 1], (height, width), mode="bilinear", align_corners=False)[
            0, 0
        ]
        better = of_class > best
        best, label = torch.where(better, of_class, best), torch.where(better, c, label)
    return label
