"""Comparison of indexes against slow formulas: IoU by pixels, CorLoc and the histogram by loops, AP by an
explicit sweep.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.errors import DataError
from odis.objects.edit.compare import BINS, Comparison, compare, iou
from odis.objects.index import ObjectIndex, write_index
from odis.types import Box, ImageObjects, Object

W, H = 200, 120


def index(folder: Path, name: str, images: list[list[Object]], first: int = 0) -> ObjectIndex:
    rows = [ImageObjects(f"{i + first}.png", W, H, tuple(objects)) for i, objects in enumerate(images)]
    write_index(folder / f"{name}.parquet", rows, root=folder, provenance=name, classes=["x"])
    return ObjectIndex.open(folder / f"{name}.parquet")


def slow_iou(a: Box, b: Box) -> float:
    """By counting pixels of whole-numbered boxes."""
    cells = [
        {(x, y) for x in range(int(c[0]), int(c[2])) for y in range(int(c[1]), int(c[3]))} for c in (a, b)
    ]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


def slow_ap(found: list[list[Object]], true: list[list[Object]], threshold: float) -> float:
    """Greedy matching by falling score; mean of the interpolated precision at 101 recalls."""
    ranked = sorted(
        ((o.score, i, n) for i, objects in enumerate(found) for n, o in enumerate(objects)),
        key=lambda t: -t[0],
    )
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, i, n in ranked:
        options = [
            (slow_iou(found[i][n].box, t.box), m) for m, t in enumerate(true[i]) if (i, m) not in taken
        ]
        best = max(options, default=(0.0, -1))
        if best[0] >= threshold:
            taken.add((i, best[1]))
        hits.append(best[0] >= threshold)
    total = sum(map(len, true))
    recalls = np.cumsum(hits) / total
    precisions = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return 100 * float(
        np.mean([max(precisions[recalls >= r - 1e-12], default=0.0) for r in np.linspace(0, 1, 101)])
    )


def boxes(rng: np.random.Generator, n: int, scored: bool) -> list[Object]:
    corners = np.sort(rng.integers(0, (20, 15), (n, 2, 2)), axis=1) * 8
    corners[:, 1] += 8
    scores = rng.permutation(100)[:n] / 100
    return [
        Object(tuple(map(float, c.reshape(-1))), score=float(s) if scored else None)
        for c, s in zip(corners, scores)
    ]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_every_figure_is_the_slow_one(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, true = (
        [boxes(rng, int(rng.integers(0, 6)), scored) for _ in range(5)] for scored in (True, False)
    )
    # Scores differ between images, so that the order of the sweep is one.
    found = [
        [Object(o.box, score=(o.score or 0) + 1e-4 * i) for o in objects] for i, objects in enumerate(found)
    ]
    folder = tmp_path_factory.mktemp("compare")
    result = compare(index(folder, "found", found), index(folder, "true", true))
    assert (result.predicted_objects, result.true_objects) == (sum(map(len, found)), sum(map(len, true)))
    best = [max((slow_iou(p.box, t.box) for p in f), default=0.0) for f, ts in zip(found, true) for t in ts]
    if not best:
        assert math.isnan(result.ap)
        return
    histogram = [100 * sum(min(int(b * BINS), BINS - 1) == k for b in best) / len(best) for k in range(BINS)]
    assert result.iou_histogram == pytest.approx(histogram)
    shown = [(f, ts) for f, ts in zip(found, true) if ts]
    right = [any(slow_iou(p.box, t.box) >= 0.5 for p in f for t in ts) for f, ts in shown]
    firsts = [sorted(f, key=lambda o: -(o.score or 0))[:1] for f, _ in shown]
    first_right = [
        any(slow_iou(p.box, t.box) >= 0.5 for p in f for t in ts) for f, (_, ts) in zip(firsts, shown)
    ]
    assert result.corloc == pytest.approx(100 * np.mean(right))
    assert result.corloc_first == pytest.approx(100 * np.mean(first_right))
    assert result.ap50 == pytest.approx(slow_ap(found, true, 0.5), abs=1e-6)
    assert result.ap == pytest.approx(
        np.mean([slow_ap(found, true, t) for t in np.linspace(0.5, 0.95, 10)]), abs=1e-6
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 12), st.integers(1, 12)),
        min_size=2,
        max_size=5,
    )
)
def test_iou_is_that_of_pixels(given_: list[tuple[int, int, int, int]]) -> None:
    corners = [(x, y, x + w, y + h) for x, y, w, h in given_]
    array = np.array(corners, dtype=np.float64)
    expected = [[slow_iou(a, b) for b in corners] for a in corners]
    np.testing.assert_allclose(iou(array, array), expected)


def test_an_index_against_itself_and_against_nothing(tmp_path: Path) -> None:
    true = [[Object((0, 0, 20, 20)), Object((40, 10, 90, 60)), Object((5, 5, 195, 115))], []]
    one = index(tmp_path, "true", true)
    same = compare(one, one)
    assert (same.ap, same.ap50, same.corloc, same.corloc_first) == pytest.approx((100, 100, 100, 100))
    assert same.recall50 == {"all": 100, "small": 100, "medium": 100, "large": 100}
    assert same.iou_histogram[-1] == 100
    nothing = compare(index(tmp_path, "none", [[], []]), one)
    assert (nothing.ap, nothing.ap50, nothing.corloc, nothing.iou_histogram[0]) == (0, 0, 0, 100)
    assert nothing.recall50 == {"all": 0, "small": 0, "medium": 0, "large": 0}
    only_small = compare(one, index(tmp_path, "small", [[Object((0, 0, 20, 20))], []]))
    assert math.isnan(only_small.recall50["large"])
    json.dumps(only_small.as_dict(), allow_nan=False)
    assert only_small.as_dict()["recall50"]["large"] is None


def test_images_are_matched_by_path_and_unusable_objects_left_out(tmp_path: Path) -> None:
    good, bad = Object((0, 0, 50, 50)), Object((9, 9, 3, 3))
    result = compare(
        index(tmp_path, "a", [[good], [good, bad], [good]]), index(tmp_path, "b", [[good], [bad]], first=1)
    )
    assert (result.images, result.only_predicted, result.only_truth, result.unusable) == (2, 1, 0, 2)
    assert (result.predicted_objects, result.true_objects, result.corloc) == (2, 1, 100)
    assert (result.predicted, result.truth) == ("a", "b")
    text = "\n".join(f"{name}: {value}" for name, value in result.table())
    assert "images in both (only in one, only in the other): 2 (1, 0)" in text
    assert isinstance(result, Comparison)
    with pytest.raises(DataError, match="have no image in common"):
        compare(index(tmp_path, "c", [[good]]), index(tmp_path, "d", [[good]], first=9))


def test_without_scores_the_order_of_the_index_counts(tmp_path: Path) -> None:
    wrong, right = Object((150, 80, 190, 110)), Object((0, 0, 50, 50))
    true = index(tmp_path, "t", [[right]])
    assert compare(index(tmp_path, "a", [[wrong, right]]), true).corloc_first == 0
    assert compare(index(tmp_path, "b", [[right, wrong]]), true).corloc_first == 100
