"""Transfer: logistic regression on the frozen features of any number of data sets, one table for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.evaluation import Evaluation, Models, OnRow, Progress, Titles
from odis.evaluation.settings import EvaluationSettings, check_held_out

if TYPE_CHECKING:
    from odis.evaluation.scores import Score
    from odis.evaluation.subset import Subset
    from odis.inference import Encoder


@dataclass(frozen=True, kw_only=True)
class TransferSettings(EvaluationSettings):
    """Settings of the transfer.

    Args:
        costs: Values of scikit-learn's C to try, the inverse strength of the l2 penalty.
        held_out: Share of the train images that chooses among them. The test part is used once, after that.
    """

    costs: Sequence[float] = tuple(10.0**e for e in range(-5, 3))
    held_out: float = 0.2

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        EvaluationSettings.check(self)
        if not self.costs or not all(0 < c < math.inf for c in self.costs):
            raise OdisError(f"costs {list(self.costs)} must be one or more numbers above 0")
        check_held_out(self.held_out)


@dataclass(frozen=True, slots=True)
class TransferData:
    """The data sets of a transfer.

    Args:
        trains: Object index or folder of images, with labels; again for the next data set.
        tests: The test part of the same data set; as often as --train.
        names: Name of the data set in the table; by default that of its test part.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("train", "test")

    trains: Sequence[str] = field(default=(), metadata={"option": "train", "repeat": True})
    tests: Sequence[str] = field(default=(), metadata={"option": "test", "repeat": True})
    names: Sequence[str] = field(default=(), metadata={"option": "name", "repeat": True})

    def open(self, settings: TransferSettings) -> list[DataSet]:
        """The data sets, drawn as the settings say.

        Raises:
            OdisError: they are not given, or not equally many.
            DataError: one cannot be read.
        """
        from odis.evaluation.subset import Subset
        from odis.objects.index import ObjectIndex

        for name, paths in zip(self.REQUIRED, (self.trains, self.tests)):
            if not paths:
                raise OdisError(f"--{name} is required; --help lists the options")
        names = self.names or [Path(path).stem for path in self.tests]
        for name, given in (("test", self.tests), ("name", names)):
            if len(given) != len(self.trains):
                raise OdisError(
                    f"--train was given {counted(len(self.trains), 'time')} and --{name} "
                    f"{counted(len(given), 'time')}; each data set has one of both"
                )
        return [
            DataSet(
                name,
                Subset.of(ObjectIndex.open(train), settings.max_train, settings.seed),
                Subset.of(ObjectIndex.open(test), settings.max_test, settings.seed),
            )
            for name, train, test in zip(names, self.trains, self.tests)
        ]


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set of a transfer: its name in the table, where to train, where to measure."""

    name: str
    train: Subset
    test: Subset


def evaluate_transfer(
    encoders: Encoder | Sequence[Encoder],
    data_sets: Sequence[DataSet],
    settings: TransferSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Multinomial logistic regression (scikit-learn, lbfgs) on standardised features of each data set.

    Args:
        encoders: Models to compare, on the same objects.
        data_sets: Where to train and to measure; objects, or images that have exactly one label.
        settings: How.
        progress: Called after each image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; a row for each model and mode with one score a data set, top-1 accuracy in
        percent with its 95 % bootstrap interval over test images, and `mean` if there are several; `chosen`
        holds the `C` of each.

    Raises:
        OdisError: for labels that are missing or of classes the train index does not have, two data sets of
            one name, or settings that do not fit.
    """
    from odis.evaluation.labels import labelled_features
    from odis.evaluation.logistic import fit_and_predict
    from odis.evaluation.measurable import labels_of, require_measurable
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.scores import Score, accuracy_score
    from odis.evaluation.subset import overlap_note, shared_images

    run = EvaluationRun("transfer", encoders, settings, progress, on_row)
    names = [d.name for d in data_sets]
    if not names or len(set(names)) < len(names) or "mean" in names:
        raise OdisError(
            f"data sets {', '.join(names) or '(none)'}: must be one or more, each with a name of its own, "
            f"none of them mean"
        )
    for data in data_sets:
        sides = (labels_of(part, images=settings.query.images) for part in (data.train, data.test))
        require_measurable(*sides)
        run.note([f"{data.name}: {note}" for note in overlap_note(shared_images(data.test, data.train))])
    described: list[dict[str, Any]] = []
    for encoder, mode in run.models():
        scores: dict[str, Score] = {}
        chosen: dict[str, float] = {}
        described = []
        for data in data_sets:
            known, unseen = labelled_features(run, encoder, mode, data.train, data.test)
            predicted, chosen[data.name] = fit_and_predict(
                known, unseen.features, settings.costs, share=settings.held_out, seed=settings.seed
            )
            right = predicted == unseen.labels.numpy()
            scores[data.name] = accuracy_score(right, unseen.rows, seed=settings.seed)
            described.append({"name": data.name, **run.sides})
        if len(scores) > 1:
            mean = sum(score.value for score in scores.values()) / len(scores)
            scores["mean"] = Score(mean, math.nan, math.nan)
        run.add(encoder, mode, scores, chosen=chosen)
    results = run.results()
    for side in ("train", "test"):
        results.pop(side, None)
    return {**results, "data_sets": described}


def _run(
    models: Models,
    data: TransferData,
    settings: TransferSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    data_sets = data.open(settings)
    return evaluate_transfer(models(), data_sets, settings, progress, on_row)


EVALUATION = Evaluation(
    name="transfer",
    summary="Logistic regression on one data set or several, one column each",
    data=TransferData(),
    settings=TransferSettings(),
    run=_run,
    titles={
        "transfer": Titles(
            "transfer by logistic regression, top-1 accuracy",
            "Transfer",
            "Frozen features on other data. Higher is better.",
        )
    },
)
