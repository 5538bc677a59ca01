"""Scores of landmark retrieval against the protocol's published loops, and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.errors import OdisError
from odis.evaluation.landmark_scores import LandmarkQuery, Landmarks, landmark_scores


def truth_of(labels: list[list[int]]) -> Landmarks:
    """A ground truth from one label for each image and query: 0 other, 1 easy, 2 hard, 3 junk."""
    queries = []
    for row in labels:
        lists = [
            np.array([i for i, one in enumerate(row) if one == wanted], dtype=np.int64)
            for wanted in (1, 2, 3)
        ]
        queries.append(LandmarkQuery("q", (0.0, 0.0, 1.0, 1.0), *lists))
    return Landmarks([f"image_{i}" for i in range(len(labels[0]))], queries)


def slow_scores(ranking: list[int], ok: list[int], junk: list[int], ks: tuple[int, ...]) -> list[float]:
    """Average precision and precisions at k of one query: the published loops, one position at a time."""
    if not ok:
        return [float("nan")] * (1 + len(ks))
    positions = [p for p, image in enumerate(ranking) if image in ok]
    junk_positions = [p for p, image in enumerate(ranking) if image in junk]
    passed = 0
    for i in range(len(positions)):  # each positive moves up by the junk before it
        while passed < len(junk_positions) and positions[i] > junk_positions[passed]:
            passed += 1
        positions[i] -= passed
    ap, recall_step = 0.0, 1.0 / len(ok)
    for j, rank in enumerate(positions):
        precision_0 = 1.0 if rank == 0 else j / rank
        precision_1 = (j + 1) / (rank + 1)
        ap += (precision_0 + precision_1) * recall_step / 2.0
    scores = [ap]
    from_one = [p + 1 for p in positions]
    for kappa in ks:
        kq = min(max(from_one), kappa)
        scores.append(sum(p <= kq for p in from_one) / kq)
    return scores


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, list[list[int]]]:
    images, queries = draw(st.integers(1, 16)), draw(st.integers(1, 3))
    most = draw(st.sampled_from([2, 3]))  # with and without junk
    levels = draw(st.sampled_from([2, 5, 1000]))  # few levels make ties
    labels = [draw(st.lists(st.integers(0, most), min_size=images, max_size=images)) for _ in range(queries)]
    values = [
        draw(st.lists(st.integers(-levels, levels), min_size=images, max_size=images)) for _ in range(queries)
    ]
    return np.array(values, dtype=np.float32) / 8, labels


@settings(max_examples=200, deadline=None)
@given(rankings())
def test_equals_the_published_loops(case: tuple[np.ndarray, list[list[int]]]) -> None:
    similarity, labels = case
    ks = (1, 3, 5, 10)
    found = landmark_scores(similarity, truth_of(labels), ks)
    setups = {"easy": ({1}, {2, 3}), "medium": ({1, 2}, {3}), "hard": ({2}, {1, 3})}
    for setup, (positive, ignored) in setups.items():
        assert list(found[setup]) == ["ap", "p@1", "p@3", "p@5", "p@10"]
        for q, row in enumerate(labels):
            ranking = sorted(range(len(row)), key=lambda i: (-similarity[q, i], i))
            ok, junk = ([i for i, one in enumerate(row) if one in wanted] for wanted in (positive, ignored))
            got = [found[setup][name][q] for name in found[setup]]
            np.testing.assert_allclose(
                got, slow_scores(ranking, ok, junk, ks), rtol=1e-12, err_msg=f"{setup}, query {q}"
            )


def test_a_case_worked_by_hand() -> None:
    # Ranked: junk, easy, other, hard, other, other. A second query has only a hard positive, ranked first.
    truth = truth_of([[3, 1, 0, 2, 0, 0], [0, 0, 0, 0, 0, 2]])
    scores = landmark_scores(torch.tensor([[6.0, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6]]), truth)
    assert scores["easy"]["ap"][0] == scores["easy"]["p@10"][0] == 1  # junk and hard taken out, it is first
    assert scores["medium"]["ap"][0] == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)  # ranks 0 and 2
    assert scores["medium"]["p@1"][0] == 1
    assert scores["medium"]["p@5"][0] == pytest.approx(
        2 / 3
    )  # of the first three: the last positive ends the count
    assert scores["hard"]["ap"][0] == pytest.approx((0 + 1 / 2) / 2)  # rank 1: the easy one is taken out
    assert [scores["hard"][f"p@{k}"][0] for k in (1, 5, 10)] == [0, 0.5, 0.5]
    assert np.isnan([scores["easy"][name][1] for name in ("ap", "p@1", "p@5", "p@10")]).all()


def test_of_equally_similar_images_the_lower_index_comes_first() -> None:
    truth = truth_of([[0] * 40 + [1] + [0] * 40])
    assert landmark_scores(np.zeros((1, 81)), truth)["easy"]["ap"][0] == pytest.approx(1 / 41 / 2)


def test_types_of_similarity_and_a_setup_without_positives() -> None:
    truth = truth_of([[1, 0, 0, 1]])
    similarity = torch.tensor([[0.5, 2.0, 1.0, 0.25]], requires_grad=True)
    wanted = landmark_scores(similarity, truth)
    for other in (similarity.bfloat16(), similarity.half(), similarity.detach().numpy(), similarity.double()):
        assert landmark_scores(other, truth)["easy"]["ap"] == wanted["easy"]["ap"]
    assert all(np.isnan(values).all() for values in wanted["hard"].values())


@pytest.mark.parametrize(
    ("similarity", "ks", "message"),
    [
        (np.zeros((1, 4)), (5, 0), "k 0 must be at least 1"),
        (np.zeros((4, 1)), (1,), r"similarities are \(4, 1\), must be \(1, 4\)"),
        (np.array([[0, 1, np.nan, 0]]), (1,), "not finite"),
    ],
)
def test_refused_similarities(similarity: np.ndarray, ks: tuple[int, ...], message: str) -> None:
    with pytest.raises(OdisError, match=message):
        landmark_scores(similarity, truth_of([[1, 0, 0, 1]]), ks)
