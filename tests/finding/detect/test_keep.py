"""Which boxes become objects, against a slow loop over pairs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.errors import ConfigError
from odis.finding.detect.keep import Limits, keep


def overlap(a, b) -> float:
    """Intersection over union of two boxes."""
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def slow_keep(boxes, scores, labels, size, limits: Limits):
    """Boxes one after the other, the best first; a box stays if no better one of its class that stays
    overlaps it too much.
    """
    width, height = size
    staying: list[tuple[int, list[float]]] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i] if math.isfinite(scores[i]) else 0.0):
        box = boxes[i]
        if not all(map(math.isfinite, box)) or not math.isfinite(scores[i]) or scores[i] < limits.min_score:
            continue
        box = [min(max(v, 0.0), float(side)) for v, side in zip(box, (width, height, width, height))]
        if box[2] <= box[0] or box[3] <= box[1]:
            continue
        rivals = [b for j, b in staying if limits.across_classes or labels is None or labels[j] == labels[i]]
        if all(overlap(box, rival) <= limits.nms for rival in rivals):
            staying.append((i, box))
    staying = [(i, b) for i, b in staying if min(b[2] - b[0], b[3] - b[1]) >= limits.min_size]
    return staying[: limits.max_objects]


NUMBER = st.one_of(st.integers(-6, 26).map(float), st.sampled_from([math.nan, math.inf, -math.inf]))


@st.composite
def cases(draw):
    boxes = draw(st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), max_size=14))
    scores = draw(st.permutations([k / 16 for k in range(16)]))[: len(boxes)]
    if boxes and draw(st.booleans()):
        scores[0] = draw(st.sampled_from([math.nan, math.inf]))
    labels = draw(st.none() | st.lists(st.integers(0, 2), min_size=len(boxes), max_size=len(boxes)))
    limits = Limits(
        min_score=draw(st.sampled_from([0.0, 0.25, 0.5])),
        nms=draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])),  # exact in float32 too
        across_classes=draw(st.booleans()),
        min_size=draw(st.sampled_from([0.0, 1.0, 4.0])),
        max_objects=draw(st.sampled_from([1, 3, 100])),
    )
    return boxes, scores, labels, (draw(st.integers(1, 20)), draw(st.integers(1, 20))), limits


@settings(max_examples=150, deadline=None)
@given(cases())
def test_what_stays_is_what_a_loop_over_pairs_keeps(case):
    boxes, scores, labels, size, limits = case
    kept, chosen = keep(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        None if labels is None else torch.tensor(labels, dtype=torch.int64),
        size,
        limits,
    )
    expected = slow_keep(boxes, scores, labels, size, limits)
    assert chosen.tolist() == [i for i, _ in expected]
    assert kept.tolist() == [box for _, box in expected]


def test_many_boxes_of_many_classes():
    draw = torch.Generator().manual_seed(0)
    corner = torch.rand(400, 2, generator=draw) * 500
    boxes = torch.cat([corner, corner + torch.rand(400, 2, generator=draw) * 200], dim=1)
    scores = torch.randperm(400, generator=draw) / 400
    labels = torch.randint(0, 5, (400,), generator=draw)
    for across in (False, True):
        limits = Limits(min_score=0.1, nms=0.4, across_classes=across, min_size=20, max_objects=60)
        _, chosen = keep(boxes, scores, labels, (600, 400), limits)
        expected = slow_keep(boxes.tolist(), scores.tolist(), labels.tolist(), (600, 400), limits)
        assert chosen.tolist() == [i for i, _ in expected]
        assert 10 < len(chosen) <= 60


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (Limits(min_score=1.1), "min-score: is 1.1"),
        (Limits(min_score=math.nan), "min-score: is nan"),
        (Limits(nms=-0.1), "nms: is -0.1"),
        (Limits(min_size=-1), "min-size: is -1"),
        (Limits(max_objects=0), "max-objects: is 0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: Limits, named: str):
    with pytest.raises(ConfigError, match=named):
        limits.check()
    Limits().check()
