"""Curves: their data are the metrics', their charts belong in a page, and a file of metrics may be torn."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from odis.report.curves import curves
from odis.report.runs import Run, labels, read_runs
from odis.report.svg import Curve, key, line_chart, thinned

RECORD = {"config": {"head": {"prototypes": 32}}}


def made(
    lines: list[dict[str, Any]], label: str = "a", record: dict[str, Any] = RECORD, unread: int = 0
) -> Run:
    return Run(Path(label), label, record, lines, unread)


def points(node: Any) -> np.ndarray:
    """Corners of a drawn curve, in the drawing's units."""
    (path,) = [
        p
        for p in node.all("path")
        if "M" in (p.attributes["d"] or "") and "Z" not in p.attributes["d"] and "C" not in p.attributes["d"]
    ]
    return np.array(
        [[float(v) for v in pair] for pair in re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", path.attributes["d"])]
    )


def chart_of(page: Any, title: str) -> Any:
    (figure,) = [f for f in page.all("figure") if f.all("h4")[0].text == title]
    return figure


def test_a_curve_has_the_points_of_the_metrics_in_their_places(parsed: Any) -> None:
    rng = np.random.default_rng(0)
    steps, loss = np.cumsum(rng.integers(1, 9, 40)), rng.normal(size=40)
    page = parsed(curves([made([{"step": int(s), "loss": float(v)} for s, v in zip(steps, loss)])]))
    drawn = points(chart_of(page, "Loss").all("g", class_="series-0")[0])
    assert len(drawn) == 40
    for values, column, sign in ((steps, 0, 1), (loss, 1, -1)):  # y grows downwards
        slope, offset = np.polyfit(values, drawn[:, column], 1)
        assert sign * slope > 0
        np.testing.assert_allclose(drawn[:, column], slope * values + offset, atol=0.02)


def test_meters_that_are_not_finite_leave_a_gap(parsed: Any) -> None:
    lines = [{"step": i, "loss": None if i == 5 else float(i)} for i in range(1, 30)]
    node = chart_of(parsed(curves([made(lines)])), "Loss")
    assert len(points(node.all("g", class_="series-0")[0])) == 28
    never = parsed(curves([made([{"step": 1, "loss": None}])]))
    assert "never finite" in chart_of(never, "Loss").text
    assert never.all("g", class_="series") == []


def test_long_curves_keep_their_extremes() -> None:
    rng = np.random.default_rng(1)
    x, y = np.arange(10_000.0), rng.normal(size=10_000)
    y[1234], y[:100] = 50, math.nan
    few_x, few_y = thinned(x, y, 200)
    assert len(few_x) <= 200
    assert (np.diff(few_x) > 0).all()
    assert np.nanmax(few_y) == 50
    assert np.nanmin(few_y) == np.nanmin(y)
    assert all(y[int(a)] == b for a, b in zip(few_x, few_y) if not math.isnan(b))
    assert thinned(x, y, 10_000)[1] is not None
    np.testing.assert_array_equal(thinned(x, y, 10_000)[1], y)


def test_charts_have_titles_units_a_reading_and_words_for_those_who_do_not_see_them(parsed: Any) -> None:
    names = (
        "loss",
        "loss_object",
        "teacher_entropy",
        "mean_entropy",
        "feature_spread",
        "images_per_second",
        "data_wait",
        "lr",
    )
    lines = [
        {"step": s, **dict.fromkeys(names, 1 / s), "loss_patch": 0.0, "knn/crop@20": 40.0 + s}
        for s in (1, 2, 3)
    ]
    page = parsed(curves([made(lines), made(lines, "b")]))
    units = {
        "Loss": "loss (nats)",
        "Object term": "term (nats)",
        "Teacher entropy": "entropy (nats)",
        "Entropy of the mean": "entropy (nats)",
        "Feature spread": "spread (0 to 1)",
        "Speed": "images / s",
        "Waiting for data": "share of time (%)",
        "Learning rate": "learning rate",
        "k-NN, crop, k = 20": "accuracy (%)",
    }
    assert {f.all("h4")[0].text for f in page.all("figure")} == set(units)
    for title, unit in units.items():
        figure = chart_of(page, title)
        (svg,) = figure.all("svg", class_="chart")
        words = [text.text for text in svg.all("text")]
        assert unit in words
        assert "step" in words
        assert svg.attributes["role"] == "img"
        assert title in svg.attributes["aria-label"]
        assert len(figure.all("figcaption")[0].text) > 20
        assert [item.text for item in figure.all("ul")[0].all("li")] == ["a", "b"]
        assert ("log K = 3.47" in words) == ("ntropy" in title)
    assert "Not drawn, since 0 throughout: loss_patch" in page.text
    wait = chart_of(page, "Waiting for data").all("svg", class_="chart")[0].attributes["aria-label"]
    assert "a from 100 to 33.33" in wait


def test_a_term_that_only_other_runs_have_is_theirs_alone(parsed: Any) -> None:
    runs = [
        made([{"step": s, "loss_patch": value, "feature_spread": 0.0} for s in (1, 2)], name)
        for name, value in (("a", 0.0), ("b", 2.0))
    ]
    page = parsed(curves(runs))
    term = chart_of(page, "Patch term")
    assert [item.text for item in term.all("li")] == ["b"]
    assert "Without this meter: a" in term.text
    assert len(chart_of(page, "Feature spread").all("g", class_="series")) == 2


def test_drawings_are_of_the_page(parsed: Any) -> None:
    chart = line_chart(
        "x", "label <b>", [Curve(0, [1, 2], [3, 4]), Curve(7, [1], [2])], x_label="step & co", y_label="y"
    )
    assert chart == line_chart(
        "x", "label <b>", [Curve(0, [1, 2], [3, 4]), Curve(7, [1], [2])], x_label="step & co", y_label="y"
    )
    other = line_chart("y", "label", [Curve(0, [1, 2], [3, 4])], x_label="step", y_label="y")
    page = parsed(chart + other)
    ids = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    assert all(name.startswith(("x-", "y-")) for name in ids)
    for reference in re.findall(r'(?:url\(#|href="#)([^)"]+)', chart + other):
        assert reference in ids
    assert "http" not in chart
    assert not re.search(r"#[0-9a-f]{6}\b", chart), "every colour is the page's"
    assert "var(--s0)" in chart
    assert "var(--s1)" in chart, "the eighth curve has the second colour"
    assert page.all("svg")[0].attributes["aria-label"] == "label <b>"
    assert "step & co" in page.text
    assert "stroke-dasharray" in key(7)
    assert "stroke-dasharray" not in key(0)


def test_torn_and_foreign_lines_of_metrics_are_counted_and_left_out(run: Path, tmp_path: Path) -> None:
    whole = (run / "metrics.jsonl").read_text()
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    (tmp_path / "metrics.jsonl").write_text(
        whole + "[1]\n" + "[" * 100_000 + '\n{"step": true}\n{"step": 4, "loss": 1.0' + "9" * 5
    )
    (one,), (torn,) = read_runs([run]), read_runs([tmp_path])
    assert torn.lines == one.lines
    assert (one.unread, torn.unread) == (0, 4)
    assert "4 lines of metrics.jsonl could not be read" in curves([torn])
    (tmp_path / "metrics.jsonl").write_bytes(
        b'\xff\xfe\n{"step": 1, "loss": 1' + b"0" * 400 + b', "lr": Infinity, "teacher_entropy": "x"}\n'
    )
    (odd,) = read_runs([tmp_path])
    assert all(math.isnan(odd.curve(name)[1][0]) for name in ("loss", "lr", "teacher_entropy"))
    curves([odd])


def test_run_without_metrics_says_so(run: Path, tmp_path: Path, parsed: Any) -> None:
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    (new,) = read_runs([tmp_path])
    text = curves([new])
    assert f"{new.label}: no metrics yet" in text
    assert parsed(text).all("svg") == []
    both = parsed(curves([*read_runs([run]), new]))
    assert both.all("svg", class_="chart")
    assert f"Without this meter: {new.label}" in both.text


def test_curve_is_the_column_of_the_file(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (read,) = read_runs([run])
    for name in ("loss", "teacher_entropy", "knn/masked-attention@20"):
        expected = [(line["step"], line[name]) for line in lines if name in line]
        assert expected
        assert list(zip(*read.curve(name))) == expected
    assert read.last("loss") == [line["loss"] for line in lines if "loss" in line][-1]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a"], ["runs/a"]),
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/a/run", "x/b/run"], ["a", "b"]),
        (["x/a/run", "x/b/out"], ["a/run", "b/out"]),
        (["x/a", "x/a/b"], ["a", "a/b"]),
        (["x/a", "x/b/a", "x/b"], ["a", "b/a", "b"]),
    ],
)
def test_labels_are_short_and_differ(paths: list[str], names: list[str]) -> None:
    assert labels(paths) == names
