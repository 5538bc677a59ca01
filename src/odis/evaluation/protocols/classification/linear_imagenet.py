"""`linear-imagenet`: the linear classification of ImageNet as DINO, iBOT and DINOv2 measure it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.classification.knn_imagenet import KnnImagenetData
from odis.evaluation.protocols.classification.linear_settings import LinearImagenetSettings
from odis.evaluation.protocols.protocol import Protocol, results_of, statistics_of
from odis.evaluation.protocols.publications.linear_imagenet import ABOUT

if TYPE_CHECKING:
    from odis.evaluation.protocols.layouts.classified import ClassifiedImages
    from odis.inference import Encoder


def evaluate_linear_imagenet(
    encoders: Encoder | Sequence[Encoder],
    train: ClassifiedImages,
    test: ClassifiedImages,
    settings: LinearImagenetSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Train linear heads on augmented views of the train images, and measure them on the test images.

    Args:
        encoders: Models to compare.
        train: Images to train on.
        test: Images to classify; classes are matched by name.
        settings: How.
        progress: Called after each image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; scores are top-1 accuracies in percent with 95 % bootstrap intervals over
        test images. `top-1`: last epoch, head chosen on held-out train images (not with `as_published`).
        `last epoch, best head` and `best epoch and head`: chosen on the test part, as published figures are.
        `chosen` names the heads.

    Raises:
        OdisError: for classes that do not go together, or settings that do not fit.
    """
    from odis.evaluation.protocols.classification.classify import draw_parts
    from odis.evaluation.protocols.classification.linear_training import measure_model, works
    from odis.evaluation.protocols.projection import project
    from odis.evaluation.runner import EvaluationRun

    run = EvaluationRun("linear-imagenet", encoders, settings, progress, on_row)
    train, test, labels = draw_parts(run, train, test)
    project(run, lambda source: works(statistics_of(source, settings), train, test, settings))
    for source in run.encoders:
        run.start()
        encoder = statistics_of(source, settings)
        scores, chosen = measure_model(run, encoder, train, test, labels, settings)
        run.add(source, settings.reference, scores, chosen=chosen, size=settings.crop)
        for name, head in chosen.items():
            words = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in head.items())
            run.notes.append(f"{source.source or 'model'}, {name}: {words}")
    return results_of(run, ABOUT, settings)


def _run(
    models: Models,
    data: KnnImagenetData,
    settings: LinearImagenetSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    train, test = data.open()
    return evaluate_linear_imagenet(models(), train, test, settings, progress, on_row)


PROTOCOL = Protocol(
    name="linear-imagenet",
    summary="linear classification of ImageNet (DINO, iBOT, DINOv2): a grid of heads on frozen features",
    data=KnnImagenetData(),
    settings=LinearImagenetSettings(),
    run=_run,
    titles={
        "linear-imagenet": Titles(
            "linear-imagenet: {test}, trained on {train}",
            "Linear classification, ImageNet's protocol",
            "A linear classifier on frozen features of augmented train images. Accuracy; higher is better.",
        )
    },
    about=ABOUT,
)
