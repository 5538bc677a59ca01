"""Settings of `linear-imagenet`, and the schedules of its references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from odis.config.query import QueryConfig
from odis.errors import OdisError
from odis.evaluation.protocols.protocol import ProtocolSettings
from odis.evaluation.settings import check_held_out

if TYPE_CHECKING:
    from odis.inference import Encoder

Reference = Literal["dino", "ibot", "dinov2"]

KINDS = ("1", "1+mean", "4", "4+mean")
"""Features: [CLS] of the last 1 or 4 blocks, without or with the mean of the last block's patches."""

_SMALL = 384  # widths up to this are read as the references read ViT-S


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a reference trains: learning rates for a batch of 256, epochs, steps an epoch (None: all images
    once), whether the cosine falls at every step or once an epoch, and how train views are resized.
    """

    lrs: tuple[float, ...]
    epochs: int
    epoch_steps: int | None
    every_step: bool
    interpolation: Literal["bilinear", "bicubic"]


SCHEDULES: dict[str, Schedule] = {
    "dino": Schedule((0.001,), 100, None, False, "bilinear"),
    "ibot": Schedule(
        tuple(m * 10.0**e for e in range(-4, 1) for m in range(1, 10)), 100, None, False, "bilinear"
    ),
    "dinov2": Schedule(
        (*(m * 10.0**e for e in range(-5, -1) for m in (1, 2, 5)), 0.1), 10, 1250, True, "bicubic"
    ),
}


@dataclass(frozen=True, kw_only=True)
class LinearImagenetSettings(ProtocolSettings):
    """Settings of the protocol.

    Args:
        reference: Whose views, features, learning rates and schedule: dino, ibot or dinov2.
        lrs: Learning rates for a batch of 256, each with a head of its own; by default the reference's (1,
            45, 13).
        features: What heads read, some of 1, 1+mean, 4, 4+mean: [CLS] of the last 1 or 4 blocks, and the
            mean of the last block's patches; by default the reference's for the model's width.
        epochs: By default the reference's (100, 100, 10).
        epoch_steps: Steps an epoch; by default the reference's (all images once; dinov2: 1250).
        batch: Images a step; learning rates are scaled by batch / 256.
        held_out: Share of the train images that chooses the head of `top-1`. None with --as-published, where
            the test part chooses.
        crop: Side of the views in pixels; the shorter side of a test image is first resized to 8/7 of it.
        cache: Folder in which training is kept after each epoch; the same call goes on there.
    """

    reference: Reference = "dinov2"
    lrs: Sequence[float] = ()
    features: Sequence[str] = ()
    epochs: int | None = None
    epoch_steps: int | None = None
    batch: int = 1024
    held_out: float = 0.01
    crop: int = 224
    cache: str | None = None

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        ProtocolSettings.check(self)
        check_held_out(self.held_out)
        if self.reference not in SCHEDULES:
            raise OdisError(f"reference {self.reference!r} must be one of {', '.join(SCHEDULES)}")
        if any(not 0 < lr < float("inf") for lr in self.lrs):
            raise OdisError(f"lrs {list(self.lrs)} must be numbers above 0")
        if wrong := [kind for kind in self.features if kind not in KINDS]:
            raise OdisError(f"features {','.join(wrong)!r} must be some of {', '.join(KINDS)}")
        for name in ("epochs", "epoch_steps", "batch", "crop"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OdisError(f"{name.replace('_', '-')} {value} must be 1 or more")

    def check_models(self, encoders: Sequence[Encoder]) -> None:
        """See `ProtocolSettings.check_models`; the view must be whole patches.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        ProtocolSettings.check_models(self, encoders)
        for encoder in encoders:
            encoder.query_builder(QueryConfig(("whole-image",), size=self.crop))

    @property
    def schedule(self) -> Schedule:
        """The reference's, with what was set in its place."""
        found = SCHEDULES[self.reference]
        return Schedule(
            tuple(self.lrs) or found.lrs,
            self.epochs or found.epochs,
            self.epoch_steps or found.epoch_steps,
            found.every_step,
            found.interpolation,
        )

    def kinds(self, width: int) -> tuple[str, ...]:
        """The features that heads read, of a model of this width."""
        if self.features:
            return tuple(dict.fromkeys(self.features))
        if self.reference == "dinov2":
            return KINDS
        return ("4",) if width <= _SMALL else ("1+mean",)
