"""Cuts equal those of a textbook version: loops, scipy's generalised eigenproblem, a flood fill, one image at
a time.
"""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.finding.discover import spectral
from odis.finding.discover.spectral import Finding, connected, cut_objects, edges, second_solutions

EQUAL = 1e-7


def flood(mask: list[list[bool]], seed: int) -> np.ndarray:
    """What hangs together with a patch, 4 neighbours, by breadth-first search."""
    rows, columns = len(mask), len(mask[0])
    reached, queue = {divmod(seed, columns)}, [divmod(seed, columns)]
    while queue:
        r, c = queue.pop(0)
        for y, x in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            if 0 <= y < rows and 0 <= x < columns and mask[y][x] and (y, x) not in reached:
                reached.add((y, x))
                queue.append((y, x))
    return np.array([[(r, c) in reached for c in range(columns)] for r in range(rows)])


def textbook_cuts(features: np.ndarray, grid: tuple[int, int], tau: float, max_objects: int) -> list[dict]:
    """Objects of one image, features (P, D)."""
    patches, (rows, columns) = len(features), grid
    rest = features.astype(np.float64).copy()
    free = [True] * patches
    found: list[dict] = []
    while len(found) < max_objects and sum(free) > 1:
        w = np.empty((patches, patches))
        for i in range(patches):
            for j in range(patches):
                lengths = math.sqrt(rest[i] @ rest[i]) * math.sqrt(rest[j] @ rest[j])
                w[i, j] = 1.0 if (rest[i] @ rest[j] / lengths if lengths > 0 else 0.0) > tau else 1e-5
        d = np.diag(w.sum(axis=1))
        values, vectors = scipy.linalg.eigh(d - w, d)
        if 1 - values[1] <= EQUAL:
            break
        same = [j for j in range(1, patches) if values[j] <= values[1] + EQUAL]
        reach = [math.sqrt(sum(vectors[i, j] ** 2 for j in same)) if free[i] else 0.0 for i in range(patches)]
        seed = next(i for i in range(patches) if reach[i] >= max(reach) * (1 - EQUAL))
        x = np.array([sum(vectors[i, j] * vectors[seed, j] for j in same) for i in range(patches)])
        x = x / math.sqrt(sum(d[i, i] * x[i] ** 2 for i in range(patches)))
        slack = EQUAL * max(abs(x))
        mean = sum(x) / patches
        x = np.array([v - mean if x[seed] >= mean else mean - v for v in x])
        corners = [(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)]
        if sum(x[r * columns + c] > slack for r, c in corners) >= 3:
            x = -x
        side = [bool(x[i] > slack and free[i]) for i in range(patches)]
        if not any(side):
            break
        highest = max(x[i] for i in range(patches) if side[i])
        seed = next(i for i in range(patches) if side[i] and x[i] >= highest - slack)
        mask = flood([side[r * columns : (r + 1) * columns] for r in range(rows)], seed)
        field = [min(max(0.5 + 0.5 * v / highest, 0), 1) for v in x]
        found.append(
            {"mask": mask, "seed": seed, "value": min(1 - values[1], 1), "field": np.reshape(field, grid)}
        )
        for i in np.flatnonzero(mask):
            free[i] = False
            rest[i] = 0
    return found


def assert_same(found: list[Finding], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert np.array_equal(one.mask, other["mask"])
        assert one.seed == other["seed"]
        assert one.value == pytest.approx(other["value"], abs=1e-6)
        assert one.field == pytest.approx(other["field"], abs=1e-4)


def blocks(
    rng: np.random.Generator, grid: tuple[int, int], kinds: int, noise: float, width: int = 8
) -> np.ndarray:
    """Features (P, D) of a few kinds of patches in rectangles on a ground, with noise."""
    centers = rng.standard_normal((kinds + 1, width))
    kind = np.zeros(grid, dtype=int)
    for k in range(1, kinds + 1):
        top, left = rng.integers(0, grid[0]), rng.integers(0, grid[1])
        kind[top : top + rng.integers(1, 4), left : left + rng.integers(1, 4)] = k
    return (centers[kind.ravel()] + noise * rng.standard_normal((grid[0] * grid[1], width))).astype(
        np.float32
    )


GRIDS = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 9), (3, 5), (6, 4), (7, 7)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("tau", [-0.2, 0.0, 0.2, 0.6])
def test_cuts_are_those_of_the_textbook(grid: tuple[int, int], tau: float):
    rng = np.random.default_rng([*grid, round(10 * tau) + 5])
    images = [
        blocks(rng, grid, kinds, noise) for kinds, noise in ((0, 1.0), (1, 0.1), (2, 0.5), (3, 0.3), (2, 1.0))
    ]
    found = cut_objects(torch.from_numpy(np.stack(images)), grid, tau=tau, max_objects=4)
    for of_one, features in zip(found, images):
        assert_same(of_one, textbook_cuts(features, grid, tau, 4))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    tau=st.floats(-0.5, 0.9),
    times=st.integers(1, 30),
)
def test_cuts_of_any_features_are_those_of_the_textbook(
    seed: int, rows: int, columns: int, tau: float, times: int
):
    features = blocks(np.random.default_rng(seed), (rows, columns), 2, 0.7, width=3)
    [found] = cut_objects(torch.from_numpy(features[None]), (rows, columns), tau=tau, max_objects=times)
    assert_same(found, textbook_cuts(features, (rows, columns), tau, times))


def test_a_clear_block_is_found_as_it_is():
    features = torch.zeros(1, 48, 2)
    block = np.zeros((6, 8), dtype=bool)
    block[2:4, 3:6] = True
    features[0, :, 0] = torch.from_numpy(~block.ravel()).float()
    features[0, :, 1] = torch.from_numpy(block.ravel()).float()
    found = cut_objects(features, (6, 8), tau=0.2, max_objects=1)[0]
    assert np.array_equal(found[0].mask, block)
    assert found[0].value > 0.99
    assert found[0].field[block] == pytest.approx(1)
    assert np.all(found[0].field[~block] < 0.5)


def test_an_object_is_on_the_side_with_fewer_corners():
    """The larger components are the ground's here: a frame thinner than what it holds."""
    ground = np.ones((6, 6), dtype=bool)
    ground[1:5, 1:5] = False
    features = np.zeros((1, 36, 2), dtype=np.float32)
    features[0, :, 0], features[0, :, 1] = ground.ravel(), 1.02 * ~ground.ravel()
    features[0, 0, 1] = 0.05
    [found] = cut_objects(torch.from_numpy(features), (6, 6), tau=0.2, max_objects=1)
    assert np.array_equal(found[0].mask, ~ground)


@pytest.mark.parametrize("patches", [1, 2, 16])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_patches_that_are_all_alike_hold_no_object(patches: int, value: float):
    assert cut_objects(torch.full((3, patches, 4), value), (1, patches), tau=0.2, max_objects=5) == [
        [],
        [],
        [],
    ]


def test_more_objects_than_there_are_end_when_nothing_is_left_to_cut():
    features = torch.eye(3)[torch.tensor([0, 0, 0, 1, 1, 0, 2, 2, 0, 0, 0, 0])]
    [found] = cut_objects(features[None], (3, 4), tau=0.2, max_objects=100)
    assert 2 <= len(found) <= 12
    assert np.sum([f.mask for f in found], axis=0).max() == 1, "no patch is in two objects"


def test_images_of_a_batch_are_cut_as_if_each_were_alone(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(3)
    features = torch.from_numpy(np.stack([blocks(rng, (5, 6), k, 0.3) for k in (0, 1, 3, 2, 0)]))

    def plain(found: list[list[Finding]]) -> list[list[tuple]]:
        return [[(f.mask.tobytes(), f.seed, round(f.value, 9)) for f in of_one] for of_one in found]

    together = plain(cut_objects(features, (5, 6), tau=0.2, max_objects=3))
    assert together == [plain(cut_objects(one[None], (5, 6), tau=0.2, max_objects=3))[0] for one in features]
    monkeypatch.setattr(spectral, "_AT_ONCE", 2 * 30**2)  # two images at once
    assert together == plain(cut_objects(features, (5, 6), tau=0.2, max_objects=3))


def test_signs_and_bases_that_a_library_may_choose_change_nothing(monkeypatch: pytest.MonkeyPatch):
    """Three equal blocks: two solutions share one value, so that any two of their plane may come out, with
    any sign.
    """
    features = torch.eye(3).repeat_interleave(4, dim=0)[None]
    weights = edges(features.double(), 0.2)
    free = torch.ones(1, 12, dtype=torch.bool)
    expected = second_solutions(weights, free)
    eigh = torch.linalg.eigh
    for turn in (0.3, 1.1, 2.0):

        def turned(matrix: torch.Tensor, turn: float = turn) -> tuple[torch.Tensor, torch.Tensor]:
            values, vectors = eigh(matrix)
            assert values[0, -1] == pytest.approx(values[0, -2])
            cos, sin = math.cos(turn), math.sin(turn)
            plane = vectors[..., -2:] @ torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
            return values, torch.cat([-vectors[..., :-2], -plane], dim=-1)

        monkeypatch.setattr(torch.linalg, "eigh", turned)
        x, value, seed = second_solutions(weights, free)
        assert torch.allclose(x, expected[0], atol=1e-9)
        assert torch.allclose(value, expected[1])
        assert torch.equal(seed, expected[2])


def test_solutions_solve_the_generalised_problem():
    rng = np.random.default_rng(0)
    unit = torch.nn.functional.normalize(
        torch.from_numpy(np.stack([blocks(rng, (4, 5), 2, 0.4) for _ in range(3)])).double(), dim=-1
    )
    weights = edges(unit, 0.3)
    x, value, seed = second_solutions(weights, torch.ones(3, 20, dtype=torch.bool))
    degree = weights.sum(dim=-1)
    left = degree * x - (weights @ x[..., None])[..., 0]
    assert torch.allclose(left, value[:, None] * degree * x, atol=1e-9)
    assert torch.allclose((degree * x * x).sum(dim=-1), torch.ones(3, dtype=torch.float64))
    assert torch.allclose((degree * x).sum(dim=-1), torch.zeros(3, dtype=torch.float64), atol=1e-9)
    assert (x.gather(1, seed[:, None]) > 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 8), columns=st.integers(1, 8))
def test_connected_is_a_flood_fill(seed: int, rows: int, columns: int):
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, columns)) < 0.6
    start = int(rng.integers(rows * columns))
    mask.flat[start] = True
    assert np.array_equal(connected(mask, start), flood(mask.tolist(), start))
