"""Object k-NN: every object of a test index is classified by its nearest neighbours among the objects of a train index."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odis import __version__
from odis.config import PretrainConfig
from odis.errors import DataError, OdisError
from odis.evaluate.neighbours import knn_predict
from odis.inference import Encoder, IndexFeatures, embed_index
from odis.model.vit import ObjectViT
from odis.objects.index import WHOLE_IMAGE, ObjectIndex

Progress = Callable[[str, int, int], None]
"""Called with what is being read, how many images were, and of how many."""

# The k-NN during training: enough to see where a run is heading, in seconds rather than minutes.
_PERIODIC_K = 20
_PERIODIC_TRAIN, _PERIODIC_TEST = 5000, 1000


@dataclass(frozen=True, slots=True)
class KnnSettings:
    """How objects are asked about, and how neighbours vote.

    Args:
        modes: How objects are asked about (`queries.MODES`); neighbours are asked about in the same way.
        k: Numbers of neighbours.
        temperature: A neighbour votes exp(cosine / temperature).
        size: Side in pixels the models are asked at; by default the one each was trained at.
        context: Window of `masked-attention` over the box's longer side, see `Encoder.embed`; other modes have none.
        max_train: At most so many train images, drawn by `seed`.
        max_test: At most so many test images, drawn by `seed`.
        seed: Of the two draws.
        batch_size: Images a model sees at once.
        workers: Processes that decode images.
        strict: Stop at the first image or object that cannot be used, instead of naming and counting it.
    """

    modes: Sequence[str] = ("masked-attention",)
    k: Sequence[int] = (10, 20)
    temperature: float = 0.07
    size: int | None = None
    context: float | None = None
    max_train: int | None = None
    max_test: int | None = None
    seed: int = 0
    batch_size: int = 64
    workers: int = 0
    strict: bool = False

    def window(self, mode: str) -> float | None:
        """The context that goes with a mode."""
        return self.context if mode == "masked-attention" else None

    def check(self, encoders: Sequence[Encoder]) -> None:
        """Refuse settings that do not fit, before an image is read.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        if not encoders or not self.modes or not self.k:
            raise OdisError("k-NN needs at least one model, one mode and one k")
        if min(self.k) < 1:
            raise OdisError(f"k {min(self.k)} must be 1 or more")
        if not self.temperature > 0:
            raise OdisError(f"temperature {self.temperature:g} must be above 0")
        for name, value in (("max-train", self.max_train), ("max-test", self.max_test), ("batch-size", self.batch_size)):
            if value is not None and value < 1:
                raise OdisError(f"{name} {value} must be 1 or more")
        if self.workers < 0:
            raise OdisError(f"workers {self.workers} must be 0 or more")
        if self.context is not None and "masked-attention" not in self.modes:
            raise OdisError(f"context {self.context:g} goes with mode masked-attention, which is not among {', '.join(self.modes)}")
        for encoder in encoders:
            for mode in self.modes:
                encoder.asker(mode, self.size, self.window(mode))


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of an index that take part in an evaluation."""

    index: ObjectIndex
    rows: Sequence[int]

    @staticmethod
    def of(index: ObjectIndex, most: int | None, seed: int) -> Part:
        """All rows, or `most` of them drawn by `seed`."""
        n = len(index)
        if most is None or most >= n:
            return Part(index, range(n))
        return Part(index, sorted(np.random.default_rng(seed).permutation(n)[:most].tolist()))

    def labelled(self, enough: int) -> int:
        """How many objects have a label; counting stops at `enough`."""
        count = 0
        for i in self.rows:
            try:
                count += sum(item.label is not None for item in self.index[i].objects)
            except DataError:  # an image of a folder whose header cannot be read: it is named when features are made
                continue
            if count >= enough:
                return enough
        return count


def evaluate_knn(
    encoders: Encoder | Sequence[Encoder],
    train: ObjectIndex | Part,
    test: ObjectIndex | Part,
    settings: KnnSettings,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Classify every labelled object of `test` by the most similar labelled objects of `train`.

    Classes are matched by name. The objects of an index of whole images are the images.

    Args:
        encoders: Models to compare, on the same objects.
        train: Index of the neighbours, or a part of it.
        test: Index of the objects to classify, or a part of it.
        settings: How.
        progress: Called after each image.

    Returns:
        What `results.json` holds: settings; counts and provenance of both indexes; of each model its provenance and
        `accuracy[mode][k]` (top-1 in percent; k as text); and what was skipped.

    Raises:
        OdisError: for labels that are missing or of classes the train index does not have, an index without objects, a k larger than
            the train objects, or settings that do not fit.
    """
    encoders = [encoders] if isinstance(encoders, Encoder) else list(encoders)
    settings.check(encoders)
    if isinstance(train, ObjectIndex):
        train = Part.of(train, settings.max_train, settings.seed)
    if isinstance(test, ObjectIndex):
        test = Part.of(test, settings.max_test, settings.seed)
    for part in (train, test):
        if not part.labelled(1):
            raise DataError(f"{part.index.path}: none of its objects has a label; k-NN needs a labelled index")
    models: list[dict[str, Any]] = []
    sides: dict[str, Any] = {}
    skipped: dict[tuple[str, str], None] = {}  # ordered, each once: every mode meets them again
    for encoder in encoders:
        start = time.perf_counter()
        accuracy = {}
        for mode in settings.modes:
            accuracy[mode], *found = _classify(encoder, mode, train, test, settings, progress)
            for name, part, features in zip(("train", "test"), (train, test), found):
                sides[name] = _described(part, features)
                skipped.update({(s.what, s.why): None for s in features.skipped})
        models.append(_model_described(encoder, settings, accuracy, time.perf_counter() - start))
    written = asdict(settings) | {"modes": list(settings.modes), "k": list(settings.k)}
    return {
        "evaluation": "knn",
        "odis_version": __version__,
        "settings": {key: value for key, value in written.items() if key not in ("batch_size", "workers", "strict")},
        **sides,
        "models": models,
        "skipped": [{"what": what, "why": why} for what, why in skipped],
    }


def _classify(
    encoder: Encoder, mode: str, train: Part, test: Part, settings: KnnSettings, progress: Progress | None
) -> tuple[dict[str, float], IndexFeatures, IndexFeatures]:
    """Accuracy at each k, and the features of both parts."""

    def features(part: Part, name: str) -> IndexFeatures:
        what, total = f"{encoder.source or 'model'}, {mode}, {name}", len(part.rows)
        return embed_index(
            encoder, part.index, mode, rows=part.rows, size=settings.size, context=settings.window(mode),
            batch_size=settings.batch_size, workers=settings.workers, strict=settings.strict,
            progress=None if progress is None else lambda done: progress(what, done, total),
        )  # fmt: skip

    # The test part comes first: it is the smaller one, and shows whether the classes fit.
    asked = features(test, "test")
    known = asked.labels >= 0
    labels = _in_train_classes(asked.labels[known], test.index, train.index)
    reference = features(train, "train")
    usable = reference.labels >= 0
    for part, mask in ((test, known), (train, usable)):
        if not mask.any():
            raise DataError(f"{part.index.path}: none of its images with labelled objects could be used")
    predictions = knn_predict(
        reference.features[usable], reference.labels[usable], asked.features[known], settings.k,
        temperature=settings.temperature, classes=len(train.index.classes), device=encoder.device,
    )  # fmt: skip
    accuracy = {str(one): round(100 * (p == labels).double().mean().item(), 3) for one, p in predictions.items()}
    return accuracy, reference, asked


def _in_train_classes(labels: Tensor, test: ObjectIndex, train: ObjectIndex) -> Tensor:
    """Labels of the test index as labels of the train index, matched by class name."""
    if test.classes == train.classes or not len(labels):
        return labels
    for index in (train, test):
        if len(set(index.classes)) < len(index.classes):
            twice = next(name for name in index.classes if index.classes.count(name) > 1)
            raise DataError(f"{index.path}: two of its classes are named {twice!r}, so they cannot be matched with another index's")
    position = {name: i for i, name in enumerate(train.classes)}
    foreign = [name for i in labels.unique().tolist() if (name := test.classes[i]) not in position]
    if foreign:
        shown = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise DataError(f"{test.path}: has objects of classes that {train.path} does not list: {shown}")
    return torch.tensor([position.get(name, -1) for name in test.classes])[labels]


def _described(part: Part, found: IndexFeatures) -> dict[str, Any]:
    labelled = int((found.labels >= 0).sum())
    return {
        "index": part.index.path,
        "provenance": part.index.provenance,
        "images": found.images,
        "objects": labelled,
        "unlabelled": len(found.labels) - labelled,
        "classes": len(part.index.classes),
        "skipped": len(found.skipped),
    }


def _model_described(encoder: Encoder, settings: KnnSettings, accuracy: dict[str, dict[str, float]], seconds: float) -> dict[str, Any]:
    return {
        "model": encoder.source,
        "provenance": encoder.provenance,
        "recipe": encoder.card.get("recipe"),
        "step": encoder.card.get("step"),
        "size": encoder.image_size if settings.size is None else settings.size,
        "precision": encoder.precision,
        "accuracy": accuracy,
        "seconds": round(seconds, 1),
    }


def periodic_knn(config: PretrainConfig) -> Callable[[ObjectViT, PretrainConfig], dict[str, float]]:
    """The k-NN that training runs now and then: a function of the teacher's backbone that returns named accuracies in percent.

    Objects of `config.val` are classified against those of `config.data`; if the latter has no labels, every second image of
    `config.val` against the others.

    Raises:
        DataError: if an index cannot be read, or `config.val` has no labels.
    """
    assert config.val is not None
    train = Part.of(ObjectIndex.open(config.data), _PERIODIC_TRAIN, config.train.seed)
    test = Part.of(ObjectIndex.open(config.val), _PERIODIC_TEST, config.train.seed)
    if not test.labelled(1):
        raise DataError(f"{config.val}: none of its objects has a label; the k-NN during training needs a labelled index")
    if not train.labelled(1):
        train, test = Part(test.index, test.rows[::2]), Part(test.index, test.rows[1::2])
    k = train.labelled(_PERIODIC_K)
    if not k or not test.labelled(1):
        raise DataError(f"{config.val}: too few labelled objects for the k-NN during training, since {config.data} has none")
    whole = test.index.provenance == WHOLE_IMAGE
    settings = KnnSettings(
        modes=["whole-image"] if whole else ["masked-attention", "crop"], k=[k], workers=config.loader.workers, strict=config.strict
    )

    def evaluate(model: ObjectViT, config: PretrainConfig) -> dict[str, float]:
        encoder = Encoder.of(model, config, precision=config.train.precision)
        accuracy = evaluate_knn(encoder, train, test, settings)["models"][0]["accuracy"]
        return {f"knn/{mode}@{one}": value for mode, by_k in accuracy.items() for one, value in by_k.items()}

    return evaluate
