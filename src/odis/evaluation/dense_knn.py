"""Segmentation by neighbours: every patch of a test image takes the labels of the train patches most like it.
Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.dense_settings import PATCHES, DenseData, DenseSettings
from odis.evaluation.evaluation import Evaluation, Models, OnRow, Progress, Titles
from odis.evaluation.settings import check_votes

if TYPE_CHECKING:
    from torch import Tensor

    from odis.evaluation.label_maps import LabelledImages
    from odis.inference import Encoder


@dataclass(frozen=True, kw_only=True)
class DenseKnnSettings(DenseSettings):
    """Settings of the k-NN of patches.

    Args:
        k: Neighbours of a patch.
        temperature: A neighbour votes exp(cosine / temperature) for the classes it shows, by their shares of
            its area.
    """

    k: int = 30
    temperature: float = 0.07

    def check(self) -> None:
        """See `DenseSettings.check`."""
        DenseSettings.check(self)
        check_votes((self.k,), self.temperature)


def evaluate_dense_knn(
    encoders: Encoder | Sequence[Encoder],
    train: LabelledImages,
    test: LabelledImages,
    settings: DenseKnnSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Label the pixels of `test` by the nearest train patches (as Balazevic et al., 2023, do with overlapping
    neighbourhoods of patches).

    Args:
        encoders: Models to compare.
        train: Images whose patches vote.
        test: Images to label.
        settings: How.
        progress: Called after each image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; the score is `mIoU` over classes in percent, with a 95 % bootstrap interval
        over test images; `iou` has that of each class.

    Raises:
        OdisError: for parts without labels, classes of `test` that `train` does not list, or settings that do
            not fit.
    """
    from odis.evaluation.dense import DenseReader, draw_parts
    from odis.evaluation.runner import EvaluationRun

    run = EvaluationRun("dense-knn", encoders, settings, progress, on_row)
    train_rows, test_rows = draw_parts(run, train, test)
    for encoder in run.encoders:
        run.start()
        reader = DenseReader(run, settings, encoder, train)
        features, shares, _ = reader.bank(train_rows)
        if len(features) < settings.k:
            raise OdisError(f"k {settings.k} must be from 1 to the {counted(len(features), 'train patch')}")
        features, shares = features.to(encoder.device), shares.to(encoder.device)

        def predict(patches: Tensor, features: Tensor = features, shares: Tensor = shares) -> Tensor:
            return neighbour_shares(patches, features, shares, settings.k, settings.temperature)

        score, by_class = reader.measure(test, test_rows, predict)
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
    import torch

    from odis.evaluation.neighbours import NearestNeighbours

    nearest = NearestNeighbours(patches, k, patches.device)
    nearest.add(features)
    similarity, rows = nearest.read()
    votes = (similarity / temperature).softmax(1)
    return torch.einsum("pk,pkc->pc", votes, shares[rows])


def _run(
    models: Models,
    data: DenseData,
    settings: DenseKnnSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    train, test = data.open()
    return evaluate_dense_knn(models(), train, test, settings, progress, on_row)


EVALUATION = Evaluation(
    name="dense-knn",
    summary="Label pixels by the nearest train patches: mIoU",
    data=DenseData(),
    settings=DenseKnnSettings(),
    run=_run,
    titles={
        "dense-knn": Titles(
            "k-NN of patches: {test}, labelled by {train}",
            "Dense k-NN",
            "Each test patch gets the class that its nearest train patches vote for. Higher is better.",
        )
    },
)
