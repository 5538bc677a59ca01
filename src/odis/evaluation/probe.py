"""Linear classifiers on frozen features: a grid trained at once, the best chosen on held-out images.

Numbers in, numbers out; no model and no file here. Letters: n rows, D width, C classes, G pairs of learning
rate and weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from odis.config.wording import counted
from odis.errors import OdisError
from odis.evaluation.scores import average_precision
from odis.evaluation.settings import Grid

MOMENTUM = 0.9


@dataclass(frozen=True, slots=True)
class Classifiers:
    """G linear classifiers of standardised features."""

    weight: Tensor  # float32 (D, G, C)
    bias: Tensor  # float32 (G, C)
    mean: Tensor  # float32 (D,)
    scale: Tensor  # float32 (D,), 1 / standard deviation; 0 for a feature that never changes

    def logits(self, features: Tensor, which: int = 0) -> Tensor:
        """Logits of one of them: (n, D) -> (n, C)."""
        return ((features - self.mean) * self.scale) @ self.weight[:, which] + self.bias[which]


def train_classifiers(
    features: Tensor,
    targets: Tensor,
    pairs: Sequence[tuple[float, float]],
    *,
    classes: int,
    steps: int,
    batch: int,
    seed: int,
) -> Classifiers:
    """Train one classifier for each pair of learning rate and weight decay, all on the same batches.

    Args:
        features: float32 (n, D); the classifiers are trained where they are.
        targets: int64 (n,): one class each, softmax and cross-entropy. float32 (n, C): shares of a row in
            each class, which may sum to less than 1 (a patch), cross-entropy weighted by them. bool (n, C):
            any number of classes each, a sigmoid for every class.
        pairs: G pairs.
        classes: C.
        steps: Steps of SGD.
        batch: Rows a step; every row comes once before any comes again.
        seed: Of the order.
    """
    n, width = features.shape
    device, many = features.device, len(pairs)
    mean, deviation = features.mean(0), features.std(0, correction=0)
    scale = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0.0)
    weight, bias = torch.zeros(width, many, classes, device=device), torch.zeros(many, classes, device=device)
    speeds = torch.zeros_like(weight), torch.zeros_like(bias)
    lr = torch.tensor([pair[0] for pair in pairs], device=device)[:, None]
    decay = torch.tensor([pair[1] for pair in pairs], device=device)[:, None]
    rng, order = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.int64)
    batch = min(batch, n)
    for step in range(steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(n, generator=rng)])
        rows, order = order[:batch].to(device), order[batch:]
        x = (features[rows] - mean) * scale
        logits = (x @ weight.flatten(1)).view(batch, many, classes) + bias
        error = loss_gradient(logits, targets[rows]) / batch  # (batch, G, C)
        rate = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        for parameter, speed, gradient in (
            (weight, speeds[0], (x.T @ error.flatten(1)).view_as(weight).addcmul_(weight, decay)),
            (bias, speeds[1], error.sum(0)),
        ):
            speed.mul_(MOMENTUM).add_(gradient)
            parameter.sub_(rate * speed)
    return Classifiers(weight, bias, mean, scale)


def loss_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the summed loss in the logits; see `train_classifiers` for the three kinds of targets.

    Args:
        logits: (b, G, C); used up.
        targets: int64 (b,), float32 (b, C) or bool (b, C).
    """
    if targets.dtype == torch.bool:
        return logits.sigmoid_().sub_(targets[:, None].float())
    probability = logits.softmax(-1)
    if targets.dtype == torch.int64:
        index = targets[:, None, None].expand(-1, logits.shape[1], 1)
        return probability.scatter_add_(2, index, probability.new_full(index.shape, -1.0))
    return probability.mul_(targets.sum(1)[:, None, None]).sub_(targets[:, None])


def held_out(groups: Tensor, share: float, seed: int) -> Tensor:
    """Rows to hold out of training, bool (n,): those of a share of the images, at least one.

    Args:
        groups: int64 (n,), the image of each row.
        share: Of the images, above 0 and below 1.
        seed: Of the draw.

    Raises:
        OdisError: if there are fewer than two images.
    """
    images, image = groups.unique(return_inverse=True)
    if len(images) < 2:
        raise OdisError(
            f"{counted(len(images), 'train image with a label is', 'train images with labels are')} too few: "
            f"one part of them chooses among what the other trained"
        )
    count = min(max(1, round(share * len(images))), len(images) - 1)
    chosen = torch.zeros(len(images), dtype=torch.bool)
    chosen[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]] = True
    return chosen[image]


@dataclass(frozen=True, slots=True)
class Choice:
    """The pair chosen on held-out train images, and its classifier, trained on all of them."""

    classifiers: Classifiers  # G = 1
    lr: float
    weight_decay: float
    held_out_score: float

    def as_dict(self) -> dict[str, float]:
        """For a row of results."""
        return {"lr": self.lr, "weight_decay": self.weight_decay, "held_out": round(self.held_out_score, 3)}


def choose_and_train(
    features: Tensor,
    targets: Tensor,
    groups: Tensor,
    grid: Grid,
    measure: Callable[[Tensor, Tensor], float],
    *,
    classes: int,
    share: float,
    seed: int,
) -> Choice:
    """Train the grid on some of the images, choose the best pair on the others, train it on all.

    Args:
        features: float32 (n, D).
        targets: See `train_classifiers`.
        groups: int64 (n,), the image of each row.
        grid: Pairs to try.
        measure: Score of logits (m, C) and targets of held-out rows; higher is better. Ties go to the lower
            loss.
        classes: C.
        share: Of the images that are held out.
        seed: Of the split and of the order.
    """
    out = held_out(groups.cpu(), share, seed).to(features.device)
    how = {"classes": classes, "steps": grid.steps, "batch": grid.batch, "seed": seed}
    tried = train_classifiers(features[~out], targets[~out], grid.pairs, **how)
    held_features, held_targets = features[out], targets[out]
    scores = [_score(measure, tried.logits(held_features, g), held_targets) for g in range(len(grid.pairs))]
    best = max(range(len(scores)), key=lambda g: scores[g])
    if scores[best] == _DIVERGED:
        raise OdisError(f"no classifier stayed finite: lrs {list(grid.lrs)} are too high for these features")
    lr, weight_decay = grid.pairs[best]
    final = train_classifiers(features, targets, [grid.pairs[best]], **how)
    if not bool(final.weight.isfinite().all() and final.bias.isfinite().all()):
        raise OdisError(
            f"the classifier of lr {lr:g} was best on held-out images, but did not stay finite on all: "
            f"leave that lr out"
        )
    return Choice(final, lr, weight_decay, scores[best][0])


_DIVERGED = (-math.inf, -math.inf)


def _score(
    measure: Callable[[Tensor, Tensor], float], logits: Tensor, targets: Tensor
) -> tuple[float, float]:
    """A measure, then minus the mean loss; the lowest for a classifier that diverged."""
    if not bool(logits.isfinite().all()):
        return _DIVERGED
    value = measure(logits, targets)
    return (value if math.isfinite(value) else -math.inf), -float(total_loss(logits, targets)) / len(logits)


def total_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed loss, whose gradient is `loss_gradient`: logits (n, C), targets as in `train_classifiers`."""
    if targets.dtype == torch.bool:
        return F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="sum")
    if targets.dtype == torch.int64:
        return F.cross_entropy(logits, targets, reduction="sum")
    return -(targets * logits.log_softmax(-1)).sum()


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """Share of right answers in percent: logits (n, C), targets int64 (n,)."""
    return 100 * (logits.argmax(1) == targets).double().mean().item()


def mean_average_precision(logits: Tensor, targets: Tensor) -> float:
    """Mean average precision in percent over classes that occur: logits (n, C), targets bool (n, C)."""
    logits, targets = logits.cpu(), targets.cpu()
    values = [average_precision(logits[:, c], targets[:, c]) for c in targets.any(0).nonzero()[:, 0].tolist()]
    return 100 * sum(values) / len(values) if values else math.nan


def patch_miou(logits: Tensor, shares: Tensor) -> float:
    """Mean IoU in percent where every pixel has the class of its patch, by area; over classes that occur in
    either.

    Args:
        logits: (n, C).
        shares: float32 (n, C), shares of each patch's area.
    """
    classes = shares.shape[1]
    area = torch.zeros(classes, classes, dtype=torch.float64)  # predicted x labelled
    area.index_add_(0, logits.argmax(1).cpu(), shares.double().cpu())
    both, union = area.diagonal(), area.sum(0) + area.sum(1) - area.diagonal()
    occurs = union > 0
    return 100 * float((both[occurs] / union[occurs]).mean()) if occurs.any() else math.nan
