"""Prediction masks against iBOT's own generator: how many patches are hidden, and where."""

import math
import random

import numpy as np
import pytest

from odis.data.geometry.prediction import prediction_mask


def ibot_mask(grid: tuple[int, int], share: float) -> np.ndarray:
    """iBOT's block masks, loop by loop (its `ImageFolderMask`)."""
    rows, columns = grid
    high, mask, count = share * rows * columns, np.zeros(grid, dtype=bool), 0
    while count < high:
        room, delta = high - count, 0
        for _ in range(10):
            area = random.uniform((min(grid) // 3) ** 2, room)
            aspect = math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if w < columns and h < rows:
                top, left = random.randint(0, rows - h), random.randint(0, columns - w)
                new = h * w - mask[top : top + h, left : left + w].sum()
                if 0 < new <= room:
                    mask[top : top + h, left : left + w] = True
                    delta = new
                    break
        if delta == 0:
            break
        count += delta
    return mask


@pytest.mark.parametrize(("grid", "share"), [((14, 14), 0.3), ((14, 14), 0.5), ((12, 16), 0.1)])
def test_prediction_masks_are_distributed_as_ibots(grid, share):
    random.seed(0)
    rng = np.random.default_rng(0)
    theirs = np.array([ibot_mask(grid, share) for _ in range(500)])
    ours = np.array([prediction_mask(rng, grid, 1.0, share, 0.0) for _ in range(500)])
    hidden = [m.sum((1, 2)) for m in (ours, theirs)]
    assert hidden[0].mean() == pytest.approx(hidden[1].mean(), rel=0.015)
    assert hidden[0].std() == pytest.approx(hidden[1].std(), abs=1.0)
    # Where patches are hidden, and how blocky: neighbours of hidden patches that are hidden too.
    assert ours.mean(0) == pytest.approx(theirs.mean(0), abs=0.12)
    together = [(m[:, 1:] & m[:, :-1]).sum() / m[:, 1:].sum() for m in (ours, theirs)]
    assert together[0] == pytest.approx(together[1], abs=0.02)


@pytest.mark.parametrize("grid", [(14, 14), (6, 6), (3, 3), (4, 9), (1, 9), (7, 2), (2, 2), (1, 1)])
def test_hidden_patches_approach_their_share_and_never_exceed_it(grid):
    short = []
    for seed in range(300):
        share = 0.3 + 0.2 * (2 * np.random.default_rng(seed).random(2)[1] - 1)
        wanted = int(share * grid[0] * grid[1])
        mask = prediction_mask(np.random.default_rng(seed), grid, 1.0, 0.3, 0.2)
        short.append(wanted - mask.sum())
        assert mask.shape == grid
        assert mask.any() == (wanted > 0) or grid == (3, 3)
    assert min(short) >= 0
    assert np.mean(short) <= 1.1 if grid == (14, 14) else np.mean(short) <= 0.2


def test_prediction_masks_follow_their_probability_and_ratio():
    rng = np.random.default_rng(0)
    assert not any(prediction_mask(rng, (6, 6), 0.0, 0.3, 0.2).any() for _ in range(50))
    assert not any(prediction_mask(rng, (6, 6), 1.0, 0.0, 0.0).any() for _ in range(50))
    assert all(prediction_mask(rng, (6, 6), 1.0, 1.0, 0.0).sum() >= 30 for _ in range(50))
    hidden = np.array([prediction_mask(rng, (14, 14), 0.5, 0.3, 0.2).mean() for _ in range(1500)])
    assert (hidden > 0).mean() == pytest.approx(0.5, abs=0.05)
    assert hidden[hidden > 0].mean() == pytest.approx(0.295, abs=0.015)
    assert hidden[hidden > 0].min() < 0.12
    assert hidden.max() > 0.48
    again = [prediction_mask(np.random.default_rng(5), (14, 14), 1.0, 0.3, 0.2) for _ in range(2)]
    assert (again[0] == again[1]).all()
