"""Linear probe: a linear classifier on frozen features of objects or images, single- or multi-label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from odis.errors import OdisError
from odis.evaluation.evaluation import Evaluation, Models, OnRow, Progress, Titles
from odis.evaluation.settings import EvaluationSettings, Grid, TrainTest, check_held_out

if TYPE_CHECKING:
    from odis.evaluation.subset import Subset
    from odis.inference import Encoder
    from odis.objects.index import ObjectIndex


@dataclass(frozen=True, kw_only=True)
class LinearSettings(EvaluationSettings):
    """Settings of the linear probe.

    Args:
        grid: Classifiers to try.
        held_out: Share of the train images that chooses among them. The test part is used once, after that.
        multi_label: Images may have several labels, and the score is mAP; by default if any image has
            several.
    """

    grid: Grid = field(default_factory=Grid)
    held_out: float = 0.1
    multi_label: bool | None = None

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        EvaluationSettings.check(self)
        self.grid.check()
        check_held_out(self.held_out)
        if self.multi_label and not self.query.images:
            raise OdisError("multi-label goes with images: an object has one label")


def evaluate_linear(
    encoders: Encoder | Sequence[Encoder],
    train: ObjectIndex | Subset,
    test: ObjectIndex | Subset,
    settings: LinearSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Train a linear classifier on the features of `train`, and measure it on `test`.

    The grid is trained on a part of the train images and the best is chosen on the others; it is trained
    again on all of them and meets the test part once. Classes are matched by name. Train features are held in
    memory: about 8 D bytes an object at the peak.

    Args:
        encoders: Models to compare, on the same objects.
        train: Index to train on, or a subset of it.
        test: Index to measure on, or a subset of it.
        settings: How.
        progress: Called after each image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; scores are `top-1` accuracy, or `mAP` over classes if images have several
        labels, in percent with 95 % bootstrap intervals over test images; `chosen` says what was chosen, and
        the score on held-out images.

    Raises:
        OdisError: for labels that are missing or of classes the train index does not have, or settings that
            do not fit.
    """
    from odis.evaluation.labels import labelled_features
    from odis.evaluation.measurable import labels_of, require_measurable
    from odis.evaluation.probe import accuracy, choose_and_train, mean_average_precision
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.scores import accuracy_score, mean_average_precision_score
    from odis.evaluation.subset import Subset, overlap_note, shared_images

    run = EvaluationRun("linear", encoders, settings, progress, on_row)
    train = Subset.of(train, settings.max_train, settings.seed)
    test = Subset.of(test, settings.max_test, settings.seed)
    multi = bool(settings.multi_label)
    if settings.query.images and settings.multi_label is None:
        multi = train.has_several_labels() or test.has_several_labels()
    run.multi_label = multi
    sides = (labels_of(part, images=settings.query.images, multi_label=multi) for part in (train, test))
    require_measurable(*sides)
    run.note(overlap_note(shared_images(test, train)))
    classes = len(train.index.classes)
    for encoder, mode in run.models():
        known, unseen = labelled_features(run, encoder, mode, train, test)
        known_targets, targets = (f.targets(classes) if multi else f.labels for f in (known, unseen))
        choice = choose_and_train(
            known.features.to(encoder.device),
            known_targets.to(encoder.device),
            known.rows,
            settings.grid,
            mean_average_precision if multi else accuracy,
            classes=classes,
            share=settings.held_out,
            seed=settings.seed,
        )
        logits = choice.classifiers.logits(unseen.features.to(encoder.device)).cpu()
        if multi:
            scores = {"mAP": mean_average_precision_score(logits, targets, unseen.rows, seed=settings.seed)}
        else:
            scores = {"top-1": accuracy_score(logits.argmax(1) == targets, unseen.rows, seed=settings.seed)}
        run.add(encoder, mode, scores, chosen=choice.as_dict())
    return run.results()


def _run(
    models: Models, data: TrainTest, settings: LinearSettings, progress: Progress | None, on_row: OnRow | None
) -> dict[str, Any]:
    train, test = data.open()
    return evaluate_linear(models(), train, test, settings, progress, on_row)


EVALUATION = Evaluation(
    name="linear",
    summary="Train a linear classifier on frozen features, one label or several an image",
    data=TrainTest(),
    settings=LinearSettings(),
    run=_run,
    titles={
        "linear": Titles(
            "linear probe: {test}, trained on {train}",
            "Linear probe",
            "A linear classifier on frozen features of train objects, measured on test objects. Higher is "
            "better.",
        )
    },
)
