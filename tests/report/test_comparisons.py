"""The section of two networks compared: what stands in it, and that no file breaks it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odis.report.comparisons import comparisons, find_comparisons
from odis.report.page import document
from odis.report.results import find_results

SCORE = {"value": 41.25, "low": 38.0, "high": 44.0}
WHOLE: dict[str, Any] = {
    "evaluation": "compare",
    "before": {"model": "timm:<vit>", "provenance": "timm's weights", "size": 224, "precision": "fp32"},
    "after": {"model": "runs/photos", "provenance": "annotated", "size": 224, "precision": "fp32"},
    "data": [
        {
            "name": "test.parquet",
            "known": False,
            "measures": [
                {
                    "measure": "object k-NN",
                    "mode": "crop",
                    "before": dict(SCORE),
                    "after": dict(SCORE),
                    "difference": {"value": gap, "low": gap - 1, "high": gap + 1},
                }
                for gap in (2.5, -2.5, 0.5)
            ],
            "left_out": [{"measure": "images", "why": "one class"}],
        }
    ],
    "verdict": "runs/photos is better.",
    "notes": ["3 test images are train images"],
}


def section(folder: Path) -> tuple[str, list[str]]:
    found, skipped = find_comparisons([folder], [])
    page = document("t", [("comparisons", "Comparisons", comparisons(found, skipped))], comparisons([], []))
    return page, [item.why for item in skipped]


def test_a_comparison_in_a_runs_folder_is_a_table_with_its_verdict(
    tmp_path: Path, parsed: Callable[[str], Any]
) -> None:
    (tmp_path / "compare.json").write_text(json.dumps(WHOLE))
    (tmp_path / "knn.json").write_text('{"evaluation": "knn", "rows": []}')
    assert [group.evaluation for group in find_results([tmp_path], [])[0]] == ["knn"]
    page, skipped = section(tmp_path)
    assert skipped == []
    part = parsed(page).all("section")[0]
    assert [cell.text for cell in part.all("td")] == [
        *("41.2 38.0 to 44.0", "41.2 38.0 to 44.0", "+2.5 up +1.5 to +3.5"),
        *("41.2 38.0 to 44.0", "41.2 38.0 to 44.0", "-2.5 down -3.5 to -1.5"),
        *("41.2 38.0 to 44.0", "41.2 38.0 to 44.0", "+0.5 may be chance -0.5 to +1.5"),
    ]
    for said in (
        "runs/photos is better.",
        "before: timm:<vit>",
        "Left out: images: one class.",
        "3 test images",
    ):
        assert said in part.text
    (empty := tmp_path / "empty").mkdir()
    assert "odis compare BEFORE RUN" in parsed(section(empty)[0]).all("section")[0].text


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("before",), 3, "its before names no model"),
        (("data",), [], "its data is no list of data sets"),
        (("data", 0, "measures"), None, "a data set has no measures"),
        (("data", 0, "measures", 0), {}, "a measure has no name"),
        (("data", 0, "measures", 0, "after"), None, "after of object k-NN is no score"),
        (("data", 0, "measures", 0, "after", "low"), "x", "after of object k-NN has a low that is no number"),
    ],
)
def test_what_is_not_whole_is_named(path: tuple[Any, ...], value: Any, why: str, tmp_path: Path) -> None:
    broken = copy.deepcopy(WHOLE)
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / "compare.json").write_text(json.dumps(broken))
    page, skipped = section(tmp_path)
    assert skipped == [why]
    assert why in page


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["before", "data", "verdict", "notes", "measures", "difference", "left_out"]), json_values
)
def test_no_value_breaks_the_page(tmp_path_factory: pytest.TempPathFactory, key: str, value: Any) -> None:
    broken = copy.deepcopy(WHOLE)
    places = [broken, broken["data"][0], broken["data"][0]["measures"][0]]
    next(place for place in places if key in place)[key] = value
    folder = tmp_path_factory.mktemp("broken")
    (folder / "compare.json").write_text(json.dumps(broken))
    section(folder)
