"""Crop geometry against torchvision's own random-resized-crop, drawn one after the other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, ks_2samp
from torchvision.transforms import RandomResizedCrop

from odis.data.geometry.crops import (
    box_areas,
    choose_target,
    clip_boxes,
    coverage,
    object_aware_crops,
    propose_crops,
)

SCALE, RATIO = (0.25, 1.0), (3 / 4, 4 / 3)


def torchvision_crop(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> list[int]:
    image = torch.empty(1).expand(3, height, width)
    top, left, h, w = RandomResizedCrop.get_params(image, list(scale), list(ratio))
    return [left, top, left + w, top + h]


def pixel_coverage(crop, box) -> float:
    overlap = max(min(crop[2], box[2]) - max(crop[0], box[0]), 0) * max(
        min(crop[3], box[3]) - max(crop[1], box[1]), 0
    )
    return overlap / min((crop[2] - crop[0]) * (crop[3] - crop[1]), (box[2] - box[0]) * (box[3] - box[1]))


def select(crops, box, min_coverage: float) -> list[int]:
    """The rule, one candidate after the other; `crops` may be a generator."""
    best, most = None, -1.0
    for crop in crops:
        share = pixel_coverage(crop, box)
        if share >= min_coverage and share > 0:
            return crop
        if share > most:
            best, most = crop, share
    return best


def assert_same_distribution(ours: np.ndarray, theirs: np.ndarray) -> None:
    def quantities(crops: np.ndarray) -> np.ndarray:
        w, h = crops[:, 2] - crops[:, 0], crops[:, 3] - crops[:, 1]
        return np.stack([*crops.T, w, h, w * h, w / h])

    for a, b in zip(quantities(ours), quantities(theirs)):
        assert ks_2samp(a, b).pvalue > 1e-3


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [
        (500, 375, SCALE),
        (375, 500, (0.05, 0.25)),
        (64, 64, SCALE),
        (4000, 3000, (0.08, 1.0)),
        (900, 260, (0.6, 1.0)),  # often rejected, sometimes ten times
        (700, 20, SCALE),  # always the central crop
    ],
)
def test_proposals_follow_torchvision(width, height, scale):
    torch.manual_seed(1)
    theirs = np.array([torchvision_crop(width, height, scale, RATIO) for _ in range(2500)])
    ours = propose_crops(np.random.default_rng(1), width, height, (2500,), scale, RATIO)
    assert_same_distribution(ours, theirs)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (2, 5), (4, 4), (1, 9)])
def test_proposals_of_tiny_images_follow_torchvision(width, height):
    torch.manual_seed(2)
    theirs = np.array([torchvision_crop(width, height, SCALE, RATIO) for _ in range(3000)])
    ours = propose_crops(np.random.default_rng(2), width, height, (3000,), SCALE, RATIO)
    distinct, which = np.unique(np.concatenate([theirs, ours]), axis=0, return_inverse=True)
    counts = np.array([np.bincount(w, minlength=len(distinct)) for w in (which[:3000], which[3000:])])
    counts = counts[:, counts.sum(0) >= 10]  # chi-square's approximation needs some of each
    assert len(distinct) == 1 or chi2_contingency(counts).pvalue > 1e-3


BOXES = {
    "ordinary": (120.0, 90.5, 260.25, 210.0),
    "tiny": (301.0, 200.0, 304.0, 203.0),
    "huge": (3.0, 2.0, 490.0, 371.0),
    "corner": (0.0, 0.0, 30.0, 22.0),
    "edge": (470.5, 100.0, 500.0, 290.0),
    "wide": (5.0, 180.0, 495.0, 188.0),
    "tall": (240.0, 1.0, 246.5, 374.0),
    "whole": (0.0, 0.0, 500.0, 375.0),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
@pytest.mark.parametrize(
    ("min_coverage", "scale", "candidates"), [(0.5, SCALE, 20), (1.0, SCALE, 4), (0.0, (0.05, 0.25), 10)]
)
def test_object_aware_crops_follow_the_one_after_the_other_rule(box, min_coverage, scale, candidates):
    torch.manual_seed(3)
    n = 400
    theirs = np.array(
        [
            select((torchvision_crop(500, 375, scale, RATIO) for _ in range(candidates)), box, min_coverage)
            for _ in range(n)
        ]
    )
    rule = {"scale": scale, "ratio": RATIO, "min_coverage": min_coverage, "candidates": candidates}
    ours = object_aware_crops(np.random.default_rng(3), 500, 375, np.array(box), 3 * n, **rule)
    assert_same_distribution(ours, theirs)
    assert ks_2samp(coverage(ours, np.array(box)), coverage(theirs, np.array(box))).pvalue > 1e-3


sizes = st.integers(1, 600)


@st.composite
def scenes(draw):
    """An image size and a box inside it, of whole or broken pixels."""
    width, height = draw(sizes), draw(sizes)
    part = st.floats(0, 1) if draw(st.booleans()) else st.sampled_from([0, 0.25, 0.5, 0.75, 1])
    x0, y0 = draw(part) * (width - 0.5), draw(part) * (height - 0.5)
    x1, y1 = x0 + max(0.5, draw(part) * (width - x0)), y0 + max(0.5, draw(part) * (height - y0))
    return width, height, np.array([x0, y0, min(x1, width), min(y1, height)])


@settings(max_examples=150, deadline=None)
@given(scenes(), st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(1, 25))
def test_the_chosen_crop_is_the_one_the_rule_takes_from_the_same_candidates(
    scene, seed, min_coverage, candidates
):
    width, height, box = scene
    rule = {"scale": SCALE, "ratio": RATIO}
    chosen = object_aware_crops(
        np.random.default_rng(seed),
        width,
        height,
        box,
        3,
        min_coverage=min_coverage,
        candidates=candidates,
        **rule,
    )
    whole = bool((box == [0, 0, width, height]).all())
    proposed = propose_crops(
        np.random.default_rng(seed), width, height, (3,) if whole else (3, candidates), SCALE, RATIO
    )
    assert chosen.dtype == np.int64
    for view in range(3):
        assert (
            chosen[view].tolist()
            == (proposed[view] if whole else select(proposed[view], box, min_coverage)).tolist()
        )
        assert coverage(chosen[view], box) == pytest.approx(pixel_coverage(chosen[view], box), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    sizes,
    sizes,
    st.integers(0, 2**31),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.floats(0.1, 9),
    st.floats(1, 5),
)
def test_crops_lie_in_the_image_and_keep_scale_and_ratio(width, height, seed, low, high, narrow, spread):
    scale, ratio = (min(low, high), max(low, high)), (narrow, narrow * spread)
    crops = propose_crops(np.random.default_rng(seed), width, height, (2, 8), scale, ratio)
    assert crops.shape == (2, 8, 4)
    x0, y0, x1, y1 = crops.reshape(-1, 4).T
    w, h = x1 - x0, y1 - y0
    assert (x0 >= 0).all()
    assert (y0 >= 0).all()
    assert (x1 <= width).all()
    assert (y1 <= height).all()
    assert (w >= 1).all()
    assert (h >= 1).all()
    # Sides are rounded by up to half a pixel; the fallback is central and as large as its ratio lets it be.
    central = (
        (np.abs(2 * x0 + w - width) <= 1)
        & (np.abs(2 * y0 + h - height) <= 1)
        & ((w == width) | (h == height))
    )
    shape = ((w + 0.5) / (h - 0.5) >= ratio[0]) & ((w - 0.5) / (h + 0.5) <= ratio[1])
    area = ((w + 0.5) * (h + 0.5) >= scale[0] * width * height) & (
        (w - 0.5) * (h - 0.5) <= scale[1] * width * height
    )
    assert (central | (shape & area)).all()


def test_a_whole_image_object_takes_the_first_candidate():
    box = np.array([0, 0, 640, 480.0])
    rule = {"scale": SCALE, "ratio": RATIO, "min_coverage": 1.0}
    one = object_aware_crops(np.random.default_rng(0), 640, 480, box, 50, candidates=1, **rule)
    many = object_aware_crops(np.random.default_rng(0), 640, 480, box, 50, candidates=20, **rule)
    assert (one == many).all()
    assert (coverage(many, box) == 1).all()


def test_coverage_by_hand():
    box = np.array([10, 10, 30, 20.0])  # 200 square pixels
    crops = np.array([[0, 0, 40, 40], [12, 12, 17, 16], [20, 0, 60, 40], [30, 0, 50, 50], [0, 0, 20, 15]])
    assert coverage(crops, box).tolist() == [1, 1, 0.5, 0, 0.25]
    assert coverage(crops[0], np.array([5, 5, 5, 9.0])) == 0


def test_targets_are_drawn_by_area_or_uniformly():
    boxes = np.array(
        [[0, 0, 10, 10], [0, 0, 20, 10], [5, 5, 5, 50], [0, 0, 10, 70.0]]
    )  # areas 100, 200, 0, 700
    rng = np.random.default_rng(0)
    by_area = (
        np.bincount([choose_target(rng, box_areas(boxes), "area") for _ in range(10_000)], minlength=4)
        / 10_000
    )
    assert by_area == pytest.approx([0.1, 0.2, 0, 0.7], abs=0.02)
    assert by_area[2] == 0
    uniform = (
        np.bincount([choose_target(rng, box_areas(boxes), "uniform") for _ in range(10_000)], minlength=4)
        / 10_000
    )
    assert uniform == pytest.approx([0.25] * 4, abs=0.02)


def test_boxes_are_clipped_and_bad_ones_dropped():
    nan = float("nan")
    boxes = [
        [-5, 2, 8, 30],
        [3, 3, 3, 9],
        [9, 9, 4, 4],
        [20, 0, 30, 5],
        [nan, 0, 5, 5],
        [0, 0, 2.5, 9],
        [7, 7, 8.4, 9],
    ]
    clipped, keep = clip_boxes(np.array(boxes), 10, 20, 1.5)
    assert keep.tolist() == [True, False, False, False, False, True, False]
    assert clipped[0].tolist() == [0, 2, 8, 20]
    assert clip_boxes(np.zeros((0, 4)), 10, 20, 1)[0].shape == (0, 4)
