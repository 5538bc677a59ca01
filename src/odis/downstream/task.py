"""What a task is to the training loop and to the comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from odis.config.query import ReadConfig
from odis.data.views import normalize_pixels
from odis.downstream.settings import FinetuneSettings
from odis.downstream.starts import Start
from odis.errors import DataError, OdisError
from odis.evaluation.evaluation import Progress
from odis.evaluation.protocols.images.stream import read_items
from odis.method.vit import ObjectViT
from odis.types import Skipped


class TaskAnswers(Protocol):
    """What a network answered on the test images, in a form that can be resampled."""

    @property
    def units(self) -> int:
        """Test images."""

    def scores(self, counts: np.ndarray) -> dict[str, float]:
        """Scores from 0 to 1 by name, of images taken `counts` times (float64 (units,)); NaN for none."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be kept in a file."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How images are read, and who is told of it.

    Attributes:
        read: Workers, and whether the first unusable file ends it.
        device: Where networks run.
        dtype: Precision of the backbone.
        skip: Called with files and objects that are left out.
        progress: Called with what is done, how much of it, of how much.
    """

    read: ReadConfig
    device: torch.device
    dtype: torch.dtype
    skip: Callable[[Sequence[Skipped]], None]
    progress: Progress | None = None

    def items(self, dataset: Dataset[Any]) -> Iterator[Any]:
        """The items of a dataset in order; with `strict`, one that is left out is raised.

        Raises:
            DataError: See above.
        """
        for item in read_items(dataset, self.read):
            left_out = [item] if isinstance(item, Skipped) else getattr(item, "skipped", [])
            if left_out:
                if self.read.strict:
                    raise DataError(f"{left_out[0].what}: {left_out[0].why}")
                self.skip(left_out)
            yield item

    def batches(self, dataset: Dataset[Any], count: int, size: int, what: str) -> Iterator[list[Any]]:
        """Usable items, some at a time."""
        waiting: list[Any] = []
        for number, item in enumerate(self.items(dataset), start=1):
            if not isinstance(item, Skipped):
                waiting.append(item)
            if waiting and (len(waiting) == size or number == count):
                yield waiting
                waiting = []
            if self.progress is not None:
                self.progress(what, number, count)


class Task(Protocol):
    """A task with its data and settings."""

    name: str
    classes: list[str]
    sides: dict[str, dict[str, Any]]  # what took part: `train` and `test`
    notes: list[str]  # lines below the table

    @property
    def settings(self) -> FinetuneSettings:
        """How it is trained and measured."""

    def fingerprint(self) -> str:
        """What tells its data from other data."""

    def check(self, start: Start, patch: int) -> None:
        """Refuse a starting point that cannot be trained so.

        Raises:
            OdisError: Naming the setting.
        """

    def module(self, backbone: ObjectViT, start: Start, dtype: torch.dtype) -> nn.Module:
        """The network: `backbone` and heads, which draw their weights from torch's global generator."""

    def samples(self, patch: int, seed: int, first: int, count: int) -> Dataset[Any]:
        """Train images number `first` to `first + count - 1` of a run; in the place of one that cannot be
        read, a `Skipped`.
        """

    def path_of(self, sample: Any) -> str:
        """The file of a train image, to name it."""

    def losses(
        self, module: nn.Module, samples: list[Any], start: Start, device: torch.device
    ) -> dict[str, Tensor]:
        """Losses by name, whose sum is minimised. What is drawn at random is drawn from torch's global
        generator, which the loop seeds for each step.
        """

    def measure(self, module: nn.Module, start: Start, reading: Reading) -> TaskAnswers:
        """Answers of a network in eval mode on the test images."""

    def measured(self, tensors: Mapping[str, Tensor]) -> TaskAnswers:
        """What `TaskAnswers.tensors` gave.

        Raises:
            KeyError: Something is missing.
        """


def batch_pixels(pictures: Sequence[np.ndarray], start: Start, device: torch.device) -> Tensor:
    """Normalised images (B, 3, H, W) of uint8 (3, H, W) of one size."""
    pixels = torch.from_numpy(np.stack(pictures)).to(device)
    return normalize_pixels(pixels, start.mean, start.std)


def check_tiled(size: int, patch: int) -> None:
    """Refuse a side that patches do not tile.

    Raises:
        OdisError: Naming the size.
    """
    if size % patch:
        raise OdisError(f"size {size} must be a multiple of the patch size {patch}")
