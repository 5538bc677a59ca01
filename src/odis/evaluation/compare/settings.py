"""What `odis compare` reads, and how it measures. Nothing heavy is imported here: `--help` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from odis.config.query import MODES, QueryConfig
from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.settings import (
    EvaluationSettings,
    Grid,
    check_held_out,
    check_votes,
    require_given,
)

FEW = Grid(lrs=(0.003, 0.01, 0.03, 0.1, 0.3), weight_decays=(0.0, 1e-3), steps=1000)
"""Linear classifiers that are tried by default: a third of those of `odis evaluate linear`, in half the
steps.
"""

NOT_COMPARED = ("blackout", "whole-image")


@dataclass(frozen=True, slots=True)
class CompareData:
    """What two networks are compared on.

    Args:
        train: Object index (.parquet) or folder of images, with labels: neighbours, and what probes learn
            from.
        test: Object index or folder, with labels, to measure on: images that neither network was trained on.
        maps: Folder of label maps of these images, in a layout that `odis evaluate protocol hummingbird`
            takes; by default patches are labelled by the objects' masks, or by boxes where there is no mask.
        known_train: Train part of data that BEFORE knew well, to see what is forgotten; again for more.
        known_test: Test part of that data, as often.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("train", "test")

    train: str = ""
    test: str = ""
    maps: str = ""
    known_train: Sequence[str] = field(default=(), metadata={"repeat": True})
    known_test: Sequence[str] = field(default=(), metadata={"repeat": True})

    def check(self) -> None:
        """Refuse what is not whole.

        Raises:
            OdisError: A part is missing.
        """
        require_given(self)
        if len(self.known_train) != len(self.known_test):
            raise OdisError(
                f"--known-train is given {counted(len(self.known_train), 'time')} and --known-test "
                f"{len(self.known_test)}: give both parts of what was known, as often"
            )


@dataclass(frozen=True, kw_only=True)
class CompareSettings(EvaluationSettings):
    """How two networks are compared.

    Args:
        query: How objects are queried. The size is by default that which AFTER was trained at, for both.
        k: Neighbours of an object or image.
        temperature: A neighbour votes exp(cosine / temperature).
        memory: Patches of the train part that patches of the test part are labelled by.
        grid: Linear classifiers to try.
        held_out: Share of the train images that chooses among them. The test part is used once, after that.
    """

    query: QueryConfig = field(
        default_factory=lambda: QueryConfig(modes=("masked-attention", "mean-pool")),
        metadata={"only": ("modes", "size")},
    )
    k: int = 20
    temperature: float = 0.07
    memory: int = 10_240
    grid: Grid = FEW
    held_out: float = 0.1

    def check(self) -> None:
        """See `EvaluationSettings.check`."""
        EvaluationSettings.check(self)
        check_votes((self.k,), self.temperature)
        self.grid.check()
        check_held_out(self.held_out)
        if self.memory < 1:
            raise OdisError(f"memory {self.memory} must be 1 or more")
        for mode in self.query.modes:
            if mode in NOT_COMPARED:
                allowed = ", ".join(mode for mode in MODES if mode not in NOT_COMPARED)
                raise OdisError(f"mode {mode}: networks are compared by some of {allowed}")
