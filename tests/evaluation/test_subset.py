"""Subsets of an index: drawn by seed, labels counted."""

from collections.abc import Callable

import pytest

from odis.evaluation.subset import Subset
from odis.objects.index import ObjectIndex


@pytest.fixture(scope="module")
def indexes(
    squares: Callable[..., ObjectIndex], tmp_path_factory: pytest.TempPathFactory
) -> tuple[ObjectIndex, ObjectIndex]:
    folder = tmp_path_factory.mktemp("squares")
    names = ["red", "green", "blue"]
    return squares(folder / "train", names, 12), squares(folder / "test", names[::-1], 6, seed=1)


def test_parts_are_drawn_by_seed(indexes: tuple[ObjectIndex, ObjectIndex]) -> None:
    train, _ = indexes
    rows = Subset.of(train, 4, seed=3).rows
    assert list(rows) == sorted(set(rows)) == list(Subset.of(train, 4, seed=3).rows)
    assert list(Subset.of(train, 4, seed=4).rows) != list(rows)
    assert list(Subset.of(train, None, 0).rows) == list(Subset.of(train, 99, 0).rows) == list(range(12))
    assert (Subset.of(train, None, 0).labelled(5), Subset.of(train, 2, 0).labelled(99)) == (5, 4)
