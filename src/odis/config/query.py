"""Settings that commands with a trained model share: `QueryConfig` changes results, `ReadConfig` does not.

They are declared here once. `config/arguments.py` makes them options of a command, with the docstrings below
as help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from odis.errors import OdisError

Mode = Literal["masked-attention", "crop", "blackout", "mean-pool", "whole-image"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""Ways to query an object; `inference/queries.py` says what each shows the network."""

MASKED: tuple[Mode, ...] = ("masked-attention", "mean-pool")
"""Those that read the patches of an object."""

Readout = Literal["obj", "cls", "both"]
READOUTS: tuple[Readout, ...] = get_args(Readout)
"""What stands for an object: what the mode reads, `[CLS]` of the same pass, or both side by side."""

COMMAND_WORKERS = 2
"""Default worker processes of a command. Python callers have none: spawned workers need a main guard."""


@dataclass(frozen=True, slots=True)
class QueryConfig:
    """What is read of an image. Another value gives other features.

    Args:
        modes: How objects are queried, comma-separated: masked-attention, crop, blackout, mean-pool,
            whole-image. A model that lacks a mode has no row for it.
        images: Query each image as one object, whatever objects it has.
        size: Side in pixels that images are resized to, in area and at their own aspect; by default the size
            the model was trained at.
        context: With masked-attention, query each object in a square window of this many times its box's
            longer side; by default in the whole image.
        readout: What stands for an object: obj, what the mode reads; cls, [CLS] of the same pass; both,
            concatenated. A model whose [CLS] is its object token has no row for cls and both.
        mask_coverage: With masked-attention and mean-pool, share of a patch that an object must cover for
            the patch to be its own, relative to the patch that it covers most: 1 takes whole patches alone, 0
            any that it touches; by default as the model was trained.
        mask_margin: With these, patches by which masks are widened; by default as the model was trained.
    """

    modes: Sequence[str] = field(default=("masked-attention",), metadata={"option": "mode"})
    images: bool = False
    size: int | None = None
    context: float | None = None
    readout: Readout = "obj"
    mask_coverage: float | None = None
    mask_margin: int | None = None

    @property
    def mode(self) -> str:
        """The mode, where one is wanted.

        Raises:
            OdisError: there are several, or none.
        """
        if len(self.modes) != 1:
            raise OdisError(f"mode {','.join(self.modes)!r} must be one of {', '.join(MODES)}")
        return self.modes[0]

    @property
    def unit(self) -> str:
        """What a feature stands for: `images` or `objects`."""
        return "images" if self.images else "objects"

    def widths(self, coverage: float, margin: int) -> tuple[float, int]:
        """`mask_coverage` and `mask_margin`, those of a model where they are not set."""
        return (
            coverage if self.mask_coverage is None else self.mask_coverage,
            margin if self.mask_margin is None else self.mask_margin,
        )

    def only(self, mode: str) -> QueryConfig:
        """The same query in one mode, without what does not go with it: the context with masked-attention
        alone, how wide masks are with modes that have some.
        """
        windowed, masked = mode == "masked-attention", mode in MASKED
        return replace(
            self,
            modes=(mode,),
            context=self.context if windowed else None,
            mask_coverage=self.mask_coverage if masked else None,
            mask_margin=self.mask_margin if masked else None,
        )

    def check(self) -> None:
        """Refuse values that exclude each other.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        if not self.modes:
            raise OdisError(f"mode must be some of {', '.join(MODES)}")
        for mode in self.modes:
            if mode not in MODES:
                raise OdisError(f"mode {mode!r} is none of {', '.join(MODES)}")
        if self.readout not in READOUTS:
            raise OdisError(f"readout {self.readout!r} is none of {', '.join(READOUTS)}")
        self._check_masks()
        if self.context is None:
            return
        if not 1 <= self.context < float("inf"):
            raise OdisError(f"context {self.context:g} must be 1 or more")
        if "masked-attention" not in self.modes:
            raise OdisError(
                f"context {self.context:g} goes with mode masked-attention, which is not among "
                f"{', '.join(self.modes)}"
            )
        if self.images:
            raise OdisError(f"context {self.context:g} is a window around an object, but images are queried")

    def _check_masks(self) -> None:
        coverage, margin = self.mask_coverage, self.mask_margin
        if coverage is not None and not 0 <= coverage <= 1:
            raise OdisError(f"mask-coverage {coverage:g} must be between 0 and 1")
        if margin is not None and margin < 0:
            raise OdisError(f"mask-margin {margin} must be 0 or more")
        for name, value in (("mask-coverage", coverage), ("mask-margin", margin)):
            if value is None:
                continue
            if not set(MASKED) & set(self.modes):
                raise OdisError(
                    f"{name} {value:g} goes with modes {' and '.join(MASKED)}, which are not among "
                    f"{', '.join(self.modes)}"
                )
            if self.images:
                raise OdisError(f"{name} {value:g} is of the patches of an object, but images are queried")


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """How images are read and where the network runs. Results stay the same, up to rounding.

    Args:
        batch_size: Images the network sees at once.
        workers: Processes that decode and resize images; 0 does both in this process.
        device: auto (the GPU if there is one), cpu, cuda, cuda:N or mps.
        precision: fp32, bf16 or fp16; auto is bf16 on a GPU that has it, else fp32.
        strict: Stop at the first image or object that cannot be used, instead of naming and counting it.
    """

    batch_size: int = 64
    workers: int = 0
    device: str = "auto"
    precision: str = "auto"
    strict: bool = False

    def check(self) -> None:
        """Refuse numbers out of range.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        if self.batch_size < 1:
            raise OdisError(f"batch-size {self.batch_size} must be 1 or more")
        if self.workers < 0:
            raise OdisError(f"workers {self.workers} must be 0 or more")
