"""Masks on the patch grid against per-pixel loops, supersampling and iBOT's own mask generator."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.data.geometry.crops import coverage
from odis.data.geometry.masks import (
    mask_rectangles,
    mask_window,
    object_mask,
    object_masks,
    patch_coverage_of_box,
    patch_coverage_of_boxes,
    patch_coverage_of_mask,
    patch_coverage_of_rectangles,
    prediction_mask,
)
from odis.objects import rle
from odis.types import Crop

FINE = 48  # a patch is looked at in FINE x FINE points


def supersampled(inside, crop: Crop, grid: tuple[int, int]) -> np.ndarray:
    """Share of points of each patch for which `inside(x, y)` holds, x and y in pixels of the image."""
    rows, columns = grid
    x = crop.x0 + (np.arange(columns * FINE) + 0.5) * crop.width / (columns * FINE)
    y = crop.y0 + (np.arange(rows * FINE) + 0.5) * crop.height / (rows * FINE)
    points = inside(*np.meshgrid(x, y)).astype(float)
    if crop.flip:
        points = points[:, ::-1]
    return points.reshape(rows, FINE, columns, FINE).mean((1, 3))


def pixel_loop(mask: np.ndarray, crop: Crop, grid: tuple[int, int]) -> np.ndarray:
    """Area of each pixel of the mask in each patch, summed one after the other."""
    rows, columns = grid
    height, width = crop.height / rows, crop.width / columns
    shares = np.zeros(grid)
    for r in range(rows):
        for c in range(columns):
            top = crop.y0 + r * height
            left = crop.x0 + (columns - 1 - c if crop.flip else c) * width
            for y in range(crop.y0, crop.y1):
                for x in range(crop.x0, crop.x1):
                    if mask[y, x]:
                        down = max(0.0, min(y + 1, top + height) - max(y, top))
                        across = max(0.0, min(x + 1, left + width) - max(x, left))
                        shares[r, c] += down * across / (height * width)
    return shares


grids = st.tuples(st.integers(1, 6), st.integers(1, 6))


@st.composite
def crops(draw, width=30, height=24):
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    return Crop(x0, y0, x1, y1, draw(st.booleans()))


@st.composite
def boxes(draw):
    x, y = st.floats(-5, 35), st.floats(-5, 29)
    x0, x1 = sorted((draw(x), draw(x)))
    y0, y1 = sorted((draw(y), draw(y)))
    return np.array([x0, y0, x1, y1])


@settings(max_examples=60, deadline=None)
@given(boxes(), crops(), grids)
def test_box_coverage_equals_supersampling_and_keeps_area(box, crop, grid):
    shares = patch_coverage_of_box(box, crop, grid)
    points = supersampled(
        lambda x, y: (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3]), crop, grid
    )
    assert shares == pytest.approx(points, abs=2.1 / FINE)  # a point more or less on each side
    across = max(0.0, min(box[2], crop.x1) - max(box[0], crop.x0))
    down = max(0.0, min(box[3], crop.y1) - max(box[1], crop.y0))
    assert shares.sum() * crop.width * crop.height / (grid[0] * grid[1]) == pytest.approx(
        across * down, abs=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(st.data(), crops(), grids, st.floats(0, 1))
def test_mask_coverage_equals_the_pixel_loop(data, crop, grid, share):
    mask = (np.random.default_rng(data.draw(st.integers(0, 10**6))).random((24, 30)) < share).astype(np.uint8)
    expected = pixel_loop(mask, crop, grid)
    assert patch_coverage_of_mask(mask, crop, grid) == pytest.approx(expected, abs=1e-9)
    window, corner = mask_window(mask)
    assert patch_coverage_of_mask(window, crop, grid, corner) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.lists(crops(), min_size=0, max_size=4), grids, st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_coverage_of_a_masks_rectangles_equals_the_pixel_loop(data, views, grid, share):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    mask = (rng.random((24, 30)) < share).astype(np.uint8)
    if data.draw(st.booleans()):  # columns that are whole, and runs that go on in the next one
        mask[:, 3 : data.draw(st.integers(3, 12))] = 1
        mask[data.draw(st.integers(0, 23)) :, 20] = mask[: data.draw(st.integers(0, 24)), 21] = 1
    rectangles = mask_rectangles(rle.run_lengths(rle.encode(mask)), 24)
    painted = np.zeros_like(mask)
    for x0, y0, x1, y1 in rectangles:
        assert (x0, y0) < (x1, y1)
        painted[y0:y1, x0:x1] += 1
    assert (painted == mask).all()
    corners = np.array([[c.x0, c.y0, c.x1, c.y1] for c in views], dtype=np.int64).reshape(-1, 4)
    found = patch_coverage_of_rectangles(
        rectangles.astype(float), corners.astype(float), np.array([c.flip for c in views], dtype=bool), *grid
    )
    assert found.shape == (len(views), *grid)
    for shares, crop in zip(found, views):
        expected = pixel_loop(mask, crop, grid)
        assert shares == pytest.approx(expected, abs=1e-9)
        assert ((shares > 0) == (expected > 1e-7)).all()
        assert (object_mask(shares, 0.5) == object_mask(patch_coverage_of_mask(mask, crop, grid), 0.5)).all()


def test_the_many_rectangles_of_a_mask_of_noise_add_up():
    mask = np.random.default_rng(0).random((150, 200)) < 0.5
    rectangles = mask_rectangles(rle.run_lengths(rle.encode(mask)), 150)
    assert len(rectangles) > 4096
    shares = patch_coverage_of_rectangles(
        rectangles.astype(float), np.array([[20.0, 10, 140, 130]]), np.array([True]), 5, 6
    )[0]
    assert shares == pytest.approx(
        patch_coverage_of_mask(mask, Crop(20, 10, 140, 130, True), (5, 6)), abs=1e-9
    )


def test_a_large_mask_leaves_nothing_where_nothing_is():
    mask = np.ones((3000, 4000), dtype=np.uint8)
    mask[1000:2000, 1500:2500] = 0
    rectangles = mask_rectangles(rle.run_lengths(rle.encode(mask)), 3000)
    crop, rectangles = np.array([[1500.0, 1000, 2500, 2000]]), rectangles.astype(float)
    for grid in ((7, 7), (14, 13), (1, 1)):
        assert (patch_coverage_of_rectangles(rectangles, crop, np.array([False]), *grid) == 0).all()
        whole = patch_coverage_of_rectangles(
            rectangles, np.array([[0.0, 0, 1400, 900]]), np.array([True]), *grid
        )
        assert whole == pytest.approx(1, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 29), st.integers(0, 23)),
    st.tuples(st.integers(1, 30), st.integers(1, 24)),
    crops(),
    grids,
)
def test_a_box_of_whole_pixels_covers_what_its_mask_covers(corner, size, crop, grid):
    x0, y0 = corner
    x1, y1 = min(30, x0 + size[0]), min(24, y0 + size[1])
    mask = np.zeros((24, 30), dtype=bool)
    mask[y0:y1, x0:x1] = True
    of_box = patch_coverage_of_box(np.array([x0, y0, x1, y1]), crop, grid)
    assert patch_coverage_of_mask(mask, crop, grid) == pytest.approx(of_box, abs=1e-9)
    assert (object_mask(patch_coverage_of_mask(mask, crop, grid), 0.5) == object_mask(of_box, 0.5)).all()


def test_boxes_are_covered_together_as_alone():
    many = np.array([[0, 0, 9, 9], [2.5, 3, 20, 21], [25, 20, 30, 24.0], [40, 40, 50, 50]])
    views = [Crop(1, 2, 28, 22, True), Crop(0, 0, 30, 24, False), Crop(7, 7, 8, 8, True)]
    corners = np.array([[c.x0, c.y0, c.x1, c.y1] for c in views])
    together = patch_coverage_of_boxes(many, corners, np.array([c.flip for c in views]), (3, 5))
    assert together.shape == (3, 4, 3, 5)
    for v, crop in enumerate(views):
        for n, box in enumerate(many):
            alone = patch_coverage_of_box(box, crop, (3, 5))
            assert (alone == together[v, n]).all()
            assert (object_mask(alone, 0.5, 1) == object_mask(together, 0.5, 1)[v, n]).all()


def test_the_window_of_a_mask():
    mask = np.zeros((9, 12), dtype=np.uint8)
    assert mask_window(mask)[0].size == 0
    assert patch_coverage_of_mask(*mask_window(mask)[:1], Crop(0, 0, 12, 9), (2, 2)).sum() == 0
    mask[2, 5] = mask[6, 3] = 1
    window, corner = mask_window(mask)
    assert corner == (3, 2)
    assert window.shape == (5, 3)
    assert window[0, 2] == window[4, 0] == 1
    assert window.sum() == 2


@settings(max_examples=100, deadline=None)
@given(boxes(), crops(), grids, st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 3))
def test_object_masks_keep_what_is_covered_enough_and_never_vanish(box, crop, grid, threshold, margin):
    shares = patch_coverage_of_box(box, crop, grid)
    mask = object_mask(shares, threshold)
    assert mask.any() == (shares > 0).any()
    if shares.max() > 0:
        enough = threshold * shares.max()
        assert mask[shares == shares.max()].all()
        assert mask[shares >= enough].all()
        assert not mask[shares < enough * (1 - 1e-6)].any()
    wide = object_mask(shares, threshold, margin)
    for r in range(grid[0]):
        for c in range(grid[1]):
            near = mask[max(0, r - margin) : r + margin + 1, max(0, c - margin) : c + margin + 1]
            assert wide[r, c] == near.any()


def test_object_masks_by_hand():
    shares = np.array([[0.0, 0.5, 0.49], [0.2, 1.0, 0.0]])
    assert object_mask(shares, 0.5).tolist() == [[False, True, False], [False, True, False]]
    assert (
        object_mask(shares / 4, 0.5) == object_mask(shares, 0.5)
    ).all()  # a thinner object keeps the same patches
    tied = np.array([[0.0, 0.1, 0.2, 0.1 * (1 - 1e-15), 0.09]])
    assert object_mask(tied, 0.5).tolist() == [[False, True, True, True, False]]
    assert object_mask(tied, 1.0).tolist() == [[False, False, True, False, False]]
    assert object_mask(tied[:, :4], 0.5, 1).tolist() == [[True, True, True, True]]
    assert not object_mask(np.zeros((2, 3)), 0.5, 2).any()


@settings(max_examples=60, deadline=None)
@given(crops(), grids, st.floats(0.01, 1))
def test_the_whole_image_fills_every_view(crop, grid, threshold):
    assert object_mask(patch_coverage_of_box(np.array([0, 0, 30, 24]), crop, grid), threshold).all()
    assert object_mask(patch_coverage_of_mask(np.ones((24, 30)), crop, grid), threshold).all()


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


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.lists(crops(), min_size=0, max_size=4),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 2),
)
def test_masks_of_all_objects_equal_those_of_each(data, views, side, n, margin):
    """Boxes and pixel masks mixed, in views mirrored or not, against the functions of one object and one
    view.
    """
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    threshold, min_visible = (
        data.draw(st.sampled_from([1e-3, 0.5, 1.0])),
        data.draw(st.sampled_from([0.0, 0.1, 1.0])),
    )
    low, high = rng.integers(0, (28, 22), (n, 2)), rng.integers(1, 12, (n, 2))
    boxes = np.concatenate([low, np.minimum(low + high, (30, 24))], 1).astype(np.float64)
    pixels: list[np.ndarray | None] = []
    for x0, y0, x1, y1 in boxes.astype(int):
        mask = np.zeros((24, 30), dtype=np.uint8)
        mask[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.6
        pixels.append(mask if mask.any() and rng.random() < 0.6 else None)
    pieces = [
        np.empty((0, 4)) if mask is None else mask_rectangles(rle.run_lengths(rle.encode(mask)), 24)
        for mask in pixels
    ]
    corners = np.array([[c.x0, c.y0, c.x1, c.y1] for c in views], dtype=np.float64).reshape(-1, 4)
    flips = np.array([c.flip for c in views], dtype=bool)
    starts = np.array([0, *map(len, pieces)]).cumsum()
    enough = coverage(corners, boxes) >= min_visible
    masks, visible = object_masks(
        np.concatenate(pieces).astype(np.float64),
        starts,
        boxes,
        enough,
        corners,
        flips,
        side,
        n + 1,
        threshold,
        margin,
    )
    assert masks.shape == (len(views), n + 1, side * side)
    assert visible.shape == (len(views), n + 1)
    assert masks[:, n].all()
    assert not visible[:, n].any()
    for v, crop in enumerate(views):
        for k, mask in enumerate(pixels):
            if mask is None:
                expected = object_mask(patch_coverage_of_box(boxes[k], crop, (side, side)), threshold, margin)
            else:
                expected = object_mask(patch_coverage_of_mask(mask, crop, (side, side)), threshold)
            shown = bool(expected.any()) and coverage(corners[v], boxes[k]) >= min_visible
            assert visible[v, k] == shown
            assert (masks[v, k] == (expected.ravel() if shown else True)).all()


def test_a_margin_reaches_as_far_as_the_grid():
    covered = np.zeros((2, 4, 5))
    covered[0, 0, 1] = covered[1, 3, 4] = 1
    near, far = object_mask(covered, 0.5, 1), object_mask(covered, 0.5, 9)
    assert near[0].astype(int).tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0] * 5, [0] * 5]
    assert near[1].astype(int).tolist() == [[0] * 5, [0] * 5, [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]
    assert far.all()
