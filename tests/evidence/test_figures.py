"""Means, intervals and verdicts against formulas written out."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

# Half of a 95 % interval of n values is t s / sqrt(n); t of n - 1 degrees of freedom from the printed table
# (Student, 1908).
T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262}


@pytest.fixture
def figures():
    import figures

    return figures


def test_two_seeds_have_a_mean_and_no_interval(figures):
    found = figures.figure([61.0, 61.5])
    assert (found.mean, found.seeds, str(found)) == (61.25, 2, "61.2")
    assert math.isnan(found.half)
    assert figures.verdict(found) == "two seeds, not decided"


@pytest.mark.parametrize("n", [n for n in sorted(T) if n > 2])
def test_an_interval_over_seeds_is_students(figures, n):
    values = np.random.default_rng(n).normal(60, 3, n)
    found = figures.figure(values.tolist())
    assert found.mean == pytest.approx(values.mean())
    assert found.half == pytest.approx(T[n] * values.std(ddof=1) / math.sqrt(n), rel=1e-3)
    assert (found.low, found.high) == (found.mean - found.half, found.mean + found.half)


def test_an_interval_holds_the_truth_as_often_as_it_says(figures):
    rng = np.random.default_rng(0)
    held = sum(
        abs(f.mean) <= f.half for f in (figures.figure(rng.normal(0, 2, 3).tolist()) for _ in range(2000))
    )
    assert 0.93 < held / 2000 < 0.97


def test_one_seed_has_no_interval_and_decides_nothing(figures):
    found = figures.figure([5.0])
    assert str(found) == "5.0"
    assert found.signed() == "+5.0"
    assert math.isnan(found.half)
    assert figures.verdict(found) == "one seed, not decided"
    assert figures.verdict(figures.figure([])) == "not run"
    assert str(figures.figure([])) == figures.figure([]).signed() == "-"


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.floats(-20, 20))
def test_a_verdict_needs_the_whole_interval_on_one_side(values, bound):
    import figures

    found = figures.figure(values)
    said = figures.verdict(found, bound)
    if len(values) == 2:
        assert said == "two seeds, not decided"
    elif said == "held":
        assert found.low > bound
    elif said == "the reverse":
        assert found.high < bound
    else:
        assert said == "not decided"
        assert found.low <= bound <= found.high


def write(folder, cell, seed, value, asked="crop"):
    ways = ("masked-attention", "crop", "blackout", "mean-pool", "whole-image", "masked-attention, window")
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "cell": cell,
        "seed": seed,
        "asked": asked,
        "candidate": "near",
        "flops": 2e12,
        "flops_per_image": 1e8,
        "images_seen": 20000,
        "scores": {
            "knn": {way: {"value": value if way == asked else value / 2} for way in ways},
            **{name: {"value": value + 1} for name in ("linear", "images_map", "dense_knn")},
        },
        "meters": [{"teacher_entropy": 3.0, "mean_entropy": 6.0, "feature_spread": 0.9}],
        "collapse": None,
    }
    (folder / f"{cell}-seed{seed}.json").write_text(json.dumps(result))


def test_differences_are_taken_within_a_seed(figures, tmp_path):
    folder = tmp_path / "scenes"
    for seed, ours, theirs in ((0, 60.0, 50.0), (1, 64.0, 51.0), (2, 70.0, 60.0)):
        write(folder, "ours", seed, ours)
        write(folder, "theirs", seed, theirs, asked="blackout")
    write(folder, "ours", 3, 99.0)  # has no other half
    results = figures.Results.read(folder)
    found = results.paired("ours", "theirs", figures.knn())
    assert (found.mean, found.seeds) == (pytest.approx(11.0), 3)
    assert found.half == pytest.approx(T[3] * np.std([10, 13, 10], ddof=1) / math.sqrt(3), rel=1e-3)
    assert results.paired("ours", "ours", figures.knn("crop"), figures.knn("blackout")).mean == pytest.approx(
        np.mean([60, 64, 70, 99]) / 2
    )
    assert results.paired("ours", "nobody", figures.knn()).seeds == 0


def test_a_share_of_a_gain_is_that_of_its_seed(figures, tmp_path):
    folder = tmp_path / "scenes"
    for seed, (some, full, base) in enumerate([(55.0, 60.0, 50.0), (58.0, 60.0, 50.0)]):
        for cell, value in (("some", some), ("full", full), ("base", base)):
            write(folder, cell, seed, value)
    found = figures.Results.read(folder).kept("some", "full", "base", figures.knn())
    assert found.mean == pytest.approx((50 + 80) / 2)
    assert found.seeds == 2


def test_every_claim_is_measured_by_cells_that_a_study_has(figures, tmp_path):
    import claims
    import grid

    known = {cell.name for study in grid.STUDIES for cell in grid.cells(study)}
    # Claims on runs of one length have the names of methods without it (`Results.at`).
    known |= {cell.name.removesuffix(f".{length}") for length in grid.LENGTHS for cell in grid.cells(length)}
    met = set()

    class Asked(dict):
        def get(self, key, default=None):
            met.add(key)
            return default

    for claim in (*claims.CLAIMS, *claims.BESIDE_CLAIMS):
        met.clear()
        assert claim.figure(figures.Results("scenes", Asked())).seeds == 0
        assert met
        assert met <= known, claim.says


def test_the_document_is_written_anew_between_its_marks(tmp_path, monkeypatch, capsys):
    import tables

    for cell, value in (("ibot", 40.0), ("odis-single", 50.0), ("crop-only", 46.0)):
        for seed in range(3):
            write(tmp_path / "results" / "scenes", cell, seed, value + seed)
    doc = tmp_path / "evidence.md"
    doc.write_text(
        "before\n<!-- made: core scenes -->\nold\n<!-- end -->\nbetween\n<!-- made: claims scenes "
        "-->\n<!-- end -->\nafter\n"
    )
    monkeypatch.setattr(
        "sys.argv",
        [
            "tables.py",
            "--results",
            str(tmp_path / "results"),
            "--doc",
            str(doc),
            "--plots",
            str(tmp_path / "plots"),
        ],
    )
    tables.main()
    once = doc.read_text()
    assert once.startswith("before\n<!-- made: core scenes -->\n")
    assert once.endswith("<!-- end -->\nafter\n")
    assert "old" not in once
    assert "| `ibot` | near | crop | 41.0 ± 2.5 |" in once
    assert "| the object as the unit beats the image |" in once
    assert "| +10.0 ± 0.0 | held |" in once
    assert (tmp_path / "plots" / "scenes-core.png").stat().st_size > 1000
    tables.main()
    assert doc.read_text() == once
    doc.write_text("<!-- made: nothing scenes -->\n<!-- end -->\n")
    with pytest.raises(SystemExit, match="no block 'nothing scenes'"):
        tables.main()
