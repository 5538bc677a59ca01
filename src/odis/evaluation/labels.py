"""Features with labels: what the evaluations that learn from labels share."""

from __future__ import annotations

import torch

from odis.errors import DataError, OdisError
from odis.evaluation.measurable import labels_in, require_measurable, require_varied, without_example
from odis.evaluation.runner import EvaluationRun
from odis.evaluation.subset import Subset, in_train_classes
from odis.inference import Encoder, IndexFeatures


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
    unseen, known = both
    require_took_part(run, train, known, test, unseen)
    return known, unseen


def require_took_part(
    run: EvaluationRun, train: Subset, known: IndexFeatures, test: Subset, unseen: IndexFeatures
) -> None:
    """Refuse labels by which nothing can be measured, and note test labels without a train example.

    Args:
        run: Gets the note.
        train: The train part, or the gallery.
        known: Its features, with labels.
        test: The test part, or the queries.
        unseen: Its features, with labels in the classes of the train part.

    Raises:
        DataError: see `require_measurable`, `require_varied`.
    """
    images, names, unit = run.settings.query.images, train.index.classes, run.settings.query.unit
    used = [
        torch.tensor([label for labels in found.label_sets for label in labels]) for found in (known, unseen)
    ]
    of_train, of_test = (
        labels_in(subset, labels, images=images, classes=names) for subset, labels in zip((train, test), used)
    )
    require_measurable(of_train, of_test)
    if run.multi_label:
        require_varied(of_test, unseen.targets(len(names)))
    else:
        run.note(without_example(used[0], used[1], names, unit))
