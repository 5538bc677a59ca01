"""Logistic regression on frozen features, its regularisation chosen on held-out images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from odis.evaluation.probe import held_out
from odis.inference import IndexFeatures

_ITERATIONS = 1000

_Fitted = tuple[StandardScaler, LogisticRegression]


def fit_and_predict(
    known: IndexFeatures, features: Tensor, costs: Sequence[float], *, share: float, seed: int
) -> tuple[np.ndarray, float]:
    """Choose `C` on held-out images of `known`, fit all of it, and classify others.

    Args:
        known: Features with one label each.
        features: float32 (m, D), to classify.
        costs: Values of `C` to try.
        share: Share of the images that is held out.
        seed: Seed of the split.

    Returns:
        int64 (m,), the predicted classes; and the `C` that was chosen.

    Raises:
        OdisError: `known` has objects of too few images.
    """
    train, labels = known.features.numpy().astype(np.float64), known.labels.numpy()
    out = held_out(known.rows, share, seed).numpy()
    scores = {}
    if len(costs) > 1 and len(np.unique(labels[~out])) > 1:
        fitted = None
        for cost in sorted(costs):
            fitted = _fit(train[~out], labels[~out], cost, fitted)
            scores[cost] = float((_predict(fitted, train[out]) == labels[out]).mean())
    best = max(scores, key=lambda c: scores[c]) if scores else sorted(costs)[len(costs) // 2]
    return _predict(_fit(train, labels, best, None), features.numpy().astype(np.float64)), best


def _fit(features: np.ndarray, labels: np.ndarray, cost: float, before: _Fitted | None) -> _Fitted:
    """Fit at one `C`, starting from the solution at the `C` before."""
    scaler = StandardScaler().fit(features) if before is None else before[0]
    model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True) if before is None else before[1]
    model.set_params(C=cost)
    with warnings.catch_warnings():
        # Almost without a penalty lbfgs may stop early: the held-out images judge the model as it is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaler.transform(features), labels)
    return scaler, model


def _predict(fitted: _Fitted, features: np.ndarray) -> np.ndarray:
    scaler, model = fitted
    predicted: np.ndarray = model.predict(scaler.transform(features))
    return predicted
