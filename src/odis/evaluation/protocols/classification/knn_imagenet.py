"""`knn-imagenet`: k-NN on ImageNet as DINO and iBOT measure it; with boxes, by the object token too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from odis.config.query import READOUTS
from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.protocol import Protocol, ProtocolSettings, results_of, statistics_of
from odis.evaluation.protocols.publications.knn_imagenet import ABOUT
from odis.evaluation.settings import check_votes, require_given

if TYPE_CHECKING:
    from odis.evaluation.protocols.layouts.classified import ClassifiedImages
    from odis.inference import Encoder


@dataclass(frozen=True, slots=True)
class KnnImagenetData:
    """The two parts.

    Args:
        train: Folder of class folders, or object index (.parquet), of the neighbours.
        test: The same, or ImageNet's flat validation folder with its label file.
        test_labels: The label file of a flat folder; by default LOC_val_solution.csv, val.txt or
            ILSVRC2012_validation_ground_truth.txt in it or above it.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("train", "test")

    train: str = ""
    test: str = ""
    test_labels: str | None = None

    def open(self) -> tuple[ClassifiedImages, ClassifiedImages]:
        """Train and test part.

        Raises:
            OdisError: one is not given.
            DataError: one cannot be read, or has no labels.
        """
        from odis.evaluation.protocols.layouts.classified import open_classified

        require_given(self)
        train = open_classified(self.train)
        return train, open_classified(self.test, labels=self.test_labels, classes=train.classes)


@dataclass(frozen=True, kw_only=True)
class KnnImagenetSettings(ProtocolSettings):
    """Settings of the protocol.

    Args:
        k: Numbers of neighbours.
        temperature: A neighbour votes exp(cosine / temperature).
        readout: What stands for an image: cls ([CLS]), obj (the mean of its objects' tokens) or both
            (concatenated, then normalised); comma-separated. obj and both need object indexes with boxes.
        crop: Side of the view in pixels; the shorter side of the image is first resized to 8/7 of it.
        cache: Folder to keep features in, so that an interrupted call goes on.
    """

    k: Sequence[int] = (10, 20, 100, 200)
    temperature: float = 0.07
    readout: Sequence[str] = ("cls",)
    crop: int = 224
    cache: str | None = None

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        ProtocolSettings.check(self)
        check_votes(self.k, self.temperature)
        if self.crop < 1:
            raise OdisError(f"crop {self.crop} must be 1 or more")
        wrong = [name for name in self.readout if name not in READOUTS]
        if wrong or not self.readout:
            raise OdisError(f"readout {','.join(wrong)!r} must be some of {', '.join(READOUTS)}")

    def check_models(self, encoders: Sequence[Encoder]) -> None:
        """See `ProtocolSettings.check_models`; the view must be whole patches, objects need object tokens.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        from odis.config.query import QueryConfig

        ProtocolSettings.check_models(self, encoders)
        for encoder in encoders:
            encoder.query_builder(QueryConfig(("whole-image",), size=self.crop))
            if set(self.readout) != {"cls"}:
                encoder.query_builder(QueryConfig(("masked-attention",), size=self.crop))


def evaluate_knn_imagenet(
    encoders: Encoder | Sequence[Encoder],
    train: ClassifiedImages,
    test: ClassifiedImages,
    settings: KnnImagenetSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Classify every test image by the most similar train images.

    Each image is read once a model, whatever the readouts and k. Memory holds the test features, k keys of
    each, and the train labels.

    Args:
        encoders: Models to compare.
        train: Images of the neighbours.
        test: Images to classify; classes are matched by name.
        settings: How.
        progress: Called after each image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; scores `k=K` are top-1 accuracies in percent with 95 % bootstrap intervals
        over test images. A row is a model and a readout.

    Raises:
        OdisError: for classes that do not go together, too few train images, or settings that do not fit.
    """
    import torch

    from odis.evaluation.neighbours import NearestNeighbours, vote
    from odis.evaluation.protocols.classification.classify import PartReader, draw_parts
    from odis.evaluation.protocols.projection import Work, project, seconds_searched
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.scores import accuracy_score

    run = EvaluationRun("knn-imagenet", encoders, settings, progress, on_row)
    train, test, matched = draw_parts(run, train, test)
    labels = torch.from_numpy(matched)
    if len(train) < max(settings.k):
        raise OdisError(f"k {max(settings.k)} must be from 1 to the {counted(len(train), 'train image')}")

    def readers(source: Encoder) -> list[PartReader]:
        encoder = statistics_of(source, settings)
        return [PartReader(run, encoder, *part, settings) for part in ((test, "test"), (train, "train"))]

    def works(source: Encoder) -> Iterator[Work]:
        for reader in readers(source):
            count = reader.store().missing(len(reader.images))
            yield Work(f"{reader.side} images", count, reader.seconds())
        width = sum((1 + (name == "both")) * source.width("whole-image") for name in settings.readout)
        pairs = len(test) * len(train)
        yield Work("search", pairs, seconds_searched(width, max(settings.k), source.device))

    project(run, works)
    for source in run.encoders:
        run.start()
        of_test, of_train = readers(source)
        queries = list(of_test.features())
        numbers = torch.cat([batch.numbers for batch in queries])
        nearest = {
            name: NearestNeighbours(
                torch.cat([batch.readouts[name] for batch in queries]), max(settings.k), source.device
            )
            for name in settings.readout
        }
        known = []
        for batch in of_train.features():
            known.append(batch.numbers)
            for name, features in batch.readouts.items():
                nearest[name].add(features)
        seen = torch.from_numpy(train.labels)[torch.cat(known)] if known else torch.empty(0)
        if len(seen) < max(settings.k):
            raise OdisError(f"k {max(settings.k)}: only {counted(len(seen), 'train image')} could be read")
        for name in settings.readout:
            similarity, rows = nearest[name].read()
            predictions = vote(
                similarity,
                seen[rows.cpu()].to(rows.device),
                settings.k,
                temperature=settings.temperature,
                classes=len(train.classes),
            )
            scores = {
                f"k={k}": accuracy_score(p == labels[numbers], numbers, seed=settings.seed)
                for k, p in predictions.items()
            }
            best = max(scores, key=lambda k: scores[k].value)
            run.add(source, name, scores, best=best, size=settings.crop)
            if len(scores) > 1:
                said = f"{best} is best, chosen on the test part as published figures are"
                run.notes.append(f"{source.source or 'model'}, {name}: {said}")
    return results_of(run, ABOUT, settings)


def _run(
    models: Models,
    data: KnnImagenetData,
    settings: KnnImagenetSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    train, test = data.open()
    return evaluate_knn_imagenet(models(), train, test, settings, progress, on_row)


PROTOCOL = Protocol(
    name="knn-imagenet",
    summary="k-NN on ImageNet (DINO, iBOT): 256/224, k 10 to 200; with boxes by [CLS], [OBJ] or both",
    data=KnnImagenetData(),
    settings=KnnImagenetSettings(),
    run=_run,
    titles={
        "knn-imagenet": Titles(
            "knn-imagenet: {test} classified by {train}",
            "k-NN, ImageNet's protocol",
            "Each test image gets the class that its nearest train images vote for. Accuracy; higher is "
            "better.",
        )
    },
    about=ABOUT,
)
