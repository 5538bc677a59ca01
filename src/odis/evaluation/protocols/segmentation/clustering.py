"""Standardise, reduce by PCA, and cluster many points on any device.

Letters: N points, D width, d components, K clusters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from odis.config.wording import there_are
from odis.errors import OdisError

_AT_ONCE = 1 << 24  # distances held at a time: 64 MB


class Moments:
    """Mean and covariance of points that are added in parts, in float64.

    Args:
        width: D.
        device: Where the sums are.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self._shift: Tensor | None = None  # the first mean: sums of what is near 0 stay exact
        self._sum = torch.zeros(width, dtype=torch.float64, device=device)
        self._products = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, points: Tensor) -> None:
        """Add (n, D)."""
        part = points.to(self._sum)
        if self._shift is None:
            self._shift = part.mean(dim=0)
        part = part - self._shift
        self.count += len(part)
        self._sum += part.sum(dim=0)
        self._products += part.T @ part

    def projection(self, components: int) -> tuple[Tensor, Tensor]:
        """Each dimension to mean 0 and variance 1, then the first principal components of that.

        A dimension that is constant stays 0.

        Args:
            components: d; no more than D and the number of points.

        Returns:
            float64 (D,) and (D, d): subtract the one, multiply by the other.
        """
        assert self._shift is not None
        mean = self._sum / self.count
        covariance = self._products / self.count - mean[:, None] * mean
        deviation = covariance.diagonal().clamp(min=0).sqrt()
        scale = torch.where(deviation > 1e-12, 1 / deviation.clamp(min=1e-12), 0.0)
        correlation = covariance * scale[:, None] * scale
        _, vectors = torch.linalg.eigh(correlation)  # ascending
        kept = min(components, len(mean), self.count)
        return mean + self._shift, scale[:, None] * vectors.flip(1)[:, :kept]


def project(points: Iterable[Tensor], mean: Tensor, matrix: Tensor) -> Tensor:
    """Parts (n, D) of all points, projected: float32 (N, d), on the device of the matrix."""
    return torch.cat([((part.to(mean) - mean) @ matrix).float() for part in points])


def nearest_centre(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of K centres to each point, of equal ones the first, int64 (N,), and the squared distance.

    The product of all points and centres is never held.
    """
    labels, distances = [], []
    lengths = centres.square().sum(dim=1)
    for part in points.split(max(1, _AT_ONCE // len(centres))):
        found = torch.addmm(lengths, part, centres.T, alpha=-2).min(dim=1)
        labels.append(found.indices)
        distances.append((found.values + part.square().sum(dim=1)).clamp(min=0))
    return torch.cat(labels), torch.cat(distances)


def lloyd(points: Tensor, centres: Tensor, iterations: int) -> tuple[Tensor, float]:
    """Lloyd's algorithm: centres (K, d) after some iterations, and the sum of squared distances to them.

    It stops where nothing changes any more. A cluster without points gets the point that is farthest from its
    centre.

    Args:
        points: float32 (N, d).
        centres: Where to begin.
        iterations: How many at most.
    """
    previous: Tensor | None = None
    for _ in range(iterations):
        labels, distances = nearest_centre(points, centres)
        if previous is not None and torch.equal(labels, previous):
            break
        sums = torch.zeros(centres.shape, dtype=torch.float64, device=points.device)
        sums.index_add_(0, labels, points.double())
        counts = torch.bincount(labels, minlength=len(centres))
        empty = (counts == 0).nonzero()[:, 0]
        centres = (sums / counts.clamp(min=1)[:, None]).float()
        if len(empty):
            centres[empty] = points[distances.topk(len(empty)).indices]
        previous = None if len(empty) else labels
    return centres, float(nearest_centre(points, centres)[1].double().sum())


def k_means(
    points: Tensor,
    k: int,
    *,
    iterations: int = 100,
    restarts: int = 5,
    per_cluster: int = 256,
    seed: int = 0,
) -> Tensor:
    """The cluster of each point: Lloyd's algorithm from random points, the best of some restarts.

    Args:
        points: float32 (N, d).
        k: K.
        iterations: Of each restart.
        restarts: How many.
        per_cluster: The centres are found on at most this many points a cluster, drawn by the seed; 0 is all.
        seed: Of the draws.

    Returns:
        int64 (N,), from 0 to K - 1.

    Raises:
        OdisError: There are fewer points than clusters.
    """
    if len(points) < k:
        raise OdisError(f"clusters {k}: {there_are(len(points), 'patch')}")
    generator = torch.Generator().manual_seed(seed)
    drawn = points
    if per_cluster and k * per_cluster < len(points):
        drawn = points[torch.randperm(len(points), generator=generator)[: k * per_cluster].to(points.device)]
    best: tuple[Tensor, float] | None = None
    for _ in range(restarts):
        first = torch.randperm(len(drawn), generator=generator)[:k].to(points.device)
        found = lloyd(drawn, drawn[first], iterations)
        if best is None or found[1] < best[1]:
            best = found
    assert best is not None
    return nearest_centre(points, best[0])[0]


def parts_of(patches: Sequence[Tensor], most: int = 1 << 16) -> Iterable[Tensor]:
    """Points of several images, (P, D) each, in larger parts (n, D)."""
    waiting: list[Tensor] = []
    for of_image in patches:
        waiting.append(of_image)
        if sum(map(len, waiting)) >= most:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)
