"""`linear-seg`: a linear head on frozen patches, as Leopart and NeCo train and score it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odis.errors import OdisError
from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.protocol import Protocol, results_of, statistics_of
from odis.evaluation.protocols.publications.linear_seg import ABOUT
from odis.evaluation.protocols.segmentation.segmented_settings import (
    PATCHES,
    SegmentedData,
    SegmentedSettings,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from odis.evaluation.protocols.images.store import Made
    from odis.evaluation.protocols.layouts.segmentation import SegmentedImages
    from odis.evaluation.protocols.projection import Work
    from odis.evaluation.protocols.segmentation.linear_seg_head import HeadTraining
    from odis.evaluation.protocols.segmentation.segmented import SegmentedReader, SegmentedViews
    from odis.inference import Encoder

TRAINED_AT = 100
"""Side in pixels at which the head is trained, and scored after each epoch."""

TEST = "linear-seg test"
"""What is kept of test images."""


@dataclass(frozen=True, kw_only=True)
class LinearSegSettings(SegmentedSettings):
    """Settings of the protocol.

    Args:
        epochs: Passes over the train part.
        batch: Images in a step of SGD.
        lr: Learning rate; a tenth of it after drop epochs.
        momentum: Of SGD.
        weight_decay: Of weights and biases.
        drop: See lr.
    """

    epochs: int = 25
    batch: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    drop: int = 20

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        SegmentedSettings.check(self)
        for name, value in (("epochs", self.epochs), ("batch", self.batch)):
            if value < 1:
                raise OdisError(f"{name} {value} must be 1 or more")
        if not self.lr > 0:
            raise OdisError(f"lr {self.lr:g} must be above 0")
        for name, rate in (("momentum", self.momentum), ("weight-decay", self.weight_decay)):
            if not 0 <= rate < 1:
                raise OdisError(f"{name} {rate:g} must be 0 or more, and below 1")


def evaluate_linear_seg(
    encoders: Encoder | Sequence[Encoder],
    train: SegmentedImages,
    test: SegmentedImages,
    settings: LinearSegSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Train a linear head on patches, and label the pixels of test images.

    Args:
        encoders: Models to compare.
        train: Images to train on.
        test: Images to label; classes are matched by name.
        settings: How.
        progress: Called after each image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; scores are mIoU in percent on maps of 100 pixels and on maps of the view,
        after the last epoch and after the best one on the test part, with 95 % bootstrap intervals over test
        images. `best_epoch` and `history` (mIoU at 100 after each epoch) say how the best was chosen.

    Raises:
        OdisError: For classes that do not go together, or settings that do not fit.
    """
    import torch

    from odis.evaluation.protocols.projection import project
    from odis.evaluation.protocols.segmentation.segmented import SegmentedReader, draw_segmented
    from odis.evaluation.runner import EvaluationRun

    run = EvaluationRun("linear-seg", encoders, settings, progress, on_row)
    train_rows, test_rows = draw_segmented(run, train, test)

    def measured(source: Encoder) -> _HeadOnPatches:
        reader = SegmentedReader(run, statistics_of(source, settings), settings)
        return _HeadOnPatches(reader, settings, train, test)

    project(run, lambda source: measured(source).works(train_rows, test_rows))
    for source in run.encoders:
        run.start()
        measure = measured(source)
        measure.read_test(test_rows)
        training = measure.train(train_rows)
        heads = {"best epoch": training.best}
        if not settings.as_published:
            heads = {"mIoU": dict(training.head.state_dict()), **heads}
        scores = {}
        by_class: dict[str, float] = {}
        for name, state in heads.items():
            training.head.load_state_dict({key: torch.as_tensor(value) for key, value in state.items()})
            for side in (TRAINED_AT, measure.side):
                score, of_classes = measure.score(training, side)
                scores[f"{name} at {side}"] = score
                by_class = by_class or of_classes
        run.add(
            source,
            PATCHES,
            scores,
            size=measure.side,
            iou=by_class,
            best_epoch=training.best_epoch,
            history=[round(value, 3) for value in training.history],
        )
    run.notes.append(f"best epoch: chosen on the test part by mIoU at {TRAINED_AT}, as published figures are")
    return results_of(run, ABOUT, settings)


class _HeadOnPatches:
    """One model: its test patches, its head, and the scores."""

    def __init__(
        self,
        reader: SegmentedReader,
        settings: LinearSegSettings,
        train: SegmentedImages,
        test: SegmentedImages,
    ) -> None:
        from odis.evaluation.protocols.segmentation.segmented import LabelCoding

        self.reader, self.settings, self.part, self.test = reader, settings, train, test
        self.side = settings.side_of(reader.encoder)
        self.coding = LabelCoding.of(train, train, published=settings.as_published)
        self.test_coding = LabelCoding.of(test, train, published=settings.as_published)
        self.patches: list[Tensor] = []
        self.labels: list[np.ndarray] = []

    def kept(self, number: int, patches: Tensor, labels: np.ndarray) -> Made:
        """Of a test image all patches and labels."""
        return {"patches": patches.cpu().numpy(), "labels": labels}

    def learned(self, number: int, patches: Tensor, labels: np.ndarray) -> Made:
        """Of a train view its patches, and labels as the head learns them."""
        from odis.evaluation.protocols.segmentation.linear_seg_head import nearest_labels

        return {"patches": patches.cpu().numpy(), "labels": nearest_labels(labels, TRAINED_AT)}

    def test_views(self, rows: Sequence[int]) -> SegmentedViews:
        """The test images as they are shown."""
        from odis.evaluation.protocols.segmentation.segmented import SegmentedViews
        from odis.evaluation.protocols.segmentation.segmented_views import SquashBoth

        return SegmentedViews(self.test, rows, SquashBoth(self.side), self.test_coding)

    def train_views(self, rows: Sequence[int], epoch: int) -> SegmentedViews:
        """The train images as an epoch shows them, in its order."""
        import numpy as np

        from odis.evaluation.protocols.segmentation.segmented import SegmentedViews
        from odis.evaluation.protocols.segmentation.segmented_views import RandomSquare

        seed = self.settings.seed
        order = np.random.default_rng([seed, 2, epoch]).permutation(np.asarray(rows)).tolist()
        return SegmentedViews(self.part, order, RandomSquare(self.side), self.coding, seed=seed, first=epoch)

    def works(self, train_rows: Sequence[int], test_rows: Sequence[int]) -> Iterator[Work]:
        """What there is to do for the model, measured."""
        import numpy as np
        import torch

        from odis.evaluation.protocols.projection import Work, seconds_each

        reader, settings = self.reader, self.settings
        device = reader.encoder.device
        views = self.test_views(test_rows)
        seconds = reader.seconds(views, self.kept)
        yield Work("test images", reader.store(views, what=TEST).missing(len(views)), seconds)
        patches, reader.grid = reader.patches(np.zeros((1, 3, self.side, self.side), np.uint8), "test")
        training = self.begin(patches.shape[2])
        saved = self._saved(train_rows)
        if saved is not None:
            training.read_state(saved)
        left = settings.epochs - training.epoch
        views = self.train_views(train_rows, 0)
        yield Work("train views", left * len(views), reader.seconds(views, self.learned))
        probe: HeadTraining = self.begin(patches.shape[2])

        def step(n: int) -> None:
            labels = torch.zeros(n, TRAINED_AT, TRAINED_AT, dtype=torch.int64, device=device)
            probe.step(patches[:1].expand(n, -1, -1), labels)

        yield Work("the head", left * len(views), seconds_each(step, settings.batch, device))

        def score(n: int) -> None:
            labels = [np.zeros((self.side, self.side), np.int16)] * n
            self.counts(probe, [patches[0].cpu()] * n, labels, self.side)

        scored = len(test_rows) * (left + (2 if settings.as_published else 4))
        yield Work("scores", scored, seconds_each(score, 8, device))

    def read_test(self, rows: Sequence[int]) -> None:
        """Embed the test images, and keep their patches and labels."""
        self.patches, self.labels = self.reader.collect(self.test_views(rows), self.kept, TEST)

    def begin(self, width: int) -> HeadTraining:
        """A head that has learned nothing; the same one, whatever was drawn before."""
        import torch

        from odis.evaluation.protocols.segmentation.linear_seg_head import HeadTraining

        settings = self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            head = torch.nn.Linear(width, len(self.coding.classes)).to(self.reader.encoder.device)
        return HeadTraining(
            head, self.reader.grid, settings.lr, settings.momentum, settings.weight_decay, settings.drop
        )

    def train(self, rows: Sequence[int]) -> HeadTraining:
        """Train the head, from the epoch on that is saved."""
        training = self.begin(self.patches[0].shape[1])
        saved = self._saved(rows)
        if saved is not None:
            training.read_state(saved)
        for epoch in range(training.epoch, self.settings.epochs):
            self._epoch(training, self.train_views(rows, epoch))
            training.end_epoch(self.score(training, TRAINED_AT, resamples=0)[0].value)
            if saved is not None:
                training.write_state(saved)
        return training

    def _epoch(self, training: HeadTraining, views: SegmentedViews) -> None:
        import torch

        device = self.reader.encoder.device
        patches: list[Tensor] = []
        labels: list[Tensor] = []

        def step() -> None:
            if patches:
                training.step(torch.stack(patches).to(device), torch.stack(labels).long().to(device))
                patches.clear()
                labels.clear()

        for _, made in self.reader.stream(views, "train", self.learned, keep=False):
            patches.append(torch.from_numpy(made["patches"]))
            labels.append(torch.from_numpy(made["labels"]))
            if len(patches) == self.settings.batch:
                step()
        step()

    def score(self, training: HeadTraining, side: int, resamples: int = 1000) -> tuple[Any, dict[str, float]]:
        """mIoU at a side, and IoU by class."""
        import numpy as np

        from odis.evaluation.scores import iou_score

        taken, published = len(self.patches), self.settings.as_published
        if published and side == TRAINED_AT and taken >= self.settings.batch:
            taken -= taken % self.settings.batch  # the loader of the reference drops the incomplete batch
        counts = self.counts(training, self.patches[:taken], self.labels[:taken], side)
        score, by_class = iou_score(
            counts, all_classes=published, resamples=resamples, seed=self.settings.seed
        )
        named = zip(self.coding.classes, by_class, strict=True)
        return score, {name: round(float(v), 3) for name, v in named if np.isfinite(v)}

    def counts(
        self, training: HeadTraining, patches: Sequence[Tensor], labels: Sequence[np.ndarray], side: int
    ) -> np.ndarray:
        """See `head_counts`."""
        from odis.evaluation.protocols.segmentation.linear_seg_head import head_counts

        return head_counts(training.head, patches, self.reader.grid, labels, side)

    def _saved(self, rows: Sequence[int]) -> Path | None:
        """Where the head is saved after each epoch, if there is a cache."""
        from dataclasses import asdict

        from odis.evaluation.protocols.images.store import files_key, key_digest, model_key

        settings = self.settings
        if not settings.cache:
            return None
        files = [files_key(f for row in rows for f in self.part.images.files(row))]
        files.append(files_key(f for i in range(len(self.test.images)) for f in self.test.images.files(i)))
        key = {k: v for k, v in asdict(settings).items() if k not in ("read", "query", "cache", "epochs")}
        key |= {"files": files, "classes": self.coding.classes, **model_key(self.reader.encoder)}
        return Path(settings.cache) / f"linear-seg-{key_digest(key)}.safetensors"


def _run(
    models: Models,
    data: SegmentedData,
    settings: LinearSegSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    train, test = data.open()
    return evaluate_linear_seg(models(), train, test, settings, progress, on_row)


PROTOCOL = Protocol(
    name="linear-seg",
    summary="Segmentation by a linear head on frozen patches (Leopart, NeCo): mIoU at 100 and at 448",
    data=SegmentedData(),
    settings=LinearSegSettings(),
    run=_run,
    titles={
        "linear-seg": Titles(
            "linear-seg: {test}, trained on {train}",
            "Linear segmentation",
            "A linear head labels the patches. mIoU on maps of 100 pixels and of the view; higher is better.",
        )
    },
    about=ABOUT,
)
