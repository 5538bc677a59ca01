"""Results on screen and on disk: tables that fit, files whole or absent."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from odis.errors import DataError
from odis.evaluation.results import check_writable, results_table, write_results


def test_a_table_of_many_scores_fits_a_narrow_terminal() -> None:
    scores = {f"setup {i} mAP": {"value": 100.0 - i, "low": 90.0, "high": 100.0} for i in range(9)} | {
        "none": {"value": None, "low": None}
    }
    row = {
        "model": "runs/" + "long" * 10,
        "mode": "masked-attention",
        "provenance": "annotated+noise(jitter=0.1)",
        "size": 224,
    }
    side = {"images": 5, "provenance": "annotated", "classes": 2}
    results = {
        "evaluation": "landmarks",
        "settings": {},
        "test": side,
        "gallery": side,
        "rows": [row | {"scores": scores}] * 2,
    }
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(
        results_table(
            results | {"left_out": [{"model": "m", "mode": "masked-attention", "why": "has no object token"}]}
        )
    )
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert all(text.count(f"{100 - i:.2f}") == 2 for i in range(9))
    assert text.count("90.0 - 100.0") == 18
    assert text.count("masked-attention") == 2 * 3 + 1
    assert "…" not in text
    assert "left out: m, masked-attention: has no object token" in text


def test_metres_have_three_decimals_and_what_is_no_model_says_where_it_is_from() -> None:
    score = {"RMSE": {"value": 0.4461, "low": 0.4112, "high": 0.4999}}
    rows = [
        {"model": "a", "mode": "head", "provenance": "p", "size": "416 x 544 px", "scores": score},
        {"model": "chance", "mode": "3 m", "provenance": "train", "size": None, "scores": score},
    ]
    side = {"images": 654, "provenance": "depth maps", "classes": 0}
    whole = {"evaluation": "nyu-depth-linear", "settings": {}, "test": side, "rows": rows, "left_out": []}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(results_table(whole | {"unit": "metres"}))
    text = console.export_text()
    assert text.count("0.446") == 2
    assert text.count("0.411 - 0.500") == 2
    assert "at 416 x 544 px" in text
    assert "from train" in text
    assert "654 images (depth maps)" in text
    assert "metres, with 95 %" in text


def test_results_that_cannot_be_written_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_results(tmp_path / "file" / "results.json", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder: cannot be written"):
        write_results(tmp_path / "folder", {})
    for path in (tmp_path / "file" / "results.json", tmp_path / "folder"):
        with pytest.raises(DataError, match="cannot be written"):
            check_writable(path)
    check_writable(tmp_path / "new" / "deep" / "results.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
