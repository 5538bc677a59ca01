"""What can be set of a fine-tuning: what all tasks share, and what each has of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from odis.config.query import ReadConfig
from odis.errors import OdisError
from odis.evaluation.protocols.segmentation.segmented_settings import SegmentedData

FREE = ("log_every", "checkpoint_every", "read", "resamples", "grad_checkpointing")
"""Settings that a resume may change: what is trained and measured stays the same, to rounding."""

SCALES = (4.0, 2.0, 1.0, 0.5)
"""Resolutions that a pyramid can have, over that of the patches."""

_READ = {"only": ("workers", "device", "precision", "strict")}


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """What every task is trained by.

    Args:
        size: Side of an image in pixels; each task says which.
        steps: Steps of training.
        batch: Images in a step.
        lr: Peak learning rate of AdamW, for heads and the last layers; it is not scaled with the batch.
        weight_decay: Weight decay of matrices and kernels.
        layer_decay: Factor on the learning rate from each block to the one before it.
        warm_up: Steps in which the learning rate rises from 0, at most half of all; then it falls to 0 as
            half a cosine.
        head_steps: First steps in which the head alone is trained, at most half of all.
        frozen: The backbone is not trained at all.
        drop_path: Stochastic depth of the backbone.
        clip_grad: Largest gradient norm; 0 does not clip.
        grad_checkpointing: Compute the blocks again in the backward pass, to save memory.
        seeds: Each starting point is trained once by each: of heads, images, crops, and of random weights.
        max_train: Use at most this many train images, drawn by seed 0.
        max_test: Use at most this many test images, drawn by seed 0.
        log_every: Steps between two lines of metrics.jsonl.
        checkpoint_every: Steps between two checkpoints.
        resamples: Resamples of the test images, for the intervals.
        read: How images are read.
    """

    size: int = 224
    steps: int = 2000
    batch: int = 16
    lr: float = 1e-4
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    warm_up: int = 100
    head_steps: int = 0
    frozen: bool = False
    drop_path: float = 0.0
    clip_grad: float = 3.0
    grad_checkpointing: bool = False
    seeds: Sequence[int] = (0,)
    max_train: int | None = None
    max_test: int | None = None
    log_every: int = 20
    checkpoint_every: int = 200
    resamples: int = 200
    read: ReadConfig = field(default_factory=ReadConfig, metadata=_READ)

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is loaded.

        Raises:
            OdisError: Naming the setting and what is allowed.
        """
        self.read.check()
        for name in ("size", "steps", "batch", "log_every", "checkpoint_every"):
            _at_least(self, name, 1)
        for name in ("warm_up", "head_steps"):
            _at_least(self, name, 0)
        for name in ("weight_decay", "clip_grad"):
            if not 0 <= getattr(self, name) < math.inf:
                _refuse(self, name, "0 or above")
        if not 0 < self.lr < math.inf:
            _refuse(self, "lr", "above 0")
        if not 0 < self.layer_decay <= 1:
            _refuse(self, "layer_decay", "above 0, 1 at most")
        if not 0 <= self.drop_path < 1:
            _refuse(self, "drop_path", "from 0 to below 1")
        for name in ("max_train", "max_test"):
            if getattr(self, name) is not None:
                _at_least(self, name, 1)
        _at_least(self, "resamples", 2)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise OdisError(f"seeds {list(self.seeds)} must be one or more numbers, 0 or above, none twice")
        if self.read.precision == "fp16":
            raise OdisError("precision fp16: fine-tuning takes fp32, bf16 or auto")
        if self.frozen and self.head_steps:
            raise OdisError("head-steps says when the backbone begins to train; with frozen it never does")

    def as_dict(self) -> dict[str, Any]:
        """All that changes a result, for the record."""
        kept = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in (*FREE, "seeds")}
        return {name: _plain(value) for name, value in kept.items()}


@dataclass(frozen=True, kw_only=True)
class DetectionSettings(FinetuneSettings):
    """Faster R-CNN on a simple feature pyramid (ViTDet, arXiv 2203.16527).

    Args:
        size: Longer side of an image in pixels. All images lie on a square of this side, or of the next that
            the patches and the pyramid tile.
        lr: Peak learning rate of AdamW, for heads and the last layers; it is not scaled with the batch.
        weight_decay: Weight decay of matrices and kernels.
        scale: Train images are resized by a factor between these two, and cut to the square if they are
            larger.
        channels: Width of the pyramid and of the heads' convolutions.
        hidden: Width of the box head.
        scales: Resolutions of the pyramid over that of the patches, some of 4, 2, 1, 0.5.
        anchor: Side of the anchors over the stride of their level.
        proposals: Proposals of an image that go to the heads.
        regions: Regions of an image that a training step learns from.
    """

    size: int = 512
    lr: float = 2e-4
    weight_decay: float = 0.1
    scale: Sequence[float] = (0.5, 1.5)
    channels: int = 256
    hidden: int = 1024
    scales: Sequence[float] = SCALES
    anchor: float = 8.0
    proposals: int = 1000
    regions: int = 512

    def check(self) -> None:
        """See `FinetuneSettings.check`."""
        FinetuneSettings.check(self)
        for name in ("channels", "hidden", "proposals", "regions"):
            _at_least(self, name, 1)
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise OdisError(f"scale {list(self.scale)} must be two numbers above 0, the smaller one first")
        check_scales(self.scales)
        if not 0 < self.anchor < math.inf:
            _refuse(self, "anchor", "above 0")


@dataclass(frozen=True, kw_only=True)
class SemanticSettings(FinetuneSettings):
    """Semantic segmentation by a head on the patches.

    Args:
        size: Side of a train view and of a window in pixels, a multiple of the patch size; test images are
            resized to have it as their shorter side.
        head: linear, batch norm and a 1 x 1 convolution; or multi-scale, convolutions on a pyramid of the
            patches at 4, 2, 1 and 0.5 times their resolution.
        channels: Width of the multi-scale head.
        dropout: Share of channels that are dropped before the last layer in training.
    """

    size: int = 512
    head: Literal["linear", "multi-scale"] = "multi-scale"
    channels: int = 128
    dropout: float = 0.1

    def check(self) -> None:
        """See `FinetuneSettings.check`."""
        FinetuneSettings.check(self)
        _at_least(self, "channels", 1)
        if self.head not in ("linear", "multi-scale"):
            raise OdisError(f"head {self.head!r} must be linear or multi-scale")
        if not 0 <= self.dropout < 1:
            _refuse(self, "dropout", "from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class ClassificationSettings(FinetuneSettings):
    """Classification of whole images by a linear layer: the layer alone first, then everything (LP-FT, arXiv
    2202.10054).

    Args:
        size: Side of the square view in pixels, a multiple of the patch size.
        head_steps: First steps in which the layer alone is trained, at most half of all.
        crop: Smallest share of a train image's area that a view shows.
        mixup: Alpha of mixup, as timm has it; 0 for none.
        cutmix: Alpha of CutMix, as timm has it; 0 for none. With both, each step takes one of them.
        smoothing: Label smoothing.
    """

    head_steps: int = 400
    crop: float = 0.35
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1

    def check(self) -> None:
        """See `FinetuneSettings.check`."""
        FinetuneSettings.check(self)
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                _refuse(self, name, "0 or above")
        if not 0 <= self.smoothing < 1:
            _refuse(self, "smoothing", "from 0 to below 1")
        if not 0 < self.crop <= 1:
            _refuse(self, "crop", "above 0, 1 at most")
        if (self.mixup or self.cutmix) and self.batch % 2:
            raise OdisError(f"batch {self.batch} must be even: mixup and cutmix mix images in pairs")


@dataclass(frozen=True, slots=True)
class IndexedData:
    """Object indexes to learn from and to measure on.

    Args:
        train: Object index (.parquet) or folder of images to learn from.
        test: The same, to measure on; classes are matched by name.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("train", "test")

    train: str = ""
    test: str = ""


@dataclass(frozen=True, slots=True)
class DetectionData(IndexedData):
    """Object indexes, and the crowds that an index does not hold.

    Args:
        crowds: COCO annotations of the test images: what is found within their crowds is neither right nor
            wrong.
    """

    crowds: str | None = None


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """A task of `odis finetune`: one line about it, its data and settings, and the side that is best read."""

    summary: str
    data: Any
    settings: FinetuneSettings


TASKS: dict[str, TaskOptions] = {
    "detection": TaskOptions(
        "Boxes: Faster R-CNN on a simple feature pyramid (ViTDet); COCO's AP",
        DetectionData(),
        DetectionSettings(),
    ),
    "instances": TaskOptions(
        "Masks: Mask R-CNN on a simple feature pyramid (ViTDet); COCO's AP of boxes and masks",
        DetectionData(),
        DetectionSettings(),
    ),
    "semantic": TaskOptions(
        "A class for each pixel: a linear or a small multi-scale head; mIoU",
        SegmentedData(),
        SemanticSettings(),
    ),
    "classification": TaskOptions(
        "A class for each image: a linear layer first, then everything, with mixup; top-1",
        IndexedData(),
        ClassificationSettings(),
    ),
}
"""The tasks by name."""


def check_scales(scales: Sequence[float]) -> None:
    """Refuse resolutions that no pyramid has.

    Raises:
        OdisError: There is none, another one, or one twice.
    """
    if not scales or set(scales) - set(SCALES) or list(scales) != sorted(set(scales), reverse=True):
        raise OdisError(
            f"scales {list(scales)} must be some of {', '.join(f'{s:g}' for s in SCALES)}, in this order"
        )


def _plain(value: Any) -> Any:
    """A value as YAML and JSON have it: numbers of numpy are numbers."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return value.item() if hasattr(value, "item") else value


def _at_least(settings: FinetuneSettings, name: str, least: int) -> None:
    if getattr(settings, name) < least:
        _refuse(settings, name, f"{least} or more")


def _refuse(settings: FinetuneSettings, name: str, allowed: str) -> None:
    raise OdisError(f"{name.replace('_', '-')} {getattr(settings, name):g} must be {allowed}")
