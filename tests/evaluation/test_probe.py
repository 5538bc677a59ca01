"""Linear classifiers against autograd, scikit-learn, and one another trained alone; the split, the choice,
refusals.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from odis.errors import OdisError
from odis.evaluation.probe import (
    choose_and_train,
    held_out,
    loss_gradient,
    total_loss,
    train_classifiers,
)
from odis.evaluation.settings import Grid


def rows(n: int, width: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    labels = torch.randint(classes, (n,), generator=rng)
    return 3 * centres[labels] + 2 * torch.randn(n, width, generator=rng) + 5, labels


def kinds(labels: Tensor, classes: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    shares = torch.rand(len(labels), classes, generator=rng)
    several = F.one_hot(labels, classes).bool() | (torch.rand(len(labels), classes, generator=rng) < 0.2)
    return {"one": labels, "shares": 0.7 * shares / shares.sum(1, keepdim=True), "several": several}


@pytest.mark.parametrize("kind", ["one", "shares", "several"])
def test_the_gradient_is_autograds(kind: str) -> None:
    targets = kinds(torch.randint(5, (12,), generator=torch.Generator().manual_seed(3)), 5)[kind]
    logits = 3 * torch.randn(12, 4, 5, generator=torch.Generator().manual_seed(2))
    for g in range(4):
        of_one = logits[:, g].clone().requires_grad_()
        total_loss(of_one, targets).backward()
        torch.testing.assert_close(
            loss_gradient(logits.clone(), targets)[:, g], of_one.grad, atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("kind", ["one", "shares", "several"])
def test_each_of_a_grid_is_what_torchs_sgd_trains_alone(kind: str) -> None:
    features, labels = rows(50, 6, 3)
    targets, pairs = kinds(labels, 3)[kind], [(0.1, 0.0), (0.02, 0.5), (0.5, 0.01)]
    found = train_classifiers(features, targets, pairs, classes=3, steps=40, batch=16, seed=4)
    standardised = (features - features.mean(0)) / features.std(0, correction=0)
    for g, (lr, decay) in enumerate(pairs):
        layer = torch.nn.Linear(6, 3)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        groups = [
            {"params": [layer.weight], "weight_decay": decay},
            {"params": [layer.bias], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
        rng, order = torch.Generator().manual_seed(4), torch.empty(0, dtype=torch.int64)
        for step in range(40):
            if len(order) < 16:
                order = torch.cat([order, torch.randperm(50, generator=rng)])
            batch, order = order[:16], order[16:]
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / 40))
            optimizer.zero_grad()
            (total_loss(layer(standardised[batch]), targets[batch]) / 16).backward()
            optimizer.step()
        torch.testing.assert_close(
            found.logits(features, g), layer(standardised).detach(), atol=2e-4, rtol=1e-3
        )


def right(logits: Tensor, targets: Tensor) -> float:
    return 100 * (logits.argmax(1) == targets).double().mean().item()


def peer(
    features: np.ndarray, labels: np.ndarray, cost: float, asked: np.ndarray, answers: np.ndarray
) -> float:
    """scikit-learn's logistic regression on standardised features, in percent."""
    scaler = StandardScaler().fit(features)
    return 100 * LogisticRegression(max_iter=2000, C=cost).fit(scaler.transform(features), labels).score(
        scaler.transform(asked), answers
    )


def test_agrees_with_scikit_learns_logistic_regression_on_the_digits() -> None:
    digits = load_digits()
    features, labels = torch.from_numpy(digits.data).float(), torch.from_numpy(digits.target)
    same_penalty, both_chosen = [], []
    for seed in range(3):  # one split has 597 test digits: three of them are half a point
        order = np.random.default_rng(seed).permutation(len(labels))
        train, test = order[:1200], order[1200:]
        alone = train_classifiers(
            features[train], labels[train], [(0.5, 1 / 1200)], classes=10, steps=1500, batch=1200, seed=0
        )
        theirs = peer(digits.data[train], digits.target[train], 1.0, digits.data[test], digits.target[test])
        same_penalty.append(right(alone.logits(features[test]), labels[test]) - theirs)

        images, grid = torch.from_numpy(train), Grid(lrs=(0.01, 0.03, 0.1, 0.3), steps=1000)
        choice = choose_and_train(
            features[train], labels[train], images, grid, right, classes=10, share=0.2, seed=0
        )
        out = held_out(images, 0.2, 0).numpy()
        tried = {
            c: peer(
                digits.data[train[~out]],
                digits.target[train[~out]],
                c,
                digits.data[train[out]],
                digits.target[train[out]],
            )
            for c in (0.01, 0.1, 1.0, 10.0)
        }
        theirs = peer(
            digits.data[train],
            digits.target[train],
            max(tried, key=lambda c: tried[c]),
            digits.data[test],
            digits.target[test],
        )
        both_chosen.append(right(choice.classifiers.logits(features[test]), labels[test]) - theirs)
    assert abs(np.mean(same_penalty)) <= 0.5, same_penalty
    assert abs(np.mean(both_chosen)) <= 0.5, both_chosen
    assert max(map(abs, same_penalty + both_chosen)) <= 1.0


def test_a_feature_that_never_changes_is_not_used() -> None:
    features, labels = rows(60, 4, 3)
    features[:, 2] = 7
    found = train_classifiers(features, labels, [(0.1, 0.0)], classes=3, steps=30, batch=60, seed=0)
    moved = features.clone()
    moved[:, 2] = -1e6
    assert torch.equal(found.logits(features), found.logits(moved))
    assert found.logits(features).isfinite().all()


def test_held_out_images_are_whole_and_drawn_by_seed() -> None:
    images = torch.arange(40).repeat_interleave(
        torch.randint(1, 5, (40,), generator=torch.Generator().manual_seed(0))
    )
    out = held_out(images, 0.1, seed=1)
    assert len(images[out].unique()) == 4
    assert not set(images[out].tolist()) & set(images[~out].tolist())
    assert torch.equal(out, held_out(images, 0.1, seed=1))
    assert not torch.equal(out, held_out(images, 0.1, seed=2))
    assert [len(images[held_out(images, share, 0)].unique()) for share in (0.001, 0.999)] == [1, 39]
    with pytest.raises(OdisError, match="1 train image with a label is too few"):
        held_out(torch.zeros(5, dtype=torch.int64), 0.5, 0)


def test_the_best_on_held_out_images_is_chosen_and_what_diverges_is_not() -> None:
    features, labels = rows(300, 5, 3)
    seen: list[int] = []

    def measure(logits: Tensor, targets: Tensor) -> float:
        seen.append(len(targets))
        return -total_loss(logits, targets).item()

    grid = Grid(lrs=(1e-9, 0.05, 3e38), weight_decays=(0.0,), steps=60, batch=64)
    choice = choose_and_train(
        features, labels, torch.arange(300), grid, measure, classes=3, share=0.2, seed=0
    )
    assert choice.lr == 0.05
    assert seen == [60, 60], "the diverged one is not measured"
    again = train_classifiers(features, labels, [(0.05, 0.0)], classes=3, steps=60, batch=64, seed=0)
    assert torch.equal(choice.classifiers.weight, again.weight), "then trained on all"
    equal = choose_and_train(
        features, labels, torch.arange(300), grid, lambda z, y: 1.0, classes=3, share=0.2, seed=0
    )
    assert equal.lr == 0.05, "of equal ones the lower loss"
    with pytest.raises(OdisError, match=r"no classifier stayed finite: lrs \[3e\+38\] are too high"):
        choose_and_train(
            features, labels, torch.arange(300), Grid(lrs=(3e38,)), measure, classes=3, share=0.2, seed=0
        )


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Grid(lrs=()), r"lrs \[\] must be one or more numbers above 0"),
        (Grid(lrs=(0.1, -1)), "lrs"),
        (Grid(lrs=(math.nan,)), "lrs"),
        (Grid(weight_decays=(-1,)), "weight-decays"),
        (Grid(steps=0), "steps 0 must be 1 or more"),
        (Grid(batch=0), "batch 0 must be 1 or more"),
    ],
)
def test_grids_that_cannot_be_trained(grid: Grid, message: str) -> None:
    with pytest.raises(OdisError, match=message):
        grid.check()
