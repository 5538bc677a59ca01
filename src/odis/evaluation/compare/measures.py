"""From what two networks say of one data set to scores, their differences, and why a measure is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odis.config.wording import counted
from odis.errors import DataError, OdisError
from odis.evaluation.compare.features import BETA, NEIGHBOURS, BothFeatures, PartFeatures
from odis.evaluation.compare.reading import Asked
from odis.evaluation.compare.settings import CompareSettings
from odis.evaluation.measurable import (
    FoundLabels,
    labels_in,
    require_measurable,
    require_varied,
    without_example,
)
from odis.evaluation.neighbours import NearestNeighbours, vote
from odis.evaluation.paired import PairedScore, paired_iou, paired_map, paired_mean
from odis.evaluation.probe import accuracy, choose_and_train, mean_average_precision
from odis.evaluation.subset import Subset, in_train_classes

OBJECT_KNN, OBJECT_LINEAR = "object k-NN", "object linear probe"
IMAGE_KNN, IMAGE_MAP, HUMMINGBIRD = "image k-NN", "image mAP", "hummingbird mIoU"


@dataclass(slots=True)
class Measured:
    """Measures of one data set, in order; and those that are left out, with the reason."""

    rows: list[dict[str, Any]]
    left_out: list[dict[str, str]]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Side:
    """Labelled objects or images of one part."""

    which: Tensor  # int64, positions among all
    labels: Tensor  # int64, in classes of the train index; or bool (n, C)
    rows: Tensor  # int64, the image of each
    used: Tensor  # int64, all their labels: an image may have several


def measure(
    found: BothFeatures, asked: Sequence[Asked], train: Subset, test: Subset, settings: CompareSettings
) -> Measured:
    """Every measure that a data set has.

    Args:
        found: What both networks say of it.
        asked: The two networks.
        train: The train part.
        test: The test part.
        settings: How.
    """
    measured = Measured([], [], [])
    common = [mode for mode in settings.query.modes if all(mode in one.modes for one in asked)]
    for mode in settings.query.modes:
        for one in asked:
            if mode not in one.modes:
                why = f"{one.encoder.source} has no such mode; it has {', '.join(one.encoder.modes)}"
                measured.left_out.append({"measure": f"objects by {mode}", "why": why})

    def attempt(name: str, make: Callable[[], Iterator[tuple[str, str, PairedScore]]]) -> None:
        try:
            for measure, mode, score in make():
                measured.rows.append({"measure": measure, "mode": mode, **score.as_dict()})
        except OdisError as error:
            measured.left_out.append({"measure": name, "why": str(error)})

    data = _Measuring(found, asked, train, test, settings, measured)
    if common:
        attempt("objects", lambda: data.objects(common))
    attempt(HUMMINGBIRD, data.patches)
    attempt("images", data.images)
    return measured


@dataclass(slots=True)
class _Measuring:
    found: BothFeatures
    asked: Sequence[Asked]
    train: Subset
    test: Subset
    settings: CompareSettings
    measured: Measured

    def objects(self, modes: Sequence[str]) -> Iterator[tuple[str, str, PairedScore]]:
        """k-NN in every mode, and a linear probe in the first."""
        known, unseen = self._sides(_labelled_objects, images=False)
        for mode in modes:
            yield self._knn(OBJECT_KNN, mode, known, unseen, partial(_object_features, mode=mode))
        features = partial(_object_features, mode=modes[0])
        right = [self._probe(k, known, unseen, features).argmax(1) == unseen.labels for k in range(2)]
        yield OBJECT_LINEAR, modes[0], paired_mean(right[0], right[1], unseen.rows, seed=self.settings.seed)

    def images(self) -> Iterator[tuple[str, str, PairedScore]]:
        """mAP of whole images by a linear probe; and k-NN, where no image has several labels."""
        classes = len(self.train.index.classes)
        sets = [_label_sets(part) for part in (self.found.train, self.found.test)]
        known, unseen = self._sides(_labelled_images, images=True)
        if all(len(labels) <= 1 for of_part in sets for labels in of_part):
            yield self._knn(IMAGE_KNN, "whole-image", known, unseen, _image_features)
        targets = [
            _targets(of_part, side.which, positions, classes)
            for of_part, side, positions in zip(sets, (known, unseen), (None, self._positions()), strict=True)
        ]
        names = self.train.index.classes
        require_varied(labels_in(self.test, unseen.used, images=True, classes=names), targets[1])
        learned = _Side(known.which, targets[0], known.rows, known.used)
        scores = [self._probe(k, learned, unseen, _image_features) for k in range(2)]
        yield (
            IMAGE_MAP,
            "whole-image",
            paired_map(scores[0], scores[1], targets[1], unseen.rows, seed=self.settings.seed),
        )

    def patches(self) -> Iterator[tuple[str, str, PairedScore]]:
        """mIoU of patches that are labelled by their nearest in the memory."""
        if not all(one.has_patches for one in self.asked):
            raise OdisError("a network has no patches")
        if not self.found.memories:
            raise OdisError("no pixel has a label; give objects with labels, or --maps")
        held = self.found.memories[0].held
        if held < NEIGHBOURS:
            raise OdisError(
                f"{counted(held, 'train patch has a label', 'train patches have labels')}, fewer than the "
                f"{NEIGHBOURS} that vote"
            )
        if not self.found.overlaps[0]:
            raise OdisError("no test image has labels of pixels")
        counts = [np.stack(of_one) for of_one in self.found.overlaps]
        occurring = np.flatnonzero(counts[0][:, 2].sum(0))
        if len(occurring) < 2:
            raise OdisError("the test pixels are of one class: any features would score 100")
        yield (
            HUMMINGBIRD,
            f"patches, memory {held:,}, beta {BETA:g}",
            paired_iou(counts[0], counts[1], seed=self.settings.seed),
        )

    def _positions(self) -> Tensor:
        """Classes of the test index as positions in the train index."""
        used = [label for labels in self.found.test.labels for label in labels if label >= 0]
        return in_train_classes(self.test.index, self.train.index, torch.tensor(used, dtype=torch.int64))

    def _sides(self, labelled: Callable[[PartFeatures], _Side], *, images: bool) -> tuple[_Side, _Side]:
        """Both parts, the labels of the test part in the classes of the train part.

        Raises:
            DataError: Nothing could be measured by these labels.
        """
        known, unseen = labelled(self.found.train), labelled(self.found.test)
        unit, names = "images" if images else "objects", self.train.index.classes
        for side, subset in ((known, self.train), (unseen, self.test)):
            if not len(side.which):
                raise DataError(f"{subset.index.path}: none of its {unit} has a label")
        positions = self._positions()
        unseen = _Side(unseen.which, positions[unseen.labels], unseen.rows, positions[unseen.used])
        found: list[FoundLabels] = [
            labels_in(subset, side.used, images=images, classes=names)
            for side, subset in ((known, self.train), (unseen, self.test))
        ]
        require_measurable(*found)
        for note in without_example(known.used, unseen.used, names, unit):
            if note not in self.measured.notes:
                self.measured.notes.append(note)
        return known, unseen

    def _knn(
        self,
        name: str,
        mode: str,
        known: _Side,
        unseen: _Side,
        features: Callable[[PartFeatures, int], Tensor],
    ) -> tuple[str, str, PairedScore]:
        k = self.settings.k
        if len(known.which) < k:
            raise OdisError(f"k {k} must be from 1 to the {counted(len(known.which), 'train object')}")
        right = []
        for n, one in enumerate(self.asked):
            nearest = NearestNeighbours(features(self.found.test, n)[unseen.which], k, one.encoder.device)
            nearest.add(features(self.found.train, n)[known.which])
            similarity, rows = nearest.read()
            voted = vote(
                similarity,
                known.labels[rows.cpu()].to(rows.device),
                (k,),
                temperature=self.settings.temperature,
                classes=len(self.train.index.classes),
            )
            right.append(voted[k].cpu() == unseen.labels)
        return name, mode, paired_mean(right[0], right[1], unseen.rows, seed=self.settings.seed)

    def _probe(
        self, network: int, known: _Side, unseen: _Side, features: Callable[[PartFeatures, int], Tensor]
    ) -> Tensor:
        """Logits of the test part, of a linear classifier of the train part: (n, C), on the CPU."""
        device, settings = self.asked[network].encoder.device, self.settings
        choice = choose_and_train(
            features(self.found.train, network)[known.which].to(device),
            known.labels.to(device),
            known.rows,
            settings.grid,
            mean_average_precision if known.labels.dtype == torch.bool else accuracy,
            classes=len(self.train.index.classes),
            share=settings.held_out,
            seed=settings.seed,
        )
        return choice.classifiers.logits(features(self.found.test, network)[unseen.which].to(device)).cpu()


def _object_features(part: PartFeatures, network: int, mode: str) -> Tensor:
    return part.object_features(network, mode)


def _image_features(part: PartFeatures, network: int) -> Tensor:
    return torch.stack(part.images[network])


def _labelled_objects(part: PartFeatures) -> _Side:
    labels, rows = part.object_labels()
    which = (labels >= 0).nonzero()[:, 0]
    return _Side(which, labels[which], rows[which], labels[which])


def _label_sets(part: PartFeatures) -> list[tuple[int, ...]]:
    return [tuple(sorted({label for label in labels if label >= 0})) for labels in part.labels]


def _labelled_images(part: PartFeatures) -> _Side:
    """Images with a label; `labels` are the first of each."""
    sets = _label_sets(part)
    which = torch.tensor([i for i, labels in enumerate(sets) if labels], dtype=torch.int64)
    firsts = torch.tensor([labels[0] for labels in sets if labels], dtype=torch.int64)
    used = torch.tensor([label for labels in sets for label in labels], dtype=torch.int64)
    return _Side(which, firsts, torch.tensor(part.rows, dtype=torch.int64)[which], used)


def _targets(
    sets: Sequence[tuple[int, ...]], which: Tensor, positions: Tensor | None, classes: int
) -> Tensor:
    """bool (n, C): the labels of chosen images, as positions in the train index."""
    targets = torch.zeros(len(which), classes, dtype=torch.bool)
    for n, i in enumerate(which.tolist()):
        labels = torch.tensor(sets[i], dtype=torch.int64)
        targets[n, labels if positions is None else positions[labels]] = True
    return targets
