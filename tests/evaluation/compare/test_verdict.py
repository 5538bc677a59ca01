"""The sentence says what the intervals say."""

from typing import Any

import pytest

from odis.evaluation.compare.verdict import side_of, verdict


def row(value: float, low: float | None, high: float | None, before: float = 40.0) -> dict[str, Any]:
    return {
        "measure": "object k-NN",
        "before": {"value": before},
        "after": {"value": before + value},
        "difference": {"value": value, "low": low, "high": high},
    }


def data(*rows: dict[str, Any], name: str = "/data/test.parquet") -> dict[str, Any]:
    return {"name": name, "measures": list(rows)}


@pytest.mark.parametrize(
    ("difference", "side"),
    [
        ((0.1, 5.0), "better"),
        ((-5.0, -0.1), "worse"),
        ((0.0, 5.0), "not told apart"),
        ((-5.0, 0.0), "not told apart"),
        ((-1.0, 1.0), "not told apart"),
        ((None, None), "not told apart"),
    ],
)
def test_an_interval_that_holds_0_decides_nothing(difference: tuple[Any, Any], side: str) -> None:
    assert side_of({"low": difference[0], "high": difference[1]}) == side


def test_the_first_measure_decides_and_the_others_are_counted() -> None:
    rows = [row(3.0, 1.2, 5.0), row(-2.0, -3.0, -1.0), row(0.5, -1.0, 2.0), row(1.0, 0.5, 2.0)]
    assert verdict("a", "b", [data(*rows)]) == (
        "b is better than a on test.parquet: object k-NN 40.0 to 43.0 (+3.0, +1.2 to +5.0); of 4 measures "
        "2 rise, 1 fall and 1 may be chance."
    )
    assert verdict("a", "b", [data(row(-3.0, -5.0, -1.0))]) == (
        "b is worse than a on test.parquet: object k-NN 40.0 to 37.0 (-3.0, -5.0 to -1.0)."
    )


def test_what_was_known_is_told_for_each_data_set() -> None:
    own = data(row(0.2, None, None))
    known = [
        data(row(-2.0, -3.0, -1.0), name="known/"),
        data(row(0.5, -1.0, 2.0), name="k.parquet"),
        data(row(2.0, 1.0, 3.0), name="more.parquet"),
        data(name="nothing.parquet"),
    ]
    assert verdict("a", "b", [own, *known]) == (
        "b and a are not told apart on test.parquet: object k-NN 40.0 to 40.2 (+0.2); it lost of what was "
        "known (known): object k-NN 40.0 to 38.0 (-2.0, -3.0 to -1.0); no loss of what was known is seen "
        "(k.parquet): object k-NN 40.0 to 40.5 (+0.5, -1.0 to +2.0); it gained on what was known "
        "(more.parquet): object k-NN 40.0 to 42.0 (+2.0, +1.0 to +3.0)."
    )
