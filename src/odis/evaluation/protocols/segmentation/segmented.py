"""Patches and pixel labels of images in a square view: what the protocols of segmentation share.

Letters: B images, P patches, D width, S side of the view, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from odis.errors import DataError, OdisError
from odis.evaluation.dense import train_positions
from odis.evaluation.label_maps import IGNORE
from odis.evaluation.measurable import FoundLabels, require_classes, require_measurable
from odis.evaluation.protocols.images.store import FeatureStore, Made, files_key, model_key
from odis.evaluation.protocols.images.stream import in_order
from odis.evaluation.protocols.layouts.segmentation import SegmentedImages
from odis.evaluation.protocols.projection import seconds_shown
from odis.evaluation.protocols.segmentation.segmented_settings import SegmentedSettings
from odis.evaluation.protocols.segmentation.segmented_views import LabelledView
from odis.evaluation.runner import EvaluationRun
from odis.evaluation.subset import draw_rows, overlap_note, real_path
from odis.inference import Encoder
from odis.types import Skipped


@dataclass(frozen=True, slots=True)
class LabelCoding:
    """From the labels of a part to those that are learned and scored.

    Args:
        positions: int32, the class of each label of the part; -1 for one that the train part does not list.
        classes: Names.
        fill: Class that ignored pixels get; None leaves them ignored.
    """

    positions: np.ndarray
    classes: list[str]
    fill: int | None = None

    @staticmethod
    def of(
        part: SegmentedImages, train: SegmentedImages, *, published: bool, fill: int | None = None
    ) -> LabelCoding:
        """The coding of a part, with the classes of the train part.

        Args:
            part: Whose labels.
            train: Whose classes.
            published: Count classes as the references do: with ADE20K's class 0, which no label has.
            fill: See the class.
        """
        classes = train.published_classes if published else train.images.classes
        positions = train_positions(part.images, train.images)
        shift = len(classes) - len(train.images.classes)
        return LabelCoding(np.where(positions < 0, -1, positions + shift).astype(np.int32), classes, fill)

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """int16 (H, W) of int (H, W).

        Raises:
            DataError: A class that the train part does not list; the message is its position.
        """
        known = labels != IGNORE
        coded = np.full(labels.shape, IGNORE if self.fill is None else self.fill, np.int16)
        coded[known] = self.positions[labels[known]]
        return coded


@dataclass(slots=True)
class SegmentedItem:
    """One image as it is shown, with its labels."""

    number: int
    pixels: np.ndarray  # uint8 (3, S, S)
    labels: np.ndarray  # int16 (S, S), IGNORE where nothing is known
    skipped: list[Skipped]
    foreign: str = ""  # a class it shows that the train part does not list


class SegmentedViews(Dataset["SegmentedItem | Skipped"]):
    """Reads images and label maps and shows them, once or in several passes.

    Args:
        part: The images.
        rows: Which of them.
        view: How they are shown.
        coding: What the labels become.
        seed: Of what the view draws, which depends on the pass and the row.
        passes: How often each is shown.
        first: Number of the first pass.
    """

    def __init__(
        self,
        part: SegmentedImages,
        rows: Sequence[int],
        view: LabelledView,
        coding: LabelCoding,
        *,
        seed: int = 0,
        passes: int = 1,
        first: int = 0,
    ) -> None:
        self.part, self.rows, self.view, self.coding = part, rows, view, coding
        self.seed, self.passes, self.first = seed, passes, first

    def __len__(self) -> int:
        return len(self.rows) * self.passes

    def row(self, number: int) -> int:
        """The row of an item."""
        return self.rows[number % len(self.rows)]

    def __getitem__(self, number: int) -> SegmentedItem | Skipped:
        images, row = self.part.images, self.row(number)
        path = images.image_path(row)
        try:
            image, labels, skipped = images.read(row)
        except DataError as error:
            return Skipped(path, str(error).removeprefix(f"{path}: "))
        found = np.unique(labels[labels != IGNORE])
        foreign = found[self.coding.positions[found] < 0]
        if len(foreign):
            return SegmentedItem(number, np.empty(0), np.empty(0), skipped, images.classes[int(foreign[0])])
        rng = np.random.default_rng([self.seed, self.first + number // len(self.rows), row])
        pixels, labels = self.view(image, labels, rng)
        return SegmentedItem(number, pixels, self.coding(labels), skipped)


class _Chosen(Dataset["SegmentedItem | Skipped"]):
    """Some items of a data set."""

    def __init__(self, views: SegmentedViews, numbers: Sequence[int]) -> None:
        self.views, self.numbers = views, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> SegmentedItem | Skipped:
        return self.views[self.numbers[i]]


Finish = Callable[[int, Tensor, np.ndarray], Made]
"""From the number of an item, its patches (P, D) on the device and its labels (S, S) to what is kept."""


@dataclass(slots=True)
class SegmentedReader:
    """Shows parts to one model, and counts what they hold.

    Attributes:
        grid: Rows and columns of patches, once an image was shown.
    """

    run: EvaluationRun
    encoder: Encoder
    settings: SegmentedSettings
    grid: tuple[int, int] = (0, 0)
    _keys: dict[str, Any] = field(default_factory=dict)

    def stream(
        self, views: SegmentedViews, side: str, finish: Finish, *, keep: bool = True, **key: Any
    ) -> Iterator[tuple[int, Made]]:
        """What is kept of each image that can be read, in order, from the cache where it is there.

        Args:
            views: The images.
            side: `train` or `test`.
            finish: What to keep.
            keep: Whether the cache, if there is one, takes it.
            key: What `finish` depends on besides the views.

        Raises:
            DataError: With `--strict`, for the first image that cannot be read; a class that the train part
                does not list.
            OdisError: Features that are not finite.
        """
        part, count, skipped = views.part, len(views), set()
        what = f"{self.encoder.source or 'model'}, {side}"
        store = self.store(views, **key) if keep else FeatureStore("", {})
        for number, item in store.stream(count, lambda numbers: self._made(views, side, finish, numbers)):
            if isinstance(item, Skipped):
                self.run.skip(item)
                skipped.add(views.row(number))
            else:
                self.grid = (int(item["grid"][0]), int(item["grid"][1]))
                yield number, item
            if self.run.progress is not None:
                self.run.progress(what, number + 1, count)
        self.run.sides[side] = {
            "index": part.images.path,
            "provenance": part.images.provenance,
            "images": len(views.rows) - len(skipped),
            "skipped": len(skipped),
            "classes": len(views.coding.classes),
        }

    def store(self, views: SegmentedViews, **key: Any) -> FeatureStore:
        """Where what is made of views is kept, if anywhere; see `stream`."""
        folder = self.settings.cache
        return FeatureStore(folder, self.key(views) | key if folder else {})

    def collect(
        self, views: SegmentedViews, finish: Finish, what: str
    ) -> tuple[list[Tensor], list[np.ndarray]]:
        """`patches` and `labels` of what is kept of each test image that can be read.

        Raises:
            OdisError: None can be read.
        """
        patches, labels = [], []
        for _, made in self.stream(views, "test", finish, what=what):
            patches.append(torch.from_numpy(made["patches"].copy()))
            labels.append(made["labels"].copy())
        if not patches:
            raise OdisError(f"{views.part.images.path}: none of its images could be read")
        return patches, labels

    def seconds(self, views: SegmentedViews, finish: Finish) -> float:
        """Seconds that a view takes to be read, shown and finished."""

        def show(items: Sequence[SegmentedItem]) -> None:
            usable = [item for item in items if not item.foreign]
            if usable:
                list(self._finished(usable, "test", finish))

        return seconds_shown(views, show, self.encoder, self.settings.read)

    def key(self, views: SegmentedViews) -> dict[str, Any]:
        """What all that is made of views depends on."""
        images = views.part.images
        if not self._keys:
            self._keys = model_key(self.encoder)
        return self._keys | {
            "files": files_key(path for row in views.rows for path in images.files(row)),
            "classes": views.coding.classes,
            "view": repr(views.view),
            "fill": views.coding.fill,
            "seed": [views.seed, views.first, views.passes],
        }

    def _made(
        self, views: SegmentedViews, side: str, finish: Finish, numbers: Sequence[int]
    ) -> Iterator[tuple[int, Made | Skipped]]:
        def finished(items: list[SegmentedItem]) -> Iterator[Made]:
            for item in items:
                if item.foreign:
                    raise DataError(
                        f"{views.part.images.path}: shows {item.foreign!r}, a class that the train part does "
                        f"not list"
                    )
                self.run.skip(*item.skipped)
            return self._finished(items, side, finish)

        return in_order(self.run, _Chosen(views, numbers), numbers, finished)

    def _finished(self, items: Sequence[SegmentedItem], side: str, finish: Finish) -> Iterator[Made]:
        patches, grid = self.patches(np.stack([item.pixels for item in items]), side)
        self.grid = grid
        for item, of_image in zip(items, patches, strict=True):
            yield finish(item.number, of_image, item.labels) | {"grid": np.array(grid, np.int32)}

    def patches(self, pixels: np.ndarray, side: str) -> tuple[Tensor, tuple[int, int]]:
        """Patch features of B views, uint8 (B, 3, S, S): float32 (B, P, D) on the device, and their grid.

        Raises:
            OdisError: Features that are not finite, or a grid that does not tile the view.
        """
        tokens = self.encoder.tokens(pixels)
        patches, grid = tokens.patches.float(), tokens.grid
        if not bool(patches.isfinite().all()):
            raise OdisError(
                f"{side} features hold values that are not finite: the model's weights or its precision are "
                f"at fault"
            )
        view = pixels.shape[-1]
        if view % grid[0] or view % grid[1]:
            raise OdisError(f"size {view}: {grid[0]} x {grid[1]} patches do not tile the view")
        return patches, grid


def draw_segmented(
    run: EvaluationRun, train: SegmentedImages, test: SegmentedImages
) -> tuple[Sequence[int], Sequence[int]]:
    """Rows of both parts, drawn as the run's settings say. Images that are in both are noted in the run.

    Raises:
        DataError: Nothing could be measured: see `require_measurable`. Labels are read until that is clear.
    """
    settings = run.settings
    train_rows = draw_rows(train.count, settings.max_train, settings.seed)
    test_rows = draw_rows(test.count, settings.max_test, settings.seed)
    paths = {real_path(test.images.image_path(i)) for i in test_rows}
    run.note(overlap_note(len(paths & {real_path(train.images.image_path(i)) for i in train_rows})))
    require_measurable(_labels(train, train_rows), _labels(test, test_rows))
    return train_rows, test_rows


def draw_test(run: EvaluationRun, test: SegmentedImages) -> Sequence[int]:
    """Rows of a part on which alone is measured.

    Raises:
        DataError: It has no label, only the background, or one class.
    """
    rows = draw_rows(test.count, run.settings.max_test, run.settings.seed)
    require_classes(_labels(test, rows))
    return rows


def _labels(part: SegmentedImages, rows: Sequence[int]) -> FoundLabels:
    def found() -> Iterator[int]:
        for row in rows:
            try:
                yield from np.unique(part.images.read(row)[1]).tolist()
            except DataError:  # named when it is shown
                continue

    return FoundLabels(part.images.path, part.images.classes, found(), "pixels", part.images.background)
