"""Segmentation by a linear head on frozen patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odis.errors import OdisError
from odis.evaluation.asking import Each, Evaluation, Progress
from odis.evaluation.dense import PATCHES, DenseReader, DenseSettings, chosen_rows, overlap_notes
from odis.evaluation.label_maps import LabelledImages
from odis.evaluation.probe import Classifiers, Grid, choose_and_train
from odis.inference import Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSettings(DenseSettings):
    """How models are asked and what is kept (`DenseSettings`), and what heads are tried.

    Args:
        grid: Learning rates, weight decays and steps.
        held_out: Share of the train images on which the best of the grid is chosen. The test part is touched
            once, after that.
    """

    grid: Grid = field(default_factory=Grid)
    held_out: float = 0.1

    def check(self, encoders: Sequence[Encoder]) -> None:
        """See `DenseSettings.check`."""
        DenseSettings.check(self, encoders)
        self.grid.check()
        if not 0 < self.held_out < 1:
            raise OdisError(f"held-out {self.held_out:g} must be a share above 0 and below 1")


def evaluate_segment(
    encoders: Encoder | Sequence[Encoder],
    train: LabelledImages,
    test: LabelledImages,
    settings: SegmentSettings,
    progress: Progress | None = None,
    each: Each | None = None,
) -> dict[str, Any]:
    """Train a linear classifier of patches, and measure the pixels of `test`.

    A patch is trained with the shares of its area that each class has, which is the cross-entropy of its
    pixels under one prediction for all of them. Predictions are resized bilinearly to the image before the
    highest class is taken.

    Args:
        encoders: Models to compare.
        train: Images to train on.
        test: Images to label.
        settings: How.
        progress: Called after each image.
        each: Called with the results so far after each row.

    Returns:
        What `results.json` holds; the score is `mIoU` over classes in percent, with a 95 % bootstrap interval
        over test images; `iou` has that of each class, `chosen` what was chosen and its mIoU of held-out
        patches.

    Raises:
        OdisError: for parts without labels, classes of `test` that `train` does not list, or settings that do
            not fit.
    """
    encoders = [encoders] if isinstance(encoders, Encoder) else list(encoders)
    settings.check(encoders)
    run = Evaluation("segment", settings, progress, each)
    rows = (
        chosen_rows(train, settings.max_train, settings.seed),
        chosen_rows(test, settings.max_test, settings.seed),
    )
    run.notes = overlap_notes(train, rows[0], test, rows[1])
    for encoder in encoders:
        run.start()
        reader = DenseReader(run, settings, encoder, train)
        features, shares, images = reader.bank(rows[0])
        choice = choose_and_train(
            features.to(encoder.device), shares.to(encoder.device), images, settings.grid, patch_miou,
            classes=len(train.classes), share=settings.held_out, seed=settings.seed,
        )  # fmt: skip

        def predict(patches: Tensor, classifiers: Classifiers = choice.classifiers) -> Tensor:
            return classifiers.logits(patches)

        score, by_class = reader.measure(test, rows[1], predict)
        run.add(
            encoder,
            PATCHES,
            {"mIoU": score},
            iou=by_class,
            chosen=choice.as_dict(),
            train_patches=len(features),
        )
    return run.results()


def patch_miou(logits: Tensor, shares: Tensor) -> float:
    """Mean IoU in percent where every pixel has the class of its patch, by area; over classes that occur in
    either.

    Args:
        logits: (n, C).
        shares: float32 (n, C), shares of each patch's area.
    """
    classes = shares.shape[1]
    area = torch.zeros(classes, classes, dtype=torch.float64)  # predicted x labelled
    area.index_add_(0, logits.argmax(1).cpu(), shares.double().cpu())
    both, union = area.diagonal(), area.sum(0) + area.sum(1) - area.diagonal()
    occurs = union > 0
    return 100 * float((both[occurs] / union[occurs]).mean()) if occurs.any() else float(np.nan)
