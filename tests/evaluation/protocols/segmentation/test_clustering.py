"""k-means against scikit-learn's from the same centres, PCA against scikit-learn's, and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from odis.errors import OdisError
from odis.evaluation.protocols.segmentation.clustering import (
    Moments,
    k_means,
    lloyd,
    nearest_centre,
    parts_of,
    project,
)


@given(st.integers(3, 40), st.integers(2, 6), st.integers(1, 8), st.integers(0, 10**6))
def test_standardising_and_pca_are_scikit_learns(points, width, components, seed):
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(points, width)) * rng.uniform(0.1, 9, width) + 100 * rng.normal(size=width)
    data[:, 0] = 3.0  # constant
    moments = Moments(width)
    parts = torch.tensor(data).split(7)
    for part in parts:
        moments.add(part)
    mean, matrix = moments.projection(components)
    exact = ((torch.tensor(data) - mean) @ matrix).numpy()
    kept = min(components, width, points)
    expected = PCA(kept, svd_solver="full").fit_transform(StandardScaler().fit_transform(data))
    assert exact.shape == expected.shape
    np.testing.assert_allclose(exact @ exact.T, expected @ expected.T, atol=1e-6)  # whatever the signs
    # What is clustered is that, rounded to float32; a sum near 0 is as exact as what was added.
    added = np.abs(data - mean.numpy()) @ np.abs(matrix.numpy())
    np.testing.assert_array_less(
        np.abs(project(parts, mean, matrix).numpy() - exact), 2**-24 * np.abs(exact) + 1e-12 * added + 1e-30
    )


@given(st.integers(12, 60), st.integers(1, 4), st.integers(1, 5), st.integers(1, 20), st.integers(0, 10**6))
def test_lloyd_is_scikit_learns_from_the_same_centres(points, width, k, iterations, seed):
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(points, width)).astype(np.float32)
    first = data[rng.permutation(points)[:k]]
    slow = first.astype(np.float64)
    for _ in range(iterations):  # as long as no cluster is empty, they are means of what is nearest
        labels = ((data[:, None] - slow) ** 2).sum(2).argmin(1)
        if len(set(labels)) < k:
            return
        slow = np.stack([data[labels == j].mean(0) for j in range(k)])
    centres, inertia = lloyd(torch.tensor(data), torch.tensor(first), iterations)
    np.testing.assert_allclose(centres.numpy(), slow, atol=1e-6)
    exact = data.astype(np.float64)
    reference = KMeans(
        k, init=first.astype(np.float64), n_init=1, max_iter=iterations, tol=0, algorithm="lloyd"
    )
    np.testing.assert_allclose(centres.numpy(), reference.fit(exact).cluster_centers_, atol=1e-6)
    # |x|^2 - 2 x c + |c|^2 in float32: a few roundings of what is added for each point
    added = (exact**2).sum() + (slow**2).sum(1).max() * points
    assert inertia == pytest.approx(
        ((exact[:, None] - slow) ** 2).sum(2).min(1).sum(), abs=8 * 2**-24 * added
    )


def test_distances_are_in_parts_and_ties_go_to_the_first(monkeypatch):
    monkeypatch.setattr("odis.evaluation.protocols.segmentation.clustering._AT_ONCE", 8)
    points = torch.randn(50, 3)
    centres = torch.cat([points[:3], points[:1]])  # the last is the first again
    labels, distances = nearest_centre(points, centres)
    slow = ((points[:, None] - centres) ** 2).sum(2)
    assert torch.equal(labels, slow[:, :3].argmin(1))
    torch.testing.assert_close(distances, slow.min(1).values, atol=1e-5, rtol=0)


def test_clear_clusters_are_found_and_an_empty_one_is_filled():
    middles = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    truth = torch.arange(4).repeat(200)
    points = middles[truth] + 0.3 * torch.randn(800, 2)
    labels = k_means(points, 4, seed=0)
    assert [len(set(labels[truth == j].tolist())) for j in range(4)] == [1, 1, 1, 1]
    assert len(set(labels.tolist())) == 4
    assert torch.equal(labels, k_means(points, 4, seed=0))
    centres, _ = lloyd(points, torch.cat([middles[:1], 1e3 + middles[:3]]), 50)  # three of them are empty
    assert len(set(nearest_centre(points, centres)[0].tolist())) == 4


def test_few_points_a_cluster_are_drawn(monkeypatch):
    seen: list[int] = []
    original = lloyd

    def counted(points, centres, iterations):
        seen.append(len(points))
        return original(points, centres, iterations)

    monkeypatch.setattr("odis.evaluation.protocols.segmentation.clustering.lloyd", counted)
    points = torch.randn(100, 2)
    assert len(k_means(points, 4, per_cluster=6, restarts=2)) == 100
    assert len(k_means(points, 4, per_cluster=0, restarts=1)) == 100
    assert seen == [24, 24, 100]
    with pytest.raises(OdisError, match="clusters 101: there are 100 patches"):
        k_means(points, 101)


def test_parts_keep_the_order():
    points = [torch.randn(n, 2) for n in (3, 1, 4)]
    for most in (1, 4, 100):
        assert torch.equal(torch.cat(list(parts_of(points, most))), torch.cat(points))
