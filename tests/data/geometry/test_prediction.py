"""Prediction masks against iBOT's own generator: how many patches are hidden, and where."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.data.geometry.prediction import keep_visible, prediction_mask


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


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_an_object_stays_visible_and_the_share_of_hidden_patches_stays(seed, grid, hides, covers, count):
    draw = np.random.default_rng(seed)
    hidden, item = draw.random(grid) < hides, draw.random(grid) < covers
    before = hidden.copy()
    kept = keep_visible(np.random.default_rng(seed), hidden, item, count)
    assert (hidden == before).all()
    wanted, had = min(count, item.sum()), (item & ~hidden).sum()
    assert (item & ~kept).sum() == max(wanted, had)
    assert not (kept & item & ~hidden).any()  # nothing of the object is newly hidden
    assert (~item & hidden <= kept).all()  # nothing beside it is newly shown
    room = (~item & ~hidden).sum()
    assert kept.sum() == hidden.sum() - max(max(wanted, had) - had - room, 0)
    if had >= wanted:
        assert kept is hidden


def test_patches_are_hidden_beside_hidden_ones_and_every_patch_may_be_shown():
    hidden, item = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    hidden[2:5, 2:5] = item[3:5, 3:5] = True
    shown, instead = np.zeros((8, 8)), np.zeros((8, 8))
    for seed in range(400):
        kept = keep_visible(np.random.default_rng(seed), hidden, item, 1)
        shown += hidden & ~kept
        instead += kept & ~hidden
    assert shown[3:5, 3:5] == pytest.approx(np.full((2, 2), 100), abs=45)
    edge = np.zeros((8, 8), bool)
    edge[[1, 5], 2:5] = edge[2:5, [1, 5]] = True
    assert (instead[~edge] == 0).all()
    assert (instead[edge] > 5).all()


def test_nothing_is_drawn_where_enough_of_the_object_is_visible():
    rng, item = np.random.default_rng(0), np.ones((4, 4), bool)
    hidden = np.zeros((4, 4), bool)
    hidden[0] = True
    assert keep_visible(rng, hidden, item, 12) is hidden
    assert rng.random() == np.random.default_rng(0).random()
