"""Measure frozen features. A module of an evaluation states its name, data, settings, function and titles as
`EVALUATION`; adding one touches its file and the list here. Published protocols are in `protocols/`.
"""

from typing import Any

from odis.evaluation import dense_knn, knn, linear, retrieval, segment, transfer
from odis.evaluation.evaluation import Evaluation, Titles
from odis.evaluation.protocols import PROTOCOLS

__all__ = ["EVALUATIONS", "PROTOCOLS", "TITLES"]

EVALUATIONS: dict[str, Evaluation[Any, Any]] = {
    module.EVALUATION.name: module.EVALUATION
    for module in (knn, linear, transfer, retrieval, dense_knn, segment)
}
"""In the order of `odis evaluate --help`."""

TITLES: dict[str, Titles] = {
    kind: titles for one in (EVALUATIONS | PROTOCOLS).values() for kind, titles in one.titles.items()
}
"""For each `evaluation` that a results file may name."""
