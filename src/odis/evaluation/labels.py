"""Features with labels: what the evaluations that learn from labels share."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from odis.errors import DataError, OdisError
from odis.evaluation.runner import EvaluationRun
from odis.evaluation.subset import Subset, in_train_classes
from odis.inference import Encoder, IndexFeatures


def require_labels(subsets: Sequence[Subset], *, images: bool, multi_label: bool) -> None:
    """Refuse a subset without a label that could be used.

    Args:
        subsets: What takes part.
        images: Images are classified, not objects.
        multi_label: Images may have several labels.

    Raises:
        DataError: naming the index.
    """
    for subset in subsets:
        if subset.labelled(1, images=images, several=multi_label):
            continue
        having = "objects has a label"
        if images:
            having = "images has exactly one label"
        if multi_label:
            having = "images has a label"
        raise DataError(f"{subset.index.path}: none of its {having}; this evaluation needs a labelled index")


def require_finite(found: IndexFeatures, what: str) -> None:
    """Refuse features that are not finite.

    Raises:
        OdisError: naming the part.
    """
    if not found.features.isfinite().all():
        raise OdisError(
            f"{what} features hold values that are not finite: the model's weights or its precision are at "
            f"fault"
        )


def to_train_classes(found: IndexFeatures, test: Subset, train: Subset) -> None:
    """Renumber the labels of test features to the classes of the train index, matched by name.

    Raises:
        DataError: see `in_train_classes`.
    """
    used = torch.tensor([label for labels in found.label_sets for label in labels])
    position = in_train_classes(test.index, train.index, used).tolist()
    found.label_sets = [tuple(position[label] for label in labels) for labels in found.label_sets]
    found.labels = torch.tensor([of_one[0] if len(of_one) == 1 else -1 for of_one in found.label_sets])


def labelled_features(
    run: EvaluationRun, encoder: Encoder, mode: str, train: Subset, test: Subset
) -> tuple[IndexFeatures, IndexFeatures]:
    """Features of train and test objects that have a label (exactly one, unless the run is multi-label), in
    classes of the train index.

    Raises:
        DataError: no object of a part could be used, or the classes do not fit.
        OdisError: features are not finite.
    """
    both = []
    # The test part comes first: it is the smaller one, and shows whether the classes fit.
    for subset, side in ((test, "test"), (train, "train")):
        found = run.features(encoder, mode, subset, side)
        has_labels = torch.tensor([bool(labels) for labels in found.label_sets], dtype=torch.bool)
        usable = has_labels if run.multi_label else found.labels >= 0
        if not usable.any():
            unit = run.settings.query.unit
            raise DataError(f"{subset.index.path}: none of its images with labelled {unit} could be used")
        found = found.select(usable)
        require_finite(found, side)
        if side == "test":
            to_train_classes(found, test, train)
        both.append(found)
    return both[1], both[0]
