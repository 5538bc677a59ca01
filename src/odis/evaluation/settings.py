"""The settings and the data that evaluations share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from odis.config.query import MODES, QueryConfig, ReadConfig
from odis.errors import OdisError

if TYPE_CHECKING:
    from odis.inference import Encoder
    from odis.objects.index import ObjectIndex


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How models are queried and how much data takes part.

    Args:
        query: Modes, size and context; objects or images.
        read: How images are read. `device` and `precision` are those the models were loaded with.
        max_train: Use at most this many train (or gallery) images, drawn by the seed.
        max_test: Use at most this many test images, drawn by the seed.
        seed: Seed of the draws of images, of bootstrap resamples, and of what an evaluation draws itself.
    """

    query: QueryConfig = field(default_factory=QueryConfig)
    read: ReadConfig = field(default_factory=ReadConfig)
    max_train: int | None = None
    max_test: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Refuse settings that exclude each other, before a model is loaded.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        self.query.check()
        self.check_counts()

    def check_counts(self) -> None:
        """The part of `check` that does not depend on the query."""
        self.read.check()
        for name, value in (("max-train", self.max_train), ("max-test", self.max_test)):
            if value is not None and value < 1:
                raise OdisError(f"{name} {value} must be 1 or more")

    def check_models(self, encoders: Sequence[Encoder]) -> None:
        """Refuse models that cannot be queried so, before an image is read.

        A model that lacks a mode or its readout loses its row in that mode; what no model has is refused.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        if not encoders:
            raise OdisError("at least one model is needed")
        nobody = not any(self.lacks(encoder, m) is None for encoder in encoders for m in self.query.modes)
        for encoder in encoders:
            for mode in self.query.modes:
                if mode not in MODES or nobody or self.lacks(encoder, mode) is None:
                    encoder.query_builder(self.query.only(mode))

    def lacks(self, encoder: Encoder, mode: str) -> str | None:
        """Why a model has no row in a mode; None if it has one."""
        if mode not in encoder.modes:
            return f"has no object token; its modes are {', '.join(encoder.modes)}"
        if self.query.readout not in encoder.readouts(mode):
            return f"has no [CLS] beside what the mode reads, so no readout {self.query.readout}"
        return None

    def as_dict(self) -> dict[str, Any]:
        """For `results.json`: all but `read`, which changes nothing."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("query", "read")}
        written = asdict(self.query) | {
            name: asdict(value) if isinstance(value, Grid) else value for name, value in own.items()
        }
        return {
            name: list(value) if isinstance(value, tuple | list) else value for name, value in written.items()
        }


@dataclass(frozen=True, slots=True)
class Grid:
    """Linear classifiers to try.

    Args:
        lrs: Learning rates of SGD with momentum 0.9, falling to 0 as a cosine. Features are standardised, so
            their scale makes no difference.
        weight_decays: Weight decays, added to the gradient of the weights but not of the biases.
        steps: Steps of SGD.
        batch: Features in a step of SGD.
    """

    lrs: Sequence[float] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    weight_decays: Sequence[float] = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)
    steps: int = 2000
    batch: int = 512

    def check(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        if not self.lrs or not all(0 < lr < math.inf for lr in self.lrs):
            raise OdisError(f"lrs {list(self.lrs)} must be one or more numbers above 0")
        if not self.weight_decays or not all(0 <= wd < math.inf for wd in self.weight_decays):
            raise OdisError(
                f"weight-decays {list(self.weight_decays)} must be one or more numbers, 0 or above"
            )
        for name, value in (("steps", self.steps), ("batch", self.batch)):
            if value < 1:
                raise OdisError(f"{name} {value} must be 1 or more")

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """All G pairs of learning rate and weight decay."""
        return [(lr, wd) for lr in self.lrs for wd in self.weight_decays]


def check_held_out(share: float) -> None:
    """Refuse a share of held-out images that leaves nothing on one side.

    Raises:
        OdisError: the share is not above 0 and below 1.
    """
    if not 0 < share < 1:
        raise OdisError(f"held-out {share:g} must be a share above 0 and below 1")


def check_votes(k: Sequence[int], temperature: float) -> None:
    """Refuse neighbours that cannot vote.

    Raises:
        OdisError: a k below 1, none at all, or a temperature that is not above 0.
    """
    if not k or min(k) < 1:
        raise OdisError(f"k {min(k, default=0)} must be 1 or more")
    if not temperature > 0:
        raise OdisError(f"temperature {temperature:g} must be above 0")


def require_given(data: Any) -> None:
    """Refuse data of which something in its `REQUIRED` is missing.

    Raises:
        OdisError: naming the first of the options that was not given.
    """
    for name in data.REQUIRED:
        if not getattr(data, name):
            raise OdisError(f"--{name.replace('_', '-')} is required; --help lists the options")


@dataclass(frozen=True, slots=True)
class TrainTest:
    """The two indexes of an evaluation.

    Args:
        train: Object index (.parquet) or folder of images, with labels, to learn from.
        test: Object index or folder, with labels, to measure on.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("train", "test")

    train: str = ""
    test: str = ""

    def open(self) -> tuple[ObjectIndex, ObjectIndex]:
        """Train and test index.

        Raises:
            OdisError: one is not given.
            DataError: one cannot be read.
        """
        from odis.objects.index import ObjectIndex

        require_given(self)
        return ObjectIndex.open(self.train), ObjectIndex.open(self.test)
