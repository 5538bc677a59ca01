"""`ade20k-linear`: segmentation by a linear head on frozen patches, ADE20K (DINOv3's protocol)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.protocol import Protocol, ProtocolSettings, results_of, statistics_of
from odis.evaluation.protocols.publications.ade20k_linear import ABOUT
from odis.evaluation.protocols.segmentation.segmented_settings import SegmentedData
from odis.evaluation.protocols.training.iterated_settings import IteratedSettings

if TYPE_CHECKING:
    from odis.evaluation.protocols.layouts.segmentation import SegmentedImages
    from odis.evaluation.protocols.projection import Work
    from odis.evaluation.protocols.segmentation.ade_training import SegmentedRows
    from odis.evaluation.runner import EvaluationRun
    from odis.inference import Encoder

SIDE, STRIDE = 512, 341


@dataclass(frozen=True, kw_only=True)
class Ade20kSettings(IteratedSettings):
    """Settings of the protocol.

    Args:
        size: Side of views and windows in pixels; by default 512, or 32 patches of a model whose patches do
            not tile it (448 for patches of 14).
        dropout: Share of channels that are dropped in training.
        warm_up: Steps of the warm-up.
        measure_every: As published, steps between two measurements on the test part, the best of which
            counts.
    """

    size: int | None = None
    dropout: float = 0.1
    warm_up: int = 1500
    measure_every: int = 5000

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        IteratedSettings.check(self)
        if self.measure_every < 1:
            raise OdisError(f"measure-every {self.measure_every} must be 1 or more")
        if self.size is not None and self.size < 1:
            raise OdisError(f"size {self.size} must be 1 or more")
        self.check_warm_up(self.warm_up)
        if not 0 <= self.dropout < 1:
            raise OdisError(f"dropout {self.dropout:g} must be from 0 to below 1")

    def side_of(self, encoder: Encoder) -> int:
        """Side of a model's views in pixels."""
        if self.size is not None:
            return self.size
        return SIDE if SIDE % encoder.patch_size == 0 else 32 * encoder.patch_size

    def check_models(self, encoders: Sequence[Encoder]) -> None:
        """See `ProtocolSettings.check_models`; a model must have patches that tile its view.

        Raises:
            OdisError: Naming the size or the model.
        """
        from odis.config.query import QueryConfig

        ProtocolSettings.check_models(self, encoders)
        for encoder in encoders:
            encoder.query_builder(QueryConfig(("mean-pool",), size=self.side_of(encoder)))


def evaluate_ade20k(
    encoders: Encoder | Sequence[Encoder],
    train: SegmentedImages,
    test: SegmentedImages,
    settings: Ade20kSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Train linear heads on frozen patches, and label the test images by sliding windows.

    Each view is shown once to a model, whatever the number of heads. Memory holds a batch of features and the
    scores of one test image.

    Args:
        encoders: Models to compare.
        train: Images and label maps to learn from.
        test: Images and label maps to measure on; classes are matched by name.
        settings: How.
        progress: Called after each step and each test image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; `mIoU` of the last iteration in percent with 95 % bootstrap intervals over
        test images, and as published that of the best measurement too. A row is a model and a head; then come
        the most frequent class everywhere, and the true labels as patches can hold them.

    Raises:
        OdisError: Settings or models that do not fit.
        DataError: Nothing could be measured: no class, one class only, or none in common.
    """
    from odis.evaluation.dense import train_positions
    from odis.evaluation.protocols.projection import project
    from odis.evaluation.protocols.segmentation import ade_training as training
    from odis.evaluation.protocols.segmentation.segmented import draw_segmented
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.scores import iou_score

    settings = settings.swept()
    run = EvaluationRun("ade20k-linear", encoders, settings, progress, on_row)
    train_rows, test_rows = draw_segmented(run, train, test)
    parts = (
        training.SegmentedRows(train, train_rows, train_positions(train.images, train.images)),
        training.SegmentedRows(test, test_rows, train_positions(test.images, train.images)),
    )
    classes = len(train.images.classes)

    def works(source: Encoder) -> Iterator[Work]:
        encoder = _shown_to(source, settings)
        side = settings.side_of(encoder)
        return training.works(encoder, parts, side, stride_of(side), settings)

    project(run, works)
    counts = None
    for source in run.encoders:
        run.start()
        counts = _model_rows(run, source, parts, settings, classes)
    sides = {(encoder.patch_size, settings.side_of(encoder)): encoder for encoder in run.encoders}
    if counts is not None:
        run.start()
        score, _ = iou_score(training.frequent_class_counts(counts), seed=settings.seed)
        run.add_bound(
            "chance", "the most frequent class everywhere", {"mIoU": score}, provenance="label maps"
        )
    for (patch, side), encoder in sorted(sides.items(), key=lambda item: item[0]):
        run.start()
        stride = stride_of(side)
        scorers = training.ceiling_scorers(patch, side, stride, classes, encoder.device)
        what = f"ceiling, patches of {patch}"
        _, of = training.label_counts(run, parts[1], side, stride, what, scorers, 1, classes)
        score, _ = iou_score(of[0], seed=settings.seed)
        run.add_bound(
            "ceiling", f"true labels, patches of {patch} px", {"mIoU": score}, provenance="label maps"
        )
    return results_of(run, ABOUT, settings)


def _shown_to(source: Encoder, settings: Ade20kSettings) -> Encoder:
    encoder = statistics_of(source, settings)
    return replace(encoder, precision="fp32") if settings.as_published else encoder


def stride_of(side: int) -> int:
    """How far windows of a side are apart: 341 of 512."""
    return max(1, round(side * STRIDE / SIDE))


def _model_rows(
    run: EvaluationRun,
    source: Encoder,
    parts: tuple[SegmentedRows, SegmentedRows],
    settings: Ade20kSettings,
    classes: int,
) -> Any:
    """The rows of a model, one a head; counts of the first head on the test images, int64 (n, 3, C)."""
    import numpy as np

    from odis.evaluation.protocols.segmentation import ade_training as training
    from odis.evaluation.scores import Score, iou_score

    encoder = _shown_to(source, settings)
    side = settings.side_of(encoder)
    stride, name = stride_of(side), source.source or "model"
    many = len(settings.heads)

    def label_counts(heads: Any) -> Any:
        scorers = training.head_scorers(encoder, heads, side, settings.read.batch_size)
        what = f"{name}, test after {counted(heads.iteration, 'step')}"
        return training.label_counts(run, parts[1], side, stride, what, scorers, many, classes)[1]

    def measured(heads: Any) -> list[float]:
        return [training.percent_iou(of) for of in label_counts(heads)]

    measure = measured if settings.as_published else None
    heads = training.train_heads(run, encoder, parts[0], side, settings, measure)
    counts = label_counts(heads)
    found = [iou_score(of, seed=settings.seed) for of in counts]
    history = np.array(heads.history, dtype=np.float64).reshape(-1, many)
    tops = [float(np.max(history[:, k], initial=score.value)) for k, (score, _) in enumerate(found)]
    for k, (head, (score, by_class)) in enumerate(zip(heads.heads, found, strict=True)):
        scores = {"mIoU": score}
        if settings.as_published:
            scores["best mIoU"] = Score(tops[k], float("nan"), float("nan"))
        mode = f"linear head, lr {head.lr:g}, weight decay {head.weight_decay:g}"
        if many > 1 and k == int(np.argmax(tops)):
            mode += ", best of the sweep on the test part"
        named = zip(parts[0].images.images.classes, by_class, strict=True)
        run.add(
            source,
            mode,
            scores,
            size=side,
            precision=encoder.precision,
            lr=head.lr,
            weight_decay=head.weight_decay,
            iterations=settings.iterations,
            history=[round(float(value), 3) for value in history[:, k]],
            iou={one: round(float(value), 3) for one, value in named if np.isfinite(value)},
        )
    return counts[0]


def _run(
    models: Models,
    data: SegmentedData,
    settings: Ade20kSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    train, test = data.open()
    return evaluate_ade20k(models(), train, test, settings, progress, on_row)


PROTOCOL = Protocol(
    name="ade20k-linear",
    summary="Segmentation on ADE20K (DINOv3): a linear head on frozen patches, sliding windows; mIoU",
    data=SegmentedData(),
    settings=Ade20kSettings(),
    run=_run,
    titles={
        "ade20k-linear": Titles(
            "ade20k-linear: {test}, trained on {train}",
            "Segmentation by a linear head, ADE20K",
            "A linear head labels the patches, windows slide over the image. mIoU at the label maps' own "
            "size; higher is better.",
        )
    },
    about=ABOUT,
)
