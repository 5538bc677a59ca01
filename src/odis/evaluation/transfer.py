"""Transfer: logistic regression on the frozen features of any number of data sets, one table for all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from odis.errors import OdisError
from odis.evaluation.asking import Asking, Each, Evaluation, Progress
from odis.evaluation.linear import labelled_features, require_labels
from odis.evaluation.parts import Part, overlap_note
from odis.evaluation.probe import held_out
from odis.evaluation.scores import Score, accuracy_score
from odis.inference import Encoder, IndexFeatures

_ITERATIONS = 1000


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set of a transfer: its name in the table, where to train, where to measure."""

    name: str
    train: Part
    test: Part


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSettings(Asking):
    """How models are asked (`Asking`), and which regularisations are tried.

    Args:
        costs: scikit-learn's `C`, the inverse of the strength of the l2 penalty; the best on held-out train
            images is taken.
        held_out: Share of the train images that choose. The test part is touched once, after that.
    """

    costs: Sequence[float] = field(default_factory=lambda: tuple(10.0**e for e in range(-5, 3)))
    held_out: float = 0.2

    def check(self, encoders: Sequence[Encoder]) -> None:
        """See `Asking.check`."""
        Asking.check(self, encoders)
        if not self.costs or not all(0 < c < float("inf") for c in self.costs):
            raise OdisError(f"costs {list(self.costs)} must be one or more numbers above 0")
        if not 0 < self.held_out < 1:
            raise OdisError(f"held-out {self.held_out:g} must be a share above 0 and below 1")


def evaluate_transfer(
    encoders: Encoder | Sequence[Encoder],
    data_sets: Sequence[DataSet],
    settings: TransferSettings,
    progress: Progress | None = None,
    each: Each | None = None,
) -> dict[str, Any]:
    """Multinomial logistic regression (scikit-learn, lbfgs) on standardised features of each data set.

    Args:
        encoders: Models to compare, on the same objects.
        data_sets: Where to train and to measure; objects, or images that have exactly one label.
        settings: How.
        progress: Called after each image.
        each: Called with the results so far after each row.

    Returns:
        What `results.json` holds; a row for each model and mode with one score a data set, top-1 accuracy in
        percent with its 95 % bootstrap interval over test images, and `mean` if there are several; `chosen`
        holds the `C` of each.

    Raises:
        OdisError: for labels that are missing or of classes the train index does not have, two data sets of
            one name, or settings that do not fit.
    """
    encoders = [encoders] if isinstance(encoders, Encoder) else list(encoders)
    settings.check(encoders)
    names = [d.name for d in data_sets]
    if not names or len(set(names)) < len(names) or "mean" in names:
        raise OdisError(
            f"data sets {', '.join(names) or '(none)'}: must be one or more, each with a name of its own, "
            f"none of them mean"
        )
    for data in data_sets:
        require_labels((data.train, data.test), settings, multi=False)
    run = Evaluation("transfer", settings, progress, each)
    run.notes = [f"{d.name}: {note}" for d in data_sets for note in overlap_note(d.test, d.train)]
    described: list[dict[str, Any]] = []
    for encoder, mode in run.asked(encoders):
        scores: dict[str, Score] = {}
        chosen: dict[str, float] = {}
        described = []
        for data in data_sets:
            known, asked = labelled_features(run, encoder, mode, data.train, data.test, multi=False)
            right, chosen[data.name] = fit_and_ask(known, asked, settings)
            scores[data.name] = accuracy_score(right, asked.rows, seed=settings.seed)
            described.append({"name": data.name, **run.sides})
        if len(scores) > 1:
            mean = float(np.mean([score.value for score in scores.values()]))
            scores["mean"] = Score(mean, float("nan"), float("nan"))
        run.add(encoder, mode, scores, chosen=chosen)
    results = run.results()
    for side in ("train", "test"):
        results.pop(side, None)
    return {**results, "data_sets": described}


def fit_and_ask(
    known: IndexFeatures, asked: IndexFeatures, settings: TransferSettings
) -> tuple[np.ndarray, float]:
    """Choose `C` on held-out images of `known`, fit all of it, and say which of `asked` are classified
    rightly: bool (m,), and `C`.
    """
    features, labels = known.features.numpy().astype(np.float64), known.labels.numpy()
    if len(np.unique(labels)) < 2:
        raise OdisError("the train part has objects of one class only; a classifier needs two")
    out = held_out(known.rows, settings.held_out, settings.seed).numpy()
    scores = {}
    if len(settings.costs) > 1 and len(np.unique(labels[~out])) > 1:
        model = None
        for cost in sorted(settings.costs):
            model = _fit(features[~out], labels[~out], cost, model)
            scores[cost] = float((_predict(model, features[out]) == labels[out]).mean())
    best = (
        max(scores, key=lambda c: scores[c]) if scores else sorted(settings.costs)[len(settings.costs) // 2]
    )
    model = _fit(features, labels, best, None)
    return _predict(model, asked.features.numpy().astype(np.float64)) == asked.labels.numpy(), best


def _fit(
    features: np.ndarray,
    labels: np.ndarray,
    cost: float,
    before: tuple[StandardScaler, LogisticRegression] | None,
) -> tuple[StandardScaler, LogisticRegression]:
    """Fit at one `C`, starting from the solution at the `C` before."""
    scaler = StandardScaler().fit(features) if before is None else before[0]
    model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True) if before is None else before[1]
    model.set_params(C=cost)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # almost unregularised: the held-out images judge it as it is
        model.fit(scaler.transform(features), labels)
    return scaler, model


def _predict(fitted: tuple[StandardScaler, LogisticRegression], features: np.ndarray) -> np.ndarray:
    scaler, model = fitted
    classes: np.ndarray = model.predict(scaler.transform(features))
    return classes
