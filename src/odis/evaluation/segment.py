"""Segmentation by a linear head on frozen patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from odis.evaluation.dense_settings import PATCHES, DenseData, DenseSettings
from odis.evaluation.evaluation import Evaluation, Models, OnRow, Progress, Titles
from odis.evaluation.settings import Grid, check_held_out

if TYPE_CHECKING:
    from odis.evaluation.label_maps import LabelledImages
    from odis.inference import Encoder


@dataclass(frozen=True, kw_only=True)
class SegmentSettings(DenseSettings):
    """Settings of the linear segmentation.

    Args:
        grid: Heads to try.
        held_out: Share of the train images that chooses among them. The test part is used once, after that.
    """

    grid: Grid = field(default_factory=Grid)
    held_out: float = 0.1

    def check(self) -> None:
        """See `DenseSettings.check`."""
        DenseSettings.check(self)
        self.grid.check()
        check_held_out(self.held_out)


def evaluate_segment(
    encoders: Encoder | Sequence[Encoder],
    train: LabelledImages,
    test: LabelledImages,
    settings: SegmentSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
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
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; the score is `mIoU` over classes in percent, with a 95 % bootstrap interval
        over test images; `iou` has that of each class, `chosen` what was chosen and its mIoU of held-out
        patches.

    Raises:
        OdisError: for parts without labels, classes of `test` that `train` does not list, or settings that do
            not fit.
    """
    from odis.evaluation.dense import DenseReader, draw_parts
    from odis.evaluation.probe import choose_and_train, patch_miou
    from odis.evaluation.runner import EvaluationRun

    run = EvaluationRun("segment", encoders, settings, progress, on_row)
    train_rows, test_rows = draw_parts(run, train, test)
    for encoder in run.encoders:
        run.start()
        reader = DenseReader(run, settings, encoder, train)
        features, shares, images = reader.bank(train_rows)
        choice = choose_and_train(
            features.to(encoder.device),
            shares.to(encoder.device),
            images,
            settings.grid,
            patch_miou,
            classes=len(train.classes),
            share=settings.held_out,
            seed=settings.seed,
        )
        score, by_class = reader.measure(test, test_rows, choice.classifiers.logits)
        chosen, count = choice.as_dict(), len(features)
        run.add(encoder, PATCHES, {"mIoU": score}, iou=by_class, chosen=chosen, train_patches=count)
    return run.results()


def _run(
    models: Models,
    data: DenseData,
    settings: SegmentSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    train, test = data.open()
    return evaluate_segment(models(), train, test, settings, progress, on_row)


EVALUATION = Evaluation(
    name="segment",
    summary="Label pixels by a linear classifier of patches: mIoU",
    data=DenseData(),
    settings=SegmentSettings(),
    run=_run,
    titles={
        "segment": Titles(
            "linear segmentation: {test}, trained on {train}",
            "Segmentation",
            "How well patch features tell objects and ground apart. Higher is better.",
        )
    },
)
