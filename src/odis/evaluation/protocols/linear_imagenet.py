"""`linear-imagenet`: the linear classification of ImageNet as DINO, iBOT and DINOv2 measure it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.about import About, Difference, Published
from odis.evaluation.protocols.knn_imagenet import KnnImagenetData
from odis.evaluation.protocols.linear_settings import LinearImagenetSettings
from odis.evaluation.protocols.protocol import Protocol, results_of, statistics_of

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
    from odis.evaluation.protocols.classify import drawn, matched_labels, same_files
    from odis.evaluation.protocols.linear_training import measure_model
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.subset import overlap_note

    run = EvaluationRun("linear-imagenet", encoders, settings, progress, on_row)
    train, test = (
        drawn(train, settings.max_train, settings.seed),
        drawn(test, settings.max_test, settings.seed),
    )
    labels = matched_labels(test, train)
    run.notes = overlap_note(same_files(test, train))
    for source in run.encoders:
        run.start()
        encoder = statistics_of(source, settings)
        scores, chosen = measure_model(run, encoder, train, test, labels, settings)
        run.add(source, settings.reference, scores, chosen=chosen, size=settings.crop)
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


_DINO, _IBOT, _DINOV2 = "DINO's README", "iBOT's README", "DINOv2's README and model card"
_BEST = "best epoch and head"

ABOUT = About(
    source="DINO (Caron et al., 2021), eval_linear.py; iBOT (Zhou et al., 2022), evaluation/"
    "eval_linear_multi.py; DINOv2 (Oquab et al., 2023), dinov2/eval/linear.py",
    settings={
        "train view": "random resized crop 224, scale .08 to 1, bilinear (DINOv2: bicubic), flip .5",
        "test view": "shorter side to 256, bicubic, centre crop 224",
        "features, ViT-S": "[CLS] of the last 4 blocks, each through the final norm (DINOv2: also those of "
        "ViT-B, and both without and with the mean patch)",
        "features, ViT-B and L": "the last [CLS] and the mean of its patches",
        "learning rates": "DINO one, .001 x batch / 256; iBOT 45, 1 to 9 times 1e-4 to 1; DINOv2 13, 1, 2, 5 "
        "times 1e-5 to 1e-2 and .1; each with a head of its own",
        "length": "DINO and iBOT 100 epochs, cosine stepped per epoch; DINOv2 12,500 steps (10 x 1,250), "
        "cosine per step; batch 1,024",
        "optimiser": "SGD, momentum .9, no weight decay; weights N(0, .01), biases 0; the backbone is frozen",
    },
    chosen="the best head of the grid and the best epoch, both on the validation set itself; the last epoch "
    "is printed beside it",
    differences=(
        Difference(
            "top-1 is of the last epoch, its head chosen on held-out train images",
            "the test part chooses head and epoch",
            True,
        ),
        Difference("the model's own pixel statistics", "ImageNet's for every model", True),
        Difference("photographs are turned as their EXIF says", "EXIF is not looked at", True),
        Difference(
            "an epoch's last batch is smaller where images do not divide; one process holds the batch",
            "the batch is spread over GPUs",
            False,
        ),
    ),
    figures=(
        Published("DINO ViT-S/16", {_BEST: 77.0}, _DINO),
        Published("DINO ViT-B/16", {_BEST: 78.2}, _DINO),
        Published("DINO ViT-S/8", {_BEST: 79.7}, _DINO),
        Published("DINO ViT-B/8", {_BEST: 80.1}, _DINO),
        Published("iBOT ViT-S/16", {_BEST: 77.9}, _IBOT),
        Published("iBOT ViT-B/16", {_BEST: 79.5}, _IBOT),
        Published("iBOT ViT-L/16", {_BEST: 81.0}, _IBOT),
        Published("DINOv2 ViT-S/14", {_BEST: 81.1}, _DINOV2),
        Published("DINOv2 ViT-B/14", {_BEST: 84.5}, _DINOV2),
        Published("DINOv2 ViT-L/14", {_BEST: 86.3}, _DINOV2),
        Published("DINOv2 ViT-g/14", {_BEST: 86.5}, _DINOV2),
    ),
    memory="test features (50,000 x 5 D x 4 bytes with 4 blocks: .4 GB at D 384) and the heads (with "
    "momentum 8 bytes x D x classes x heads: .5 GB for DINOv2's 52 at D 384)",
    time="100 (DINO, iBOT) or 10 (DINOv2) epochs of forward passes a model; `--cache DIR` keeps the heads "
    "after each epoch, and the same call goes on",
)

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
