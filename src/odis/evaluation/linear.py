"""Linear probe: a linear classifier on frozen features of objects or images, single- or multi-label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odis.errors import DataError, OdisError
from odis.evaluation.asking import Asking, Each, Evaluation, Progress
from odis.evaluation.parts import Part, in_train_classes, overlap_note
from odis.evaluation.probe import Grid, choose_and_train
from odis.evaluation.scores import Score, accuracy_score, average_precision, mean_average_precision_score
from odis.inference import Encoder, IndexFeatures
from odis.objects.index import ObjectIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSettings(Asking):
    """How models are asked (`Asking`), and what classifiers are tried.

    Args:
        grid: Learning rates, weight decays and steps.
        held_out: Share of the train images on which the best of the grid is chosen. The test part is touched
            once, after that.
        multi_label: Images may have any number of labels, and the score is mAP; by default if any image has
            several.
    """

    grid: Grid = field(default_factory=Grid)
    held_out: float = 0.1
    multi_label: bool | None = None

    def check(self, encoders: Sequence[Encoder]) -> None:
        """See `Asking.check`."""
        Asking.check(self, encoders)
        self.grid.check()
        if not 0 < self.held_out < 1:
            raise OdisError(f"held-out {self.held_out:g} must be a share above 0 and below 1")
        if self.multi_label and not self.images:
            raise OdisError("multi-label goes with images: an object has one label")


def evaluate_linear(
    encoders: Encoder | Sequence[Encoder],
    train: ObjectIndex | Part,
    test: ObjectIndex | Part,
    settings: LinearSettings,
    progress: Progress | None = None,
    each: Each | None = None,
) -> dict[str, Any]:
    """Train a linear classifier on the features of `train`, and measure it on `test`.

    The grid is trained on a part of the train images and the best is chosen on the others; it is trained
    again on all of them and meets the test part once. Classes are matched by name. Train features are held in
    memory: about 8 D bytes an object at the peak.

    Args:
        encoders: Models to compare, on the same objects.
        train: Index to train on, or a part of it.
        test: Index to measure on, or a part of it.
        settings: How.
        progress: Called after each image.
        each: Called with the results so far after each row.

    Returns:
        What `results.json` holds; scores are `top-1` accuracy, or `mAP` over classes if images have several
        labels, in percent with 95 % bootstrap intervals over test images; `chosen` says what was chosen, and
        the score on held-out images.

    Raises:
        OdisError: for labels that are missing or of classes the train index does not have, or settings that
            do not fit.
    """
    encoders = [encoders] if isinstance(encoders, Encoder) else list(encoders)
    settings.check(encoders)
    train = Part.of(train, settings.max_train, settings.seed) if isinstance(train, ObjectIndex) else train
    test = Part.of(test, settings.max_test, settings.seed) if isinstance(test, ObjectIndex) else test
    multi = bool(settings.multi_label)
    if settings.images and settings.multi_label is None:
        multi = has_several_labels(train) or has_several_labels(test)
    require_labels((train, test), settings, multi)
    run = Evaluation("linear", settings, progress, each, several=multi)
    run.notes = overlap_note(test, train)
    for encoder, mode in run.asked(encoders):
        known, asked = labelled_features(run, encoder, mode, train, test, multi)
        classes = len(train.index.classes)
        targets = [targets_of(f, classes, multi) for f in (known, asked)]
        choice = choose_and_train(
            known.features.to(encoder.device),
            targets[0].to(encoder.device),
            known.rows,
            settings.grid,
            _mean_ap if multi else _accuracy,
            classes=classes,
            share=settings.held_out,
            seed=settings.seed,
        )
        logits = choice.classifiers.logits(asked.features.to(encoder.device)).cpu()
        run.add(
            encoder, mode, scores_of(logits, targets[1], asked.rows, settings.seed), chosen=choice.as_dict()
        )
    return run.results()


def has_several_labels(part: Part) -> bool:
    """Whether an image of the part has objects of more than one class."""
    for i in part.rows:
        try:
            if len({item.label for item in part.index[i].objects if item.label is not None}) > 1:
                return True
        except DataError:  # named when features are made
            continue
    return False


def require_labels(parts: Sequence[Part], settings: Asking, multi: bool) -> None:
    """Raise `DataError` for a part without a label that could be used."""
    for part in parts:
        if not part.labelled(1, images=settings.images, several=multi):
            having = (
                "images has a label"
                if multi
                else "images has exactly one label"
                if settings.images
                else "objects has a label"
            )
            raise DataError(
                f"{part.index.path}: none of its {having}; this evaluation needs a labelled index"
            )


def labelled_features(
    run: Evaluation, encoder: Encoder, mode: str, train: Part, test: Part, multi: bool
) -> tuple[IndexFeatures, IndexFeatures]:
    """Features of both parts that have a label, those of the test part with labels of the train index. The
    test part comes first: it is the smaller one, and shows whether the classes fit.
    """
    both = []
    for part, side in ((test, "test"), (train, "train")):
        found = run.features(encoder, mode, part, side)
        usable = torch.tensor([bool(labels) for labels in found.label_sets]) if multi else found.labels >= 0
        if not usable.any():
            raise DataError(
                f"{part.index.path}: none of its images with labelled {run.settings.things} could be used"
            )
        found = found.select(usable)
        if not found.features.isfinite().all():
            raise OdisError(
                f"{side} features hold values that are not finite: the model's weights or its precision "
                f"are at fault"
            )
        if side == "test":
            used = torch.tensor([label for labels in found.label_sets for label in labels])
            position = in_train_classes(test.index, train.index, used).tolist()
            found.label_sets = [tuple(position[label] for label in labels) for labels in found.label_sets]
            found.labels = torch.tensor(
                [of_one[0] if len(of_one) == 1 else -1 for of_one in found.label_sets]
            )
        both.append(found)
    return both[1], both[0]


def targets_of(found: IndexFeatures, classes: int, multi: bool) -> Tensor:
    """int64 (n,), or bool (n, classes) where there may be several labels."""
    return found.targets(classes) if multi else found.labels


def scores_of(logits: Tensor, targets: Tensor, rows: Tensor, seed: int) -> dict[str, Score]:
    """`mAP` or `top-1` of a classifier."""
    if targets.dtype == torch.bool:
        return {"mAP": mean_average_precision_score(logits, targets, rows, seed=seed)}
    return {"top-1": accuracy_score(logits.argmax(1) == targets, rows, seed=seed)}


def _accuracy(logits: Tensor, targets: Tensor) -> float:
    return 100 * (logits.argmax(1) == targets).double().mean().item()


def _mean_ap(logits: Tensor, targets: Tensor) -> float:
    logits, targets = logits.cpu(), targets.cpu()
    values = [average_precision(logits[:, c], targets[:, c]) for c in targets.any(0).nonzero()[:, 0].tolist()]
    return 100 * float(np.mean(values)) if values else float("nan")
