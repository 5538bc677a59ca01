"""Segmentation by neighbours: every patch of a test image takes the labels of the train patches most like it.
Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odis.errors import OdisError
from odis.evaluation.asking import Each, Evaluation, Progress
from odis.evaluation.dense import PATCHES, DenseReader, DenseSettings, chosen_rows, overlap_notes
from odis.evaluation.label_maps import LabelledImages
from odis.evaluation.neighbours import NearestNeighbours
from odis.inference import Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseKnnSettings(DenseSettings):
    """How models are asked and what is kept (`DenseSettings`), and how neighbours vote.

    Args:
        k: Neighbours of a patch.
        temperature: A neighbour votes exp(cosine / temperature) for the classes it shows, by their shares of
            its area.
    """

    k: int = 30
    temperature: float = 0.07

    def check(self, encoders: Sequence[Encoder]) -> None:
        """See `DenseSettings.check`."""
        DenseSettings.check(self, encoders)
        if self.k < 1:
            raise OdisError(f"k {self.k} must be 1 or more")
        if not self.temperature > 0:
            raise OdisError(f"temperature {self.temperature:g} must be above 0")


def evaluate_dense_knn(
    encoders: Encoder | Sequence[Encoder],
    train: LabelledImages,
    test: LabelledImages,
    settings: DenseKnnSettings,
    progress: Progress | None = None,
    each: Each | None = None,
) -> dict[str, Any]:
    """Label the pixels of `test` by the nearest train patches (as Balazevic et al., 2023, do with overlapping
    neighbourhoods of patches).

    Args:
        encoders: Models to compare.
        train: Images whose patches vote.
        test: Images to label.
        settings: How.
        progress: Called after each image.
        each: Called with the results so far after each row.

    Returns:
        What `results.json` holds; the score is `mIoU` over classes in percent, with a 95 % bootstrap interval
        over test images; `iou` has that of each class.

    Raises:
        OdisError: for parts without labels, classes of `test` that `train` does not list, or settings that do
            not fit.
    """
    encoders = [encoders] if isinstance(encoders, Encoder) else list(encoders)
    settings.check(encoders)
    run = Evaluation("dense-knn", settings, progress, each)
    rows = (
        chosen_rows(train, settings.max_train, settings.seed),
        chosen_rows(test, settings.max_test, settings.seed),
    )
    run.notes = overlap_notes(train, rows[0], test, rows[1])
    for encoder in encoders:
        run.start()
        reader = DenseReader(run, settings, encoder, train)
        features, shares, _ = reader.bank(rows[0])
        if len(features) < settings.k:
            raise OdisError(f"k {settings.k} must be from 1 to the {len(features)} train patches")
        features, shares = features.to(encoder.device), shares.to(encoder.device)

        def predict(patches: Tensor, features: Tensor = features, shares: Tensor = shares) -> Tensor:
            return neighbour_shares(patches, features, shares, settings.k, settings.temperature)

        score, by_class = reader.measure(test, rows[1], predict)
        run.add(encoder, PATCHES, {"mIoU": score}, iou=by_class, train_patches=len(features))
    return run.results()


def neighbour_shares(patches: Tensor, features: Tensor, shares: Tensor, k: int, temperature: float) -> Tensor:
    """Votes of the k nearest train patches: each exp(cosine / temperature), split over classes as its area
    is; they sum to at most 1.

    Args:
        patches: (P, D).
        features: (n, D), of train patches.
        shares: float32 (n, C).
        k: Neighbours, at most n.
        temperature: Of the votes.

    Returns:
        float32 (P, C).
    """
    nearest = NearestNeighbours(patches, k, patches.device)
    nearest.add(features)
    similarity, rows = nearest.read()
    votes = (similarity / temperature).softmax(1)
    return torch.einsum("pk,pkc->pc", votes, shares[rows])
