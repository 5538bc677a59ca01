"""`odis benchmark` from the command line to the table and the file."""

import json
import multiprocessing
from pathlib import Path

import pytest

from odis.benchmark.cached import memories
from odis.benchmark.figures import duration
from odis.cli import main
from odis.objects.index import ObjectIndex


def test_a_recipe_is_measured(index: ObjectIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "figures.json"
    settings = [
        "--train.batch_size",
        "2",
        "--loader.workers",
        "1",
        "--train.threads",
        "1",
        "--train.epochs",
        "50",
        "--model.depth",
        "1",
    ]
    main(
        [
            "benchmark",
            "--data",
            index.path,
            "--recipe",
            "debug",
            "--train.steps",
            "null",
            "--seconds",
            "2",
            "--out",
            str(out),
            *settings,
        ]
    )
    said = capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert figures["images"] == 12
    assert figures["recipe"] == "debug"
    assert figures["micro_batch"] == 2
    assert figures["total_steps"] == 300
    assert figures["config"]["train"]["batch_size"] == 2
    assert figures["cached"] is None
    projected = 600 / figures["training"]["images_per_second"] + figures["input"]["startup_seconds"]
    assert figures["projected_seconds"] == pytest.approx(projected)
    assert 0 < figures["step"]["model_flops_utilisation"] < 1.5
    value, low, high = figures["without_objects"]["step_time"]
    assert low <= value <= high
    assert figures["without_objects"]["resampling"]["mean"] >= 1
    for name in (
        "input alone",
        "step alone",
        "training",
        "memory",
        "of the matmul rate",
        "the whole run",
        "objects cost: step",
    ):
        assert name in said


def test_a_cached_run_is_projected_from_both_rates(
    index: ObjectIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The first epoch is read from files; its images are then there for both workers."""
    out = tmp_path / "figures.json"
    settings = [
        "--loader.keep",
        "[memory]",
        "--loader.workers",
        "2",
        "--train.batch_size",
        "2",
        "--train.epochs",
        "3",
        "--model.depth",
        "1",
    ]
    settings += ["--train.steps", "null", "--objects.use", "false"]
    main(
        [
            "benchmark",
            "--data",
            index.path,
            "--recipe",
            "debug",
            "--seconds",
            "1",
            "--out",
            str(out),
            *settings,
        ]
    )
    figures = json.loads(out.read_text())
    cached = figures["cached"]
    assert figures["total_images"] == 36
    assert cached["reads"] == 12
    seconds = 12 / figures["training"]["images_per_second"] + 24 / cached["training"]["images_per_second"]
    assert figures["projected_seconds"] == pytest.approx(figures["input"]["startup_seconds"] + seconds)
    said = capsys.readouterr().out
    assert "cached: training" in said
    assert "33 % of the run's images, read from files" in said


def test_processes_that_are_not_forked_have_a_memory_each(monkeypatch: pytest.MonkeyPatch):
    assert [memories(workers) for workers in (0, 1, 4)] == [1, 1, 1]
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    assert [memories(workers) for workers in (0, 1, 4)] == [1, 1, 4]


def test_without_objects_there_is_nothing_to_compare(index: ObjectIndex, capsys: pytest.CaptureFixture[str]):
    settings = [
        "--objects.use",
        "false",
        "--train.batch_size",
        "2",
        "--loader.workers",
        "0",
        "--model.depth",
        "1",
    ]
    main(["benchmark", "--data", index.path, "--recipe", "debug", "--seconds", "0.5", *settings])
    assert "objects cost" not in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "line"), [
    ([], "--data is required"),
    (["--data", "nowhere.parquet"], "nowhere.parquet: no such file"),
    (["--data", "x", "--seconds", "0"], "seconds: is 0.0, must be above 0"),
    (["--data", "x", "--secnds", "1"], "--secnds: no such option (did you mean --seconds?)"),
    (["--data", "x", "--train.batch_size", "0"], "train.batch_size: is 0"),
])  # fmt: skip
def test_mistakes_are_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", *arguments])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert line in said
    assert said.strip().count("\n") == 0


def test_durations_read_as_clocks():
    assert duration(3661.4) == "01:01:01"
    assert duration(3 * 86_400 + 4 * 3600 + 5 * 60 + 6) == "3 d 04:05:06"
    assert duration(0) == "00:00:00"
