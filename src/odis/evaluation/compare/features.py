"""What two networks say of a train and a test part: kept where it is small, counted where it is not.

Features of objects and images are kept. Patches of the train part that the memory takes are kept; those of
the test part are labelled by the memory as they come, as `evaluate protocol hummingbird` labels them, and
only counts of pixels stay.

Letters: C classes, D width, P patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odis.errors import OdisError
from odis.evaluation.compare.reading import Asked, ImageFeatures, PixelLabels, ReadItem, read_part
from odis.evaluation.compare.settings import CompareSettings
from odis.evaluation.dense import label_pixels
from odis.evaluation.evaluation import Progress
from odis.evaluation.label_maps import IGNORE, patch_label_shares
from odis.evaluation.neighbours import NearestNeighbours
from odis.evaluation.protocols.segmentation.hummingbird_memory import sample_patches, soft_labels
from odis.evaluation.scores import confusion, overlaps
from odis.evaluation.subset import Subset
from odis.types import Skipped

NEIGHBOURS = 30
"""Patches of the memory that label a patch: those of `hummingbird`."""

BETA = 0.02
"""Temperature of their votes: that of `hummingbird`."""

_TOGETHER = 16  # images whose patches are searched at once


@dataclass(slots=True)
class PartFeatures:
    """What was read of one part: n objects in all, of m images."""

    objects: list[dict[str, list[Tensor]]]  # of each network, mode and image (n of the image, D)
    images: list[list[Tensor]]  # of each network and image (D,)
    rows: list[int] = field(default_factory=list)  # m, of the index
    labels: list[list[int]] = field(default_factory=list)  # of each image those of its objects, -1 for none
    skipped: list[Skipped] = field(default_factory=list)

    @staticmethod
    def of(asked: Sequence[Asked]) -> PartFeatures:
        """Nothing yet."""
        return PartFeatures([{mode: [] for mode in one.modes} for one in asked], [[] for _ in asked])

    def add(self, row: int, item: ReadItem, found: Sequence[ImageFeatures]) -> None:
        """One image."""
        self.skipped += item.skipped
        if not item.read:
            return
        self.rows.append(row)
        self.labels.append(item.labels)
        for kept, images, one in zip(self.objects, self.images, found, strict=True):
            images.append(one.image)
            for mode, features in one.objects.items():
                kept[mode].append(features)

    def object_labels(self) -> tuple[Tensor, Tensor]:
        """int64 (n,) each: the label of every object, and the row of its image."""
        labels = [label for of_image in self.labels for label in of_image]
        rows = [row for row, of_image in zip(self.rows, self.labels) for _ in of_image]
        return torch.tensor(labels, dtype=torch.int64), torch.tensor(rows, dtype=torch.int64)

    def object_features(self, network: int, mode: str) -> Tensor:
        """(n, D) of one network in one mode."""
        parts = self.objects[network][mode]
        return torch.cat(parts) if parts else torch.empty(0, 0)

    def counts(self, subset: Subset) -> dict[str, Any]:
        """For a results file."""
        labelled = sum(label >= 0 for of_image in self.labels for label in of_image)
        return {
            "index": subset.index.path,
            "provenance": subset.index.provenance,
            "images": len(self.rows),
            "objects": labelled,
            "unlabelled": sum(map(len, self.labels)) - labelled,
            "skipped": len(self.skipped),
            "classes": len(subset.index.classes),
        }


@dataclass(slots=True)
class PatchMemory:
    """Train patches of one network that label others, and what each shows.

    Args:
        most: Patches that are taken of an image.
        classes: C.
        seed: Of what is taken.
    """

    most: int
    classes: int
    seed: int
    features: list[Tensor] = field(default_factory=list)
    shares: list[Tensor] = field(default_factory=list)

    def add(self, row: int, item: ReadItem, found: ImageFeatures) -> None:
        """Take patches of an image, those of rare classes first."""
        if item.pixel_labels is None:
            return
        shares = patch_label_shares(item.pixel_labels, found.grid, self.classes)
        chosen = sample_patches(shares, self.most, np.random.default_rng([self.seed, row]))
        self.features.append(found.patches[torch.from_numpy(chosen).to(found.patches.device)])
        self.shares.append(torch.from_numpy(shares[chosen]))

    def close(self) -> None:
        """Put its parts together."""
        self.features = [torch.cat(self.features)] if self.features else []
        self.shares = [torch.cat(self.shares)] if self.shares else []

    @property
    def held(self) -> int:
        """How many patches there are."""
        return sum(map(len, self.features))

    def label(self, items: Sequence[tuple[ReadItem, ImageFeatures]]) -> list[np.ndarray]:
        """Of images that are labelled by it the pixels of each class: `scores.overlaps`, int64 (3, C)."""
        patches = torch.cat([found.patches for _, found in items])
        nearest = NearestNeighbours(patches, NEIGHBOURS, patches.device)
        nearest.add(self.features[0])
        similarity, rows = nearest.read()
        read = soft_labels(similarity, self.shares[0].to(patches.device)[rows], BETA, 1)
        counts, start = [], 0
        for item, found in items:
            assert item.pixel_labels is not None
            of_image = read[start : start + len(found.patches)]
            start += len(found.patches)
            predicted = label_pixels(of_image, found.grid, item.pixel_labels.shape)
            labels = torch.from_numpy(item.pixel_labels.astype(np.int64)).to(patches.device)
            counts.append(overlaps(confusion(predicted, labels, self.classes, ignore=IGNORE)))
        return counts


@dataclass(slots=True)
class BothFeatures:
    """All that two networks say of one data set."""

    train: PartFeatures
    test: PartFeatures
    memories: list[PatchMemory]
    overlaps: list[list[np.ndarray]]  # of each network and test image that has labels of pixels, int64 (3, C)


def read_both(
    asked: Sequence[Asked],
    train: Subset,
    test: Subset,
    pixels: tuple[PixelLabels, PixelLabels] | None,
    settings: CompareSettings,
    progress: Progress | None,
    name: str,
) -> BothFeatures:
    """Read both parts once with all networks.

    Args:
        asked: The networks.
        train: Images to learn from.
        test: Images to measure on.
        pixels: Labels of the pixels of each part, if there are some that can be told apart.
        settings: How.
        progress: Called after each image.
        name: Of the data, for the progress.

    Raises:
        DataError: See `read_part`.
        OdisError: See `read_part`.
    """
    dense = pixels is not None and all(one.has_patches for one in asked)
    parts = [PartFeatures.of(asked), PartFeatures.of(asked)]
    found = BothFeatures(parts[0], parts[1], [], [[] for _ in asked])
    if dense:
        assert pixels is not None
        classes = len(pixels[0].images.classes)
        most = max(1, settings.memory // max(1, len(train.rows)))
        found.memories = [PatchMemory(most, classes, settings.seed) for _ in asked]
    labels = pixels if dense and pixels is not None else (None, None)
    for row, item, features in read_part(asked, train, labels[0], settings.read, progress, f"{name}, train"):
        found.train.add(row, item, features)
        for memory, one in zip(found.memories, features):
            memory.add(row, item, one)
    for memory in found.memories:
        memory.close()
    enough = bool(found.memories) and found.memories[0].held >= NEIGHBOURS
    waiting: list[tuple[ReadItem, list[ImageFeatures]]] = []

    def label_waiting() -> None:
        for k, (memory, counts) in enumerate(zip(found.memories, found.overlaps)):
            if waiting:
                counts += memory.label([(item, features[k]) for item, features in waiting])
        waiting.clear()

    for row, item, features in read_part(asked, test, labels[1], settings.read, progress, f"{name}, test"):
        found.test.add(row, item, features)
        if enough and item.pixel_labels is not None:
            waiting.append((item, features))
        if len(waiting) == _TOGETHER:
            label_waiting()
    label_waiting()
    for part, subset in ((found.train, train), (found.test, test)):
        if not part.rows:
            raise OdisError(f"{subset.index.path}: none of its images could be used")
    return found
