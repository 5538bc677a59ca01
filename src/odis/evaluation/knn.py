"""k-NN: every object (or image) of a test index is classified by its nearest neighbours in a train index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odis.config.training import PretrainConfig
from odis.errors import DataError, OdisError
from odis.evaluation.asking import Asking, Each, Evaluation, Progress
from odis.evaluation.neighbours import NearestNeighbours, vote
from odis.evaluation.parts import Part, in_train_classes, overlap_note
from odis.evaluation.scores import Score, accuracy_score
from odis.inference import Encoder
from odis.method.vit import ObjectViT
from odis.objects.index import WHOLE_IMAGE, ObjectIndex
from odis.types import Object

# The k-NN during training: enough to see where a run is heading, in seconds rather than minutes.
_PERIODIC_K = 20
_PERIODIC_TRAIN, _PERIODIC_TEST = 5000, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnSettings(Asking):
    """How objects are asked about (`Asking`), and how neighbours vote.

    Args:
        k: Numbers of neighbours.
        temperature: A neighbour votes exp(cosine / temperature).
    """

    k: Sequence[int] = (10, 20)
    temperature: float = 0.07

    def check(self, encoders: Sequence[Encoder]) -> None:
        """See `Asking.check`."""
        if not self.k or min(self.k) < 1:
            raise OdisError(f"k {min(self.k, default=0)} must be 1 or more")
        if not self.temperature > 0:
            raise OdisError(f"temperature {self.temperature:g} must be above 0")
        Asking.check(self, encoders)


def evaluate_knn(
    encoders: Encoder | Sequence[Encoder],
    train: ObjectIndex | Part,
    test: ObjectIndex | Part,
    settings: KnnSettings,
    progress: Progress | None = None,
    each: Each | None = None,
) -> dict[str, Any]:
    """Classify every labelled object of `test` by the most similar labelled objects of `train`, asked about
    in the same mode.

    Classes are matched by name. Images take part that have exactly one label. Train features stream past and
    are not kept: memory holds the test features, k neighbours of each, and the train labels, whatever the
    size of the train index.

    Args:
        encoders: Models to compare, on the same objects.
        train: Index of the neighbours, or a part of it.
        test: Index of the objects to classify, or a part of it.
        settings: How.
        progress: Called after each image.
        each: Called with the results so far after each row.

    Returns:
        What `results.json` holds: settings; counts and provenance of both indexes; a row for each model and
        mode, whose scores `k=K` are top-1 accuracies in percent with 95 % bootstrap intervals over test
        images; and what was skipped.

    Raises:
        OdisError: for labels that are missing or of classes the train index does not have, an index without
            objects, a k larger than the train objects, or settings that do not fit.
    """
    encoders = [encoders] if isinstance(encoders, Encoder) else list(encoders)
    settings.check(encoders)
    train = Part.of(train, settings.max_train, settings.seed) if isinstance(train, ObjectIndex) else train
    test = Part.of(test, settings.max_test, settings.seed) if isinstance(test, ObjectIndex) else test
    for part, least in ((train, max(settings.k)), (test, 1)):
        found = part.labelled(least, images=settings.images)
        if not found:
            having = "images has exactly one label" if settings.images else "objects has a label"
            raise DataError(f"{part.index.path}: none of its {having}; k-NN needs a labelled index")
        if found < least:
            raise OdisError(f"k {least} must be from 1 to the {found} train {settings.things}")
    run = Evaluation("knn", settings, progress, each)
    run.notes = overlap_note(test, train)
    for encoder, mode in run.asked(encoders):
        run.add(encoder, mode, _scores(run, encoder, mode, train, test, settings))
    return run.results()


def _scores(
    run: Evaluation, encoder: Encoder, mode: str, train: Part, test: Part, settings: KnnSettings
) -> dict[str, Score]:
    """Accuracy at each k."""
    # The test part comes first: it is the smaller one, and shows whether the classes fit.
    asked = run.features(encoder, mode, test, "test")
    asked = asked.select(asked.labels >= 0)
    if not len(asked):
        raise DataError(
            f"{test.index.path}: none of its images with labelled {settings.things} could be used"
        )
    labels = in_train_classes(test.index, train.index, asked.labels)[asked.labels]
    nearest = NearestNeighbours(asked.features, max(settings.k), encoder.device)
    asked.features = asked.features[:0]  # `nearest` has its own
    train_labels: list[Tensor] = []
    for chunk in run.stream(encoder, mode, train, "train"):
        usable = chunk.labels >= 0
        nearest.add(chunk.features[usable])
        train_labels.append(chunk.labels[usable])
    if not nearest.seen:
        raise DataError(
            f"{train.index.path}: none of its images with labelled {settings.things} could be used"
        )
    similarity, rows = nearest.read()
    classes = torch.cat(train_labels)[rows.cpu()].to(rows.device)
    predictions = vote(
        similarity, classes, settings.k, temperature=settings.temperature, classes=len(train.index.classes)
    )
    return {
        f"k={k}": accuracy_score(p == labels, asked.rows, seed=settings.seed) for k, p in predictions.items()
    }


def _objects(part: Part, row: int) -> Sequence[Object]:
    try:
        return part.index[row].objects
    except DataError:  # an image of a folder whose header cannot be read: it is named when features are made
        return ()


def periodic_knn(config: PretrainConfig) -> Callable[[ObjectViT, PretrainConfig], dict[str, float]]:
    """The k-NN that training runs now and then: a function of the teacher's backbone that returns named
    accuracies in percent.

    Objects of `config.val` are classified against those of `config.data`; if the latter has no labels, every
    second image of `config.val` against the others.

    Raises:
        DataError: if an index cannot be read, or `config.val` has no labels.
    """
    assert config.val is not None
    train = Part.of(ObjectIndex.open(config.data), _PERIODIC_TRAIN, config.train.seed)
    test = Part.of(ObjectIndex.open(config.val), _PERIODIC_TEST, config.train.seed)
    if not test.labelled(1):
        raise DataError(
            f"{config.val}: none of its objects has a label; the k-NN during training needs a labelled index"
        )
    if not train.labelled(1):
        train, test = Part(test.index, test.rows[::2]), Part(test.index, test.rows[1::2])
    k = train.labelled(_PERIODIC_K)
    if not k or not test.labelled(1):
        raise DataError(
            f"{config.val}: too few labelled objects for the k-NN during training, since {config.data} "
            f"has none"
        )
    used = {item.label for i in test.rows for item in _objects(test, i) if item.label is not None}
    in_train_classes(test.index, train.index, torch.tensor(sorted(used)))  # now, not at the first measurement
    whole = test.index.provenance == WHOLE_IMAGE
    settings = KnnSettings(
        modes=["whole-image"] if whole else ["masked-attention", "crop"],
        k=[k],
        workers=config.loader.workers,
        strict=config.strict,
    )

    def evaluate(model: ObjectViT, config: PretrainConfig) -> dict[str, float]:
        encoder = Encoder.of(model, config, precision=config.train.precision)
        rows = evaluate_knn(encoder, train, test, settings)["rows"]
        return {f"knn/{row['mode']}@{k}": row["scores"][f"k={k}"]["value"] for row in rows}

    return evaluate
