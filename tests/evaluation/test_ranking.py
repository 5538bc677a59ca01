"""Ranking against an explicit loop over queries and gallery."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor

from odis.evaluation import ranking
from odis.evaluation.ranking import rank


def slow(
    queries: Tensor,
    gallery: Tensor,
    query_sets: list[set],
    gallery_sets: list[set],
    left_out: list[set],
    k: int,
) -> tuple[list, list]:
    """One query and one rank at a time, in double precision."""
    precisions, recalls = [], []
    for q, wanted, out in zip(queries.double(), query_sets, left_out):
        cosine = [float(torch.cosine_similarity(q, g, dim=0)) for g in gallery.double()]
        order = sorted((i for i in range(len(gallery)) if i not in out), key=lambda i: (-cosine[i], i))
        hits = [bool(wanted & gallery_sets[i]) for i in order]
        if not any(hits):
            precisions.append(float("nan"))
            recalls.append(float("nan"))
            continue
        precisions.append(sum(sum(hits[: r + 1]) / (r + 1) for r, hit in enumerate(hits) if hit) / sum(hits))
        recalls.append(float(any(hits[:k])))
    return precisions, recalls


def sets_of(targets: Tensor) -> list[set]:
    return [set(row.nonzero()[:, 0].tolist()) for row in targets]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(1, 4), st.integers(0, 10**6), st.booleans())
def test_ranking_of_another_gallery_is_the_explicit_loop(
    m: int, n: int, k: int, seed: int, several: bool
) -> None:
    rng = torch.Generator().manual_seed(seed)
    queries, gallery = torch.randn(m, 4, generator=rng), torch.randn(n, 4, generator=rng)
    targets = [torch.rand(size, 3, generator=rng) < (0.5 if several else 0.25) for size in (m, n)]
    precision, recall, open_ = rank(queries, gallery, *targets, k=(k,))
    expected = slow(queries, gallery, sets_of(targets[0]), sets_of(targets[1]), [set()] * m, k)
    np.testing.assert_allclose(precision.numpy(), expected[0])
    np.testing.assert_allclose(recall[:, 0].numpy(), expected[1])
    for i in range(m):
        relevant = (targets[1] & targets[0][i]).any(1)
        assert bool(open_[i]) == (0 < int(relevant.sum()) < n)
        if relevant.any():
            cosine = torch.cosine_similarity(queries[i][None], gallery)
            assert precision[i].item() == pytest.approx(
                average_precision_score(relevant.numpy(), cosine.numpy())
            )


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("same_image", [False, True])
def test_neither_the_query_nor_its_image_is_searched(
    same_image: bool, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(0)
    features, image = torch.randn(20, 4, generator=rng), torch.randint(7, (20,), generator=rng)
    numbers, labels = torch.arange(20), torch.randint(3, (20,), generator=rng)
    targets = torch.nn.functional.one_hot(labels, 3).bool()
    out = [{j for j in range(20) if j == i or (not same_image and image[j] == image[i])} for i in range(20)]
    expected = slow(features, features, sets_of(targets), sets_of(targets), out, 2)
    given = (targets, targets) if several else (labels, labels)
    for tile in (1, 50, 1 << 23):
        monkeypatch.setattr(ranking, "_TILE", tile)
        found = rank(
            features,
            features,
            *given,
            images=(image, image),
            numbers=(numbers, numbers),
            same_image=same_image,
            k=(2,),
        )
        np.testing.assert_allclose(found[0].numpy(), expected[0])
        np.testing.assert_allclose(found[1][:, 0].numpy(), expected[1])
        searched = [[labels[j] == labels[i] for j in range(20) if j not in out[i]] for i in range(20)]
        assert found[2].tolist() == [0 < sum(hits) < len(hits) for hits in searched]


def test_of_equally_similar_ones_the_earlier_is_nearer() -> None:
    gallery = torch.ones(3, 2)
    targets = torch.tensor([[True, False], [False, True], [True, False]])
    precision, recall, _ = rank(torch.ones(2, 2), gallery, targets[:2], targets, k=(1,))
    assert precision.tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 2])
    assert recall[:, 0].tolist() == [1, 0]
