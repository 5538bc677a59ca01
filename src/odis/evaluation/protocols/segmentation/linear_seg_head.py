"""The linear head of segmentation: trained at one resolution, scored at any.

Letters: B images, P patches of a grid (h, w), D width, C classes, S side of a label map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odis.evaluation.dense import label_pixels
from odis.evaluation.label_maps import IGNORE
from odis.evaluation.protocols.segmentation.segmentation_scores import iou_counts, pixel_table
from odis.evaluation.protocols.training.kept_state import read_tensors, write_tensors

_AT_ONCE = 1 << 26  # scores of pixels held at a time while training: 256 MB


def nearest_labels(labels: np.ndarray, side: int) -> np.ndarray:
    """A label map (S, S) at another side by torch's nearest pixel, as the references resize: int16."""
    small = F.interpolate(
        torch.from_numpy(labels.astype(np.float32))[None, None], (side, side), mode="nearest"
    )
    return small[0, 0].numpy().astype(np.int16)


def head_loss(head: nn.Linear, patches: Tensor, grid: tuple[int, int], labels: Tensor) -> tuple[Tensor, int]:
    """Sum over labelled pixels of the cross-entropy, and how many there are.

    The protocol resizes the tokens and then applies the head. The head is applied first here: bilinear
    weights sum to 1, so both give the same scores, and this takes a twelfth of the products.

    Args:
        head: From D to C.
        patches: (B, P, D).
        grid: Of the P patches.
        labels: int64 (B, S, S), from 0 to C - 1 or IGNORE.
    """
    scores = head(patches).transpose(1, 2).unflatten(2, grid)
    large = F.interpolate(scores, labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(large, labels, ignore_index=IGNORE, reduction="sum"), int((labels != IGNORE).sum())


@dataclass
class HeadTraining:
    """SGD on a linear head, one epoch after the other.

    Args:
        head: From D to C.
        grid: Of the patches.
        lr: Learning rate.
        momentum: Of SGD.
        weight_decay: Of weights and biases.
        drop: After this many epochs the rate is a tenth.

    Attributes:
        epoch: Epochs that are done.
        history: mIoU after each, in percent.
        best: Weights and biases after the best of them.
    """

    head: nn.Linear
    grid: tuple[int, int]
    lr: float
    momentum: float
    weight_decay: float
    drop: int
    epoch: int = 0
    history: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sgd = torch.optim.SGD(
            self.head.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )

    def step(self, patches: Tensor, labels: Tensor) -> None:
        """One step on B images: the mean over all their labelled pixels. None: no step."""
        known = int((labels != IGNORE).sum())
        if not known:
            return
        for group in self._sgd.param_groups:
            group["lr"] = self.lr * (0.1 if self.epoch >= self.drop else 1.0)
        self._sgd.zero_grad(set_to_none=True)
        part = max(1, _AT_ONCE // (self.head.out_features * labels[0].numel()))
        for some, of_some in zip(patches.split(part), labels.split(part)):
            loss, _ = head_loss(self.head, some, self.grid, of_some)
            (loss / known).backward()
        self._sgd.step()

    def end_epoch(self, score: float) -> None:
        """Count an epoch, and keep the head if its score is the best so far."""
        if not self.history or score > max(self.history):
            self.best = {name: value.detach().clone() for name, value in self.head.state_dict().items()}
        self.history.append(score)
        self.epoch += 1

    @property
    def best_epoch(self) -> int:
        """The number, from 1, of the epoch whose score is highest; of equal ones the first."""
        return int(np.argmax(self.history)) + 1

    def write_state(self, path: Path) -> None:
        """Write the state, to go on from."""
        tensors = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for name, parameter in self.head.named_parameters():
            buffer = self._sgd.state[parameter].get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{name}"] = buffer
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64)
        write_tensors(path, tensors)

    def read_state(self, path: Path) -> None:
        """Go on from a saved state; without one, or if it is damaged, from the start."""
        found = read_tensors(path)
        if found is None:
            return
        device = self.head.weight.device
        of_head = {name: found[f"head.{name}"] for name in self.head.state_dict()}
        self.head.load_state_dict(of_head)
        self.best = {name: found[f"best.{name}"].to(device) for name in of_head}
        for name, parameter in self.head.named_parameters():
            if f"momentum.{name}" in found:
                self._sgd.state[parameter]["momentum_buffer"] = found[f"momentum.{name}"].to(device)
        self.history = found["history"].tolist()
        self.epoch = len(self.history)


@torch.no_grad()
def head_counts(
    head: nn.Linear, patches: Sequence[Tensor], grid: tuple[int, int], labels: Sequence[np.ndarray], side: int
) -> np.ndarray:
    """Pixels of each class in both, predicted and labelled, of each image: int64 (n, 3, C).

    Args:
        head: From D to C.
        patches: (P, D) of each image.
        grid: Of the P patches.
        labels: int (S, S) of each image.
        side: Of the maps on which they are compared; the scores are resized bilinearly to it.
    """
    classes = head.out_features
    found = []
    for of_image, stored in zip(patches, labels, strict=True):
        truth = stored if len(stored) == side else nearest_labels(stored, side)
        said = label_pixels(head(of_image.to(head.weight.device)), grid, (side, side))
        found.append(iou_counts(pixel_table(truth, said, classes, classes)[None], np.arange(classes))[0])
    return np.stack(found)
