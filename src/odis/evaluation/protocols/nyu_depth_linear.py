"""`nyu-depth-linear`: depth by a linear head on frozen patches, NYU Depth v2 (DINOv3's protocol)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from odis.errors import DataError, OdisError
from odis.evaluation.evaluation import Models, OnRow, Progress, Titles
from odis.evaluation.protocols.about import About, Difference, Published
from odis.evaluation.protocols.protocol import Protocol, ProtocolSettings, results_of, statistics_of
from odis.evaluation.settings import require_given

if TYPE_CHECKING:
    from odis.evaluation.protocols.layouts.nyu import DepthImages
    from odis.inference import Encoder

SWEEP = ((1e-4, 3e-4, 1e-3), (1e-4, 1e-3))
"""Learning rates and weight decays of the published sweep."""


@dataclass(frozen=True, slots=True)
class NyuDepthData:
    """The data set.

    Args:
        data: Folder of NYU Depth v2 as BTS publishes it: sync, official_splits/test, or lists.
        train_list: The list of train images, if it is not nyu_train.txt or
            nyudepthv2_train_files_with_gt.txt in the folder.
        test_list: That of test images, likewise.
    """

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

        require_given(self, "data")
        return open_nyu(self.data, "train", self.train_list), open_nyu(self.data, "test", self.test_list)


@dataclass(frozen=True, kw_only=True)
class NyuDepthSettings(ProtocolSettings):
    """Settings of the protocol.

    Args:
        lr: Learning rates of AdamW; each with each weight decay trains a head of its own on the same views.
        weight_decay: Weight decays.
        sweep: Train the heads of the published sweep: lr 1e-4, 3e-4, 1e-3, each with weight decay 1e-4 and
            1e-3.
        iterations: Steps.
        batch: Views in a step.
        warm_up: Steps of the warm-up; by default a third of the iterations.
        without_variance: First steps whose loss leaves the variance out.
        clip: Largest norm of the gradient.
        cache: Folder in which the heads are kept while they train; the same call goes on there.
        keep_every: Steps between two states that are kept.
    """

    lr: Sequence[float] = (3e-4,)
    weight_decay: Sequence[float] = (1e-4,)
    sweep: bool = False
    iterations: int = 38400
    batch: int = 16
    warm_up: int | None = None
    without_variance: int = 100
    clip: float = 35.0
    cache: str | None = None
    keep_every: int = 500

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        ProtocolSettings.check(self)
        for name, least in (("iterations", 1), ("batch", 1), ("without_variance", 0), ("keep_every", 1)):
            if getattr(self, name) < least:
                raise OdisError(f"{name.replace('_', '-')} {getattr(self, name)} must be {least} or more")
        if self.warm_up is not None and not 0 <= self.warm_up <= self.iterations:
            raise OdisError(f"warm-up {self.warm_up} must be from 0 to the {self.iterations} iterations")
        if not self.lr or min(self.lr) <= 0:
            raise OdisError(f"lr {list(self.lr)} must be one or more numbers above 0")
        if not self.weight_decay or min(self.weight_decay) < 0:
            raise OdisError(f"weight-decay {list(self.weight_decay)} must be one or more numbers, 0 or above")
        if not self.clip > 0:
            raise OdisError(f"clip {self.clip:g} must be above 0")
        if self.sweep and (tuple(self.lr), tuple(self.weight_decay)) != ((3e-4,), (1e-4,)):
            raise OdisError(
                "sweep names its own learning rates and weight decays; leave out lr and weight-decay"
            )

    @property
    def warm(self) -> int:
        """Steps of the warm-up."""
        return self.iterations // 3 if self.warm_up is None else self.warm_up

    def check_models(self, encoders: Sequence[Encoder]) -> None:
        """See `ProtocolSettings.check_models`; the models must take views of any shape.

        Raises:
            OdisError: Naming the model.
        """
        from odis.evaluation.protocols.patches import check_any_shape

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

    from odis.evaluation.protocols import depth_training as training
    from odis.evaluation.runner import EvaluationRun
    from odis.evaluation.scores import mean_score
    from odis.evaluation.subset import draw_rows, overlap_note, real_path

    if settings.sweep:
        settings = replace(settings, lr=SWEEP[0], weight_decay=SWEEP[1], sweep=False)
    run = EvaluationRun("nyu-depth-linear", encoders, settings, progress, on_row)
    train, test = (
        part.select(draw_rows(len(part), most, settings.seed))
        for part, most in ((train, settings.max_train), (test, settings.max_test))
    )
    same = {real_path(path) for path, _ in train.pairs} & {real_path(path) for path, _ in test.pairs}
    run.note(overlap_note(len(same)))
    value = training.mean_depth(train)
    if not np.isfinite(value):
        raise DataError(f"{train.path}: knows no depth in any of its {len(train)} train images")

    def score(errors: np.ndarray, numbers: Sequence[int]) -> dict[str, Any]:
        if not np.isfinite(errors).any():
            raise DataError(f"{test.path}: knows no depth in any of its {len(test)} test images")
        # Scores are in percent: metres are given as hundredths.
        return {"RMSE": mean_score(errors / 100, np.asarray(numbers), seed=settings.seed)}

    numbers: list[int] = []
    for source in run.encoders:
        run.start()
        encoder = statistics_of(source, settings)
        if settings.as_published:
            encoder = replace(encoder, precision="fp32")
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


def _figure(network: str, error: float) -> Published:
    return Published(network, {"RMSE": error}, "DINOv3's paper, table 14; best of the sweep")


ABOUT = About(
    source="DINOv3 (Simeoni et al., 2025, appendix D.2), eval/depth and its config-nyu.yaml",
    settings={
        "data": "BTS's copy of NYU Depth v2, 654 test images; depth / 1,000, known from .001 to 10 m",
        "train view": "crop to columns 43-608 and rows 45-472; turned by up to 2.5 degrees with p .5; "
        "mirrored with p .5; random crop 416 x 544; colour with p .5 (gamma .9-1.1, brightness .75-1.25, "
        "channels .9-1.1)",
        "features": "patches of the last block after the final norm; the image is padded around to whole "
        "patches",
        "head": "batch norm, 1 x 1 convolution to 256; depth is the sum of (ReLU + .1) / sum times 256 "
        "linear bins from .001 to 10 m",
        "loss": "root of the variance of the log difference plus .15 times its squared mean; the first 100 "
        "iterations without the variance",
        "training": "38,400 iterations of 16; AdamW 3e-4, weight decay 1e-4, beta2 .99, gradients clipped at "
        "35",
        "schedule": "12,800 iterations of linear warm-up from lr / 1,000, times a cosine over all iterations "
        "to lr / 25,000; beta1 is 0 in the warm-up, then .85 to .95",
        "test": "the whole 480 x 640 image and its mirror image averaged, bilinear to the truth, clamped; "
        "Eigen's crop, rows 45-471 and columns 41-601; RMSE of each image, then the mean",
        "head that counts": "that of the last iteration",
    },
    chosen="the best of lr 1e-4, 3e-4, 1e-3 and weight decay 1e-4, 1e-3, by the figures themselves (--sweep)",
    differences=(
        Difference("the model's own pixel statistics", "ImageNet's for every model", True),
        Difference("beta1 is .85 in the warm-up", "0, a side effect", True),
        Difference("the precision the model was loaded with (bf16 on a GPU)", "fp32", True),
        Difference(
            "one head, lr 3e-4 and weight decay 1e-4; with --sweep all are printed",
            "the best of the sweep",
            False,
        ),
        Difference(
            "what was padded is cut off before depth maps are compared (none for patches of 16)",
            "not stated",
            False,
        ),
        Difference("photographs are turned as their EXIF says", "EXIF is not looked at", True),
        Difference("batch norm over the batch of one process", "synchronised over processes", False),
        Difference("beta1 rises as a cosine; colours change on values from 0 to 1", "not stated", False),
        Difference("draws of our own generator", "torch's", False),
    ),
    figures=(
        _figure("DINOv2R ViT-S/14", 0.446),
        _figure("DINOv2R ViT-B/14", 0.416),
        _figure("DINOv2R ViT-L/14", 0.394),
        _figure("DINOv2R ViT-g/14", 0.372),
        _figure("DINOv3 ViT-S/16", 0.403),
        _figure("DINOv3 ViT-S+/16", 0.399),
        _figure("DINOv3 ViT-B/16", 0.373),
        _figure("DINOv3 ViT-L/16", 0.352),
        _figure("DINOv3 ViT-7B/16", 0.309),
    ),
    memory="a batch of 16 views and their patches (884 of D each for patches of 16), and for each head 256 "
    "values a patch",
    time="38,400 steps of 16 views of 416 x 544: 614,400 passes a model, whatever the number of heads. "
    "`--cache DIR` keeps the heads every 500 steps; the same call goes on there",
)

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
