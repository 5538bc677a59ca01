"""Measure frozen features. A module of an evaluation states its name, data, settings, function and titles as
`EVALUATION`; adding one touches its file and the list here.
"""

from typing import Any

from odis.evaluation import dense_knn, knn, linear, retrieval, segment, transfer
from odis.evaluation.evaluation import Evaluation, Titles

EVALUATIONS: dict[str, Evaluation[Any, Any]] = {
    module.EVALUATION.name: module.EVALUATION
    for module in (knn, linear, transfer, retrieval, dense_knn, segment)
}
"""In the order of `odis evaluate --help`."""

TITLES: dict[str, Titles] = {
    kind: titles for one in EVALUATIONS.values() for kind, titles in one.titles.items()
}
"""For each `evaluation` that a results file may name."""
