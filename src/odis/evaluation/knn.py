"""k-NN: classify every object (or image) of a test index by its nearest neighbours in a train index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from odis.errors import DataError, OdisError
from odis.evaluation.evaluation import Evaluation, Models, OnRow, Progress, Titles
from odis.evaluation.settings import EvaluationSettings, TrainTest, check_votes

if TYPE_CHECKING:
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.scores import Score
    from odis.evaluation.subset import Subset
    from odis.inference import Encoder
    from odis.objects.index import ObjectIndex


@dataclass(frozen=True, kw_only=True)
class KnnSettings(EvaluationSettings):
    """Settings of the k-NN.

    Args:
        k: Numbers of neighbours.
        temperature: A neighbour votes exp(cosine / temperature).
    """

    k: Sequence[int] = (10, 20)
    temperature: float = 0.07

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        check_votes(self.k, self.temperature)
        EvaluationSettings.check(self)


def evaluate_knn(
    encoders: Encoder | Sequence[Encoder],
    train: ObjectIndex | Subset,
    test: ObjectIndex | Subset,
    settings: KnnSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Classify every labelled object of `test` by the most similar labelled objects of `train`.

    Both are queried in the same mode. Classes are matched by name. Images take part that have exactly one
    label. Train features are streamed: memory holds the test features, k neighbours of each, and the train
    labels, whatever the size of the train index.

    Args:
        encoders: Models to compare, on the same objects.
        train: Index of the neighbours, or a subset of it.
        test: Index of the objects to classify, or a subset of it.
        settings: How.
        progress: Called after each image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds: settings; counts and provenance of both indexes; a row for each model and
        mode, whose scores `k=K` are top-1 accuracies in percent with 95 % bootstrap intervals over test
        images; and what was skipped.

    Raises:
        OdisError: for labels that are missing or of classes the train index does not have, an index without
            objects, a k larger than the train objects, or settings that do not fit.
    """
    from odis.evaluation.measurable import labels_of, require_measurable
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.subset import Subset, overlap_note, shared_images

    run = EvaluationRun("knn", encoders, settings, progress, on_row)
    train = Subset.of(train, settings.max_train, settings.seed)
    test = Subset.of(test, settings.max_test, settings.seed)
    images = settings.query.images
    require_measurable(labels_of(train, images=images), labels_of(test, images=images))
    most = max(settings.k)
    if (found := train.labelled(most, images=images)) < most:
        raise OdisError(f"k {most} must be from 1 to the {found} train {settings.query.unit}")
    run.note(overlap_note(shared_images(test, train)))
    for encoder, mode in run.models():
        run.add(encoder, mode, _scores(run, encoder, mode, train, test, settings))
    return run.results()


def _scores(
    run: EvaluationRun,
    encoder: Encoder,
    mode: str,
    train: Subset,
    test: Subset,
    settings: KnnSettings,
) -> dict[str, Score]:
    """Accuracy at each k."""
    import torch

    from odis.evaluation.measurable import labels_in, require_measurable, without_example
    from odis.evaluation.neighbours import NearestNeighbours, vote
    from odis.evaluation.scores import accuracy_score
    from odis.evaluation.subset import in_train_classes

    # The test part comes first: it is the smaller one, and shows whether the classes fit.
    queries = run.features(encoder, mode, test, "test")
    queries = queries.select(queries.labels >= 0)
    if not len(queries):
        raise _unusable(test, settings)
    labels = in_train_classes(test.index, train.index, queries.labels)[queries.labels]
    nearest = NearestNeighbours(queries.features, max(settings.k), encoder.device)
    queries.features = queries.features[:0]  # `nearest` has its own
    train_labels = []
    for chunk in run.stream(encoder, mode, train, "train"):
        usable = chunk.labels >= 0
        nearest.add(chunk.features[usable])
        train_labels.append(chunk.labels[usable])
    if not nearest.seen:
        raise _unusable(train, settings)
    known, names, images = torch.cat(train_labels), train.index.classes, settings.query.images
    require_measurable(
        labels_in(train, known, images=images, classes=names),
        labels_in(test, labels, images=images, classes=names),
    )
    run.note(without_example(known, labels, names, settings.query.unit))
    similarity, rows = nearest.read()
    classes = known[rows.cpu()].to(rows.device)
    predictions = vote(
        similarity, classes, settings.k, temperature=settings.temperature, classes=len(train.index.classes)
    )
    return {
        f"k={k}": accuracy_score(p == labels, queries.rows, seed=settings.seed)
        for k, p in predictions.items()
    }


def _unusable(subset: Subset, settings: KnnSettings) -> DataError:
    path, unit = subset.index.path, settings.query.unit
    return DataError(f"{path}: none of its images with labelled {unit} could be used")


def _run(
    models: Models, data: TrainTest, settings: KnnSettings, progress: Progress | None, on_row: OnRow | None
) -> dict[str, Any]:
    train, test = data.open()
    return evaluate_knn(models(), train, test, settings, progress, on_row)


EVALUATION = Evaluation(
    name="knn",
    summary="Classify objects or images of a test index by their nearest neighbours in a train index",
    data=TrainTest(),
    settings=KnnSettings(),
    run=_run,
    titles={
        "knn": Titles(
            "k-NN: {test} classified by {train}",
            "k-NN",
            "Each test object gets the class that its nearest train objects vote for. Accuracy; higher is "
            "better.",
        )
    },
)
