"""The search against a sort in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from odis.errors import DataError
from odis.explorer.search import ObjectSearch


def filled(features: np.ndarray, rows: np.ndarray, cuts: list[int]) -> ObjectSearch:
    search = ObjectSearch()
    for part in np.split(np.arange(len(rows)), sorted(cuts)):
        search.add(*(torch.from_numpy(a[part]) for a in (features, rows, np.arange(len(rows)))))
    return search


@given(st.integers(0, 2**32), st.lists(st.integers(0, 60), max_size=4), st.integers(1, 70), st.booleans())
def test_nearest_are_those_of_a_sort_in_float64(
    seed: int, cuts: list[int], count: int, without: bool
) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    features[rng.integers(0, 60, 20)] = features[0]  # equal ones, in order of the index
    rows = np.sort(rng.integers(0, 9, 60))
    query = rng.normal(size=5).astype(np.float32)
    found = filled(features, rows, cuts).nearest(
        torch.from_numpy(query), count, int(rows[0]) if without else None
    )
    exact = features.astype(np.float64) @ query.astype(np.float64)
    exact /= np.linalg.norm(features.astype(np.float64), axis=1) * np.linalg.norm(query.astype(np.float64))
    allowed = np.flatnonzero(rows != rows[0]) if without else np.arange(60)
    assert len(found) == min(count, len(allowed))
    numbers = [one.number for one in found]
    assert set(numbers) <= set(allowed)
    assert len(set(numbers)) == len(numbers)
    assert [one.row for one in found] == rows[numbers].tolist()
    eps = 8 * np.finfo(np.float32).eps  # products of five numbers, of which no sum is above 1
    np.testing.assert_allclose([one.cosine for one in found], np.sort(exact[allowed])[::-1][:count], atol=eps)
    order = [(-one.cosine, one.number) for one in found]
    assert order == sorted(order), "of equally similar ones the earlier first"


def test_nothing_is_found_among_nothing() -> None:
    assert ObjectSearch().nearest(torch.ones(3), 5) == []
    one = ObjectSearch()
    one.add(torch.ones(2, 3), torch.tensor([4, 4]), torch.tensor([0, 1]))
    assert one.nearest(torch.ones(3), 5, other_than=4) == []
    assert len(one) == 2


def test_features_that_cannot_be_compared_are_refused() -> None:
    search = ObjectSearch()
    search.add(torch.ones(1, 3), torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(DataError, match="width 4 among 3"):
        search.add(torch.ones(1, 4), torch.tensor([1]), torch.tensor([0]))
    with pytest.raises(DataError, match="not finite"):
        search.add(torch.full((1, 3), torch.nan), torch.tensor([1]), torch.tensor([0]))
