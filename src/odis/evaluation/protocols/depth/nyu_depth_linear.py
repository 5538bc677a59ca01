"""`nyu-depth-linear`: depth by a linear head on frozen patches, NYU Depth v2 (DINOv3's protocol)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from odis.config.wording import counted
from odis.errors import DataError, OdisError
from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.protocol import Protocol, ProtocolSettings, results_of, statistics_of
from odis.evaluation.protocols.publications.nyu_depth_linear import ABOUT
from odis.evaluation.protocols.training.iterated_settings import IteratedSettings
from odis.evaluation.settings import require_given

if TYPE_CHECKING:
    from odis.evaluation.protocols.layouts.nyu import DepthImages
    from odis.inference import Encoder


@dataclass(frozen=True, slots=True)
class NyuDepthData:
    """The data set.

    Args:
        data: Folder of NYU Depth v2 as BTS publishes it: sync, official_splits/test, or lists.
        train_list: The list of train images, if it is not nyu_train.txt or
            nyudepthv2_train_files_with_gt.txt in the folder.
        test_list: That of test images, likewise.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("data",)

    data: str = ""
    train_list: str | None = None
    test_list: str | None = None

    def open(self) -> tuple[DepthImages, DepthImages]:
        """Train and test part.

        Raises:
            OdisError: They are not given.
            DataError: They cannot be read.
        """
        from odis.evaluation.protocols.layouts.nyu import open_nyu

        require_given(self)
        return open_nyu(self.data, "train", self.train_list), open_nyu(self.data, "test", self.test_list)


@dataclass(frozen=True, kw_only=True)
class NyuDepthSettings(IteratedSettings):
    """Settings of the protocol.

    Args:
        warm_up: Steps of the warm-up; by default a third of the iterations.
        without_variance: First steps whose loss leaves the variance out.
        clip: Largest norm of the gradient.
    """

    lr: Sequence[float] = (3e-4,)
    weight_decay: Sequence[float] = (1e-4,)
    iterations: int = 38400
    warm_up: int | None = None
    without_variance: int = 100
    clip: float = 35.0

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        IteratedSettings.check(self)
        if self.without_variance < 0:
            raise OdisError(f"without-variance {self.without_variance} must be 0 or more")
        if self.warm_up is not None:
            self.check_warm_up(self.warm_up)
        if not self.clip > 0:
            raise OdisError(f"clip {self.clip:g} must be above 0")

    @property
    def warm(self) -> int:
        """Steps of the warm-up."""
        return self.iterations // 3 if self.warm_up is None else self.warm_up

    def check_models(self, encoders: Sequence[Encoder]) -> None:
        """See `ProtocolSettings.check_models`; the models must take views of any shape.

        Raises:
            OdisError: Naming the model.
        """
        from odis.evaluation.protocols.images.patches import check_any_shape

        ProtocolSettings.check_models(self, encoders)
        check_any_shape(encoders, "nyu-depth-linear")


def evaluate_nyu_depth(
    encoders: Encoder | Sequence[Encoder],
    train: DepthImages,
    test: DepthImages,
    settings: NyuDepthSettings,
    progress: Progress | None = None,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Train linear heads for depth on frozen patches, and measure the last iteration's on the test images.

    Each view is shown once to a model, whatever the number of heads. Memory holds a batch of features.

    Args:
        encoders: Models to compare.
        train: Images and depth maps to learn from.
        test: Images and depth maps to measure on.
        settings: How.
        progress: Called after each step and each test image.
        on_row: Called with the results so far after each row.

    Returns:
        What `results.json` holds; the RMSE in metres, of each image and then the mean, with 95 % bootstrap
        intervals over test images. A row is a model and a head; then come the mean depth of the train part
        everywhere, and the true depth as patches can hold it.

    Raises:
        OdisError: Settings or models that do not fit.
        DataError: No depth is known in either part.
    """
    import numpy as np

    from odis.evaluation.protocols.depth import depth_training as training
    from odis.evaluation.protocols.projection import project
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.scores import mean_score
    from odis.evaluation.subset import draw_rows, overlap_note, real_path

    settings = settings.swept()
    run = EvaluationRun("nyu-depth-linear", encoders, settings, progress, on_row)
    train, test = (
        part.select(draw_rows(len(part), most, settings.seed))
        for part, most in ((train, settings.max_train), (test, settings.max_test))
    )
    same = {real_path(path) for path, _ in train.pairs} & {real_path(path) for path, _ in test.pairs}
    run.note(overlap_note(len(same)))
    if not training.knows_depth(test):
        raise DataError(f"{test.path}: knows no depth in any of its {counted(len(test), 'test image')}")

    def shown_to(source: Encoder) -> Encoder:
        encoder = statistics_of(source, settings)
        return replace(encoder, precision="fp32") if settings.as_published else encoder

    project(run, lambda source: training.works(shown_to(source), train, test, settings))
    value = training.mean_depth(run, train)
    if not np.isfinite(value):
        raise DataError(f"{train.path}: knows no depth in any of its {counted(len(train), 'train image')}")

    def score(errors: np.ndarray, numbers: Sequence[int]) -> dict[str, Any]:
        # Scores are in percent: metres are given as hundredths.
        return {"RMSE": mean_score(errors / 100, np.asarray(numbers), seed=settings.seed)}

    numbers: list[int] = []
    for source in run.encoders:
        run.start()
        encoder = shown_to(source)
        heads = training.train_heads(run, encoder, train, settings)
        numbers, errors = training.errors_on(run, encoder, heads, test, settings)
        means = [float(np.nanmean(of)) if np.isfinite(of).any() else np.inf for of in errors]
        for k, head in enumerate(heads.heads):
            mode = f"linear head, lr {head.lr:g}, weight decay {head.weight_decay:g}"
            best = len(means) > 1 and k == int(np.argmin(means))
            run.add(
                source,
                mode + (", best of the sweep on the test part" if best else ""),
                score(errors[k], numbers),
                size="416 x 544 px",
                lr=head.lr,
                weight_decay=head.weight_decay,
                iterations=settings.iterations,
            )
    for k, patch in enumerate(sorted({encoder.patch_size for encoder in run.encoders})):
        run.start()
        mean, through = training.plain_errors(test, numbers, value, patch)
        if not k:
            run.add_bound(
                "chance", f"{value:.3f} m everywhere", score(mean, numbers), provenance="mean of train"
            )
        run.add_bound(
            "ceiling", f"true depth, patches of {patch} px", score(through, numbers), provenance="depth maps"
        )
    return results_of(run, ABOUT, settings) | {"unit": "metres"}


def _run(
    models: Models,
    data: NyuDepthData,
    settings: NyuDepthSettings,
    progress: Progress | None,
    on_row: OnRow | None,
) -> dict[str, Any]:
    train, test = data.open()
    return evaluate_nyu_depth(models(), train, test, settings, progress, on_row)


PROTOCOL = Protocol(
    name="nyu-depth-linear",
    summary="Depth on NYUv2 (DINOv3): a linear head with 256 bins on frozen patches; RMSE in metres",
    data=NyuDepthData(),
    settings=NyuDepthSettings(),
    run=_run,
    titles={
        "nyu-depth-linear": Titles(
            "nyu-depth-linear: {test}",
            "Depth by a linear head, NYUv2",
            "The root mean squared error of depth in metres, of each image and then the mean. Lower is "
            "better.",
        )
    },
    about=ABOUT,
)
