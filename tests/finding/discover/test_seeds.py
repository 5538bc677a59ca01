"""Seed expansion equals LOST written out in loops, one image at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.finding.discover.seeds import grow_objects
from odis.finding.discover.spectral import Finding


def lost(
    features: np.ndarray, grid: tuple[int, int], k: int, max_objects: int
) -> list[tuple[int, set[int], float]]:
    """Seed, patches and value of each object of one image, features (P, D)."""
    columns = grid[1]
    features = features.astype(np.float64)
    free = list(range(len(features)))
    found = []
    while free and len(found) < max_objects:
        dot = {(p, q): float(features[p] @ features[q]) for p in free for q in free}
        degree = {p: sum(1 for q in free if q != p and dot[p, q] > 0) for p in free}
        order = sorted(free, key=lambda p: (degree[p], p))
        seed = order[0]
        joined = [p for p in order[:k] if p == seed or dot[seed, p] > 0]
        agrees = {p for p in free if sum(dot[p, q] for q in joined) > 0} | {seed}
        mask, queue = {seed}, [seed]
        while queue:
            p = queue.pop(0)
            beside = [p - columns, p + columns]
            beside += [p - 1] * (p % columns > 0) + [p + 1] * (p % columns < columns - 1)
            for q in beside:
                if q in agrees and q not in mask:
                    mask.add(q)
                    queue.append(q)
        found.append((seed, mask, 1 - degree[seed] / max(1, len(free) - 1)))
        free = [p for p in free if p not in mask]
    return found


def assert_same(found: list[Finding], expected: list[tuple[int, set[int], float]]) -> None:
    assert len(found) == len(expected)
    for one, (seed, mask, value) in zip(found, expected):
        assert one.seed == seed
        assert set(np.flatnonzero(one.mask).tolist()) == mask
        assert one.value == pytest.approx(value)
        assert np.all(one.field[one.mask] > 0.5)


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 1), (1, 7), (3, 5), (6, 4)], ids=str)
@pytest.mark.parametrize("k", [1, 2, 7, 100])
def test_objects_are_those_of_lost(grid: tuple[int, int], k: int):
    rng = np.random.default_rng([*grid, k])
    images = rng.standard_normal((4, grid[0] * grid[1], 6)).astype(np.float32)
    images[2] += 0.7  # nearly everything correlates
    found = grow_objects(torch.from_numpy(images), grid, k=k, max_objects=3)
    for of_one, features in zip(found, images):
        assert_same(of_one, lost(features, grid, k, 3))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    k=st.integers(1, 12),
    times=st.integers(1, 30),
    shift=st.floats(-1, 1),
)
def test_objects_of_any_features_are_those_of_lost(
    seed: int, rows: int, columns: int, k: int, times: int, shift: float
):
    features = (np.random.default_rng(seed).standard_normal((rows * columns, 4)) + shift).astype(np.float32)
    [found] = grow_objects(torch.from_numpy(features[None]), (rows, columns), k=k, max_objects=times)
    assert_same(found, lost(features, (rows, columns), k, times))


def test_a_clear_block_is_found_first():
    block = np.zeros((6, 8), dtype=bool)
    block[2:5, 3:5] = True
    features = torch.where(
        torch.from_numpy(block.ravel())[:, None], torch.tensor([1.0, -0.2]), torch.tensor([-0.2, 1.0])
    )
    [found] = grow_objects(features[None], (6, 8), k=100, max_objects=1)
    assert np.array_equal(found[0].mask, block)
    assert found[0].value == pytest.approx(1 - 5 / 47)


@pytest.mark.parametrize(("value", "objects"), [(1.0, 1), (0.0, 3)])
def test_patches_that_are_all_alike_are_one_object_and_patches_without_features_are_alone(
    value: float, objects: int
):
    [found] = grow_objects(torch.full((1, 12, 4), value), (3, 4), k=5, max_objects=3)
    assert len(found) == objects
    assert [int(f.mask.sum()) for f in found] == ([12] if value else [1, 1, 1])


def test_no_patch_is_in_two_objects_and_an_end_is_reached():
    features = torch.randn(2, 20, 5, generator=torch.Generator().manual_seed(0))
    for found in grow_objects(features, (4, 5), k=3, max_objects=1000):
        assert np.array_equal(np.sum([f.mask for f in found], axis=0), np.ones((4, 5)))
