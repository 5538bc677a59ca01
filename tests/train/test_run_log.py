"""What a run says: lines or a bar, metrics, what was skipped, and how fast it is."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from odis.machine.ranks import Ranks
from odis.train import run_log
from odis.train.run_log import RunLog, Throughput
from odis.types import Skipped

FIRST, SECOND = (Ranks(rank, 1, torch.device("cpu")) for rank in (0, 1))
VALUES = {
    "loss": 9.01, "images_per_second": 123.4, "data_wait": 0.05, "memory_gib": 1.5, "seconds_left": 125.0,
    "mean_entropy": 3.0, "teacher_entropy": 2.0, "feature_spread": 0.9,
}  # fmt: skip


def open_log(out: Path, ranks: Ranks = FIRST, **changed: Any) -> RunLog:
    settings = {"total_steps": 40, "start_step": 0, "prototypes": 64} | changed
    return RunLog(out, ranks, **settings)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_without_a_terminal_each_interval_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = open_log(tmp_path)
    log.advance(10)
    log.write(10, VALUES)
    log.write(20, {"knn_top1": 41.25})
    log.close()
    assert capsys.readouterr().err.splitlines() == [
        "step 10/40  loss 9.010  123.4 img/s  wait 5%  1.5 GiB  2:05 left",
        "step 20/40  knn_top1 41.2",
    ]
    assert records(tmp_path / "metrics.jsonl") == [{"step": 10, **VALUES}, {"step": 20, "knn_top1": 41.25}]


def test_on_a_terminal_it_is_a_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    log = open_log(tmp_path)
    log.advance(10)
    log.write(10, VALUES)
    log.close()
    shown = capsys.readouterr().err
    assert "10/40" in shown
    assert "loss 9.010  123.4 img/s  wait 5%  1.5 GiB" in shown
    assert "step 10/40  loss" not in shown


def test_a_resumed_run_drops_the_lines_that_it_writes_again(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for step in (10, 20, 30):
        log.write(step, VALUES)
        log.skip(step, [Skipped(f"{step}.jpg", "empty")])
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # cut short by a kill
    again = open_log(tmp_path, start_step=20)
    assert [r["step"] for r in records(tmp_path / "metrics.jsonl")] == [10, 20]
    assert again.skipped == 2
    again.close()


def test_what_cannot_be_said_in_json_is_null(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.write(10, VALUES | {"loss": math.nan, "grad_norm": math.inf})
    log.close()
    (record,) = records(tmp_path / "metrics.jsonl")
    assert record["loss"] is None
    assert record["grad_norm"] is None


def test_each_skipped_file_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = open_log(tmp_path)
    log.skip(1, [Skipped("[a].jpg", "empty"), Skipped("b.jpg", "no image")])
    log.skip(7, [Skipped("[a].jpg", "empty")])
    assert log.skipped == 2
    log.close()
    assert capsys.readouterr().err.splitlines() == [
        "warning: skipped [a].jpg: empty",
        "warning: skipped b.jpg: no image",
    ]
    assert records(tmp_path / "skipped.jsonl") == [
        {"step": 1, "what": "[a].jpg", "why": "empty"},
        {"step": 1, "what": "b.jpg", "why": "no image"},
    ]


def test_images_of_a_step_that_was_not_taken_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = open_log(tmp_path)
    images = [f"{i}.jpg" for i in range(10)]
    log.nonfinite(3, images[:2])
    log.nonfinite(4, images)
    log.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("images: 0.jpg, 1.jpg")
    assert second.endswith("7.jpg and 2 more, named in nonfinite.jsonl")
    assert records(tmp_path / "nonfinite.jsonl")[1] == {"step": 4, "images": images}


def test_a_collapse_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = open_log(tmp_path)
    log.write(10, VALUES | {"mean_entropy": 0.1})
    log.close()
    assert "warning: collapse to one prototype" in capsys.readouterr().err


def test_other_ranks_are_silent_and_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = open_log(tmp_path, SECOND)
    log.say("hello")
    log.advance(10)
    log.write(10, VALUES)
    log.skip(1, [Skipped("a.jpg", "empty")])
    log.close()
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_throughput_of_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(run_log.time, "perf_counter", lambda: now[0])
    throughput = Throughput()
    for _ in range(4):
        throughput.waited(0.5)
        throughput.stepped()
    now[0] += 8.0
    assert throughput.read(batch_size=16, steps_left=10) == {
        "images_per_second": 4 * 16 / 8.0,
        "data_wait": 2.0 / 8.0,
        "seconds_left": 10 * 8.0 / 4,
    }
    throughput.stepped()
    now[0] += 2.0
    assert throughput.read(16, 9) == {"images_per_second": 8.0, "data_wait": 0.0, "seconds_left": 18.0}
    now[0] += 50.0  # an evaluation, which is no training
    throughput.restart()
    throughput.stepped()
    now[0] += 1.0
    assert throughput.read(16, 8)["images_per_second"] == 16.0
