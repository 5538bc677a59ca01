"""Objects grown from the patch that agrees with fewest others (LOST: Siméoni et al., BMVC 2021, section 3).

Patches of an object correlate with each other and little with the rest of the image, and objects are smaller
than what is behind them: so the patch with the fewest positive correlations is taken as an object's, and what
correlates with it as the object. LOST itself finds one object an image; here more are found by leaving out
the patches of those before.

Letters: B images, P patches of each (row-major), D width.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from odis.finding.discover.spectral import Finding, connected, float64_device


def grow_objects(features: Tensor, grid: tuple[int, int], *, k: int, max_objects: int) -> list[list[Finding]]:
    """Objects of B images, at most `max_objects` each, in the order of their discovery.

    The seed is the patch with the fewest positive correlations (dot products) with others, the first of
    equals. Of the k patches with the fewest, those that correlate positively with the seed stand for the
    object, and it is all that correlates positively with their sum and hangs together with the seed (4
    neighbours). An image is done when no patch is left.

    Args:
        features: (B, P, D) on any device.
        grid: Rows and columns, P of them.
        k: Patches that may join the seed, itself included.
        max_objects: Objects of an image.

    Returns:
        For each image its findings; `value` is the share of the free patches that do not correlate with the
        seed.
    """
    features = features.detach().to(float64_device(features)).double()
    return [_grow((of_one @ of_one.T).cpu().numpy(), grid, k, max_objects) for of_one in features]


def _grow(correlation: np.ndarray, grid: tuple[int, int], k: int, max_objects: int) -> list[Finding]:
    positive = correlation > 0
    np.fill_diagonal(positive, False)
    found: list[Finding] = []
    free = np.ones(len(correlation), dtype=bool)
    while free.any() and len(found) < max_objects:
        places = np.flatnonzero(free)
        degree = positive[np.ix_(places, places)].sum(axis=1)
        lowest = places[np.argsort(degree, kind="stable")]
        seed = int(lowest[0])
        joined = [p for p in lowest[:k] if p == seed or positive[seed, p]]
        total = np.where(free, correlation[joined].sum(axis=0), 0.0)
        side = total > 0
        side[seed] = True  # a seed without features is alone
        highest = max(float(total.max()), np.finfo(np.float64).tiny)
        mask = connected(side.reshape(grid), seed)
        field = np.clip(0.5 + 0.5 * total / highest, 0, 1)
        field[seed] = max(field[seed], 0.5 + 1e-9)
        found.append(
            Finding(mask, field.reshape(grid), seed, 1 - float(degree.min()) / max(1, len(places) - 1))
        )
        free &= ~mask.ravel()
    return found
