"""A logger that is slow, fails, or goes away: the run does not wait, does not end, and says what was lost."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from odis.machine.ranks import Ranks
from odis.train import run_log
from odis.train.loggers import guard
from odis.train.loggers.guard import GuardedLogger, LoggedRun, cut, finite
from odis.train.loggers.sent import SentLines
from odis.train.run_log import RunLog


class Fake:
    """Keeps what it is told; `breaks` says what happens before each call."""

    rewinds = False
    made = 0

    def __init__(self, breaks: Callable[[str, int], None] = lambda what, n: None) -> None:
        Fake.made += 1
        self.told: list[Any] = []
        self.calls = 0
        self._breaks = breaks

    def _call(self, what: str, *told: Any) -> None:
        self.calls += 1
        self._breaks(what, self.calls)
        self.told.append((what, *told))

    def start(self, run: LoggedRun) -> None:
        self._call("start")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._call("scalars", step, values)

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        self._call("pictures", step)

    def finish(self, complete: bool) -> None:
        self._call("finish", complete)


def guarded(
    folder: Path, fake: Fake, start_step: int = 0, anew: bool = False
) -> tuple[GuardedLogger, list[str], SentLines]:
    said: list[str] = []
    sent = SentLines(folder, anew=anew)
    run = LoggedRun(folder, "run", {"train.steps": 40}, start_step, sent)
    return GuardedLogger("fake", lambda: fake, run, said.append), said, sent


def steps(fake: Fake) -> list[int]:
    return [one[1] for one in fake.told if one[0] == "scalars"]


def test_what_is_handed_over_arrives_in_order(tmp_path: Path) -> None:
    fake = Fake()
    logger, said, _ = guarded(tmp_path, fake)
    logger.scalars(10, {"loss": 1.0})
    logger.scalars(10, {"knn_top1": 5.0})
    logger.pictures(10, {"views": np.zeros((1, 1, 3), np.uint8)})
    logger.close(complete=True)
    assert fake.told == [
        ("start",),
        ("scalars", 10, {"loss": 1.0}),
        ("scalars", 10, {"knn_top1": 5.0}),
        ("pictures", 10),
        ("finish", True),
    ]
    assert said == []


def test_a_logger_that_sleeps_holds_nothing_up_and_is_left_behind(tmp_path: Path) -> None:
    wakes = threading.Event()
    fake = Fake(lambda what, n: wakes.wait(300) and None)
    before = time.monotonic()
    logger, said, _ = guarded(tmp_path, fake)
    for step in range(5):
        logger.scalars(step, {"loss": 1.0})
    logger.close(complete=True, patience=0.1)
    assert time.monotonic() - before < 30
    assert said == [
        "fake: is still busy after 0.1 seconds, and is left behind",
        "fake: 6 entries were lost; metrics.jsonl has every value",
    ]
    wakes.set()


@pytest.mark.parametrize("error", [RuntimeError("no API key"), SystemExit(1)])
def test_one_that_cannot_start_is_tried_once_and_its_entries_are_counted(
    tmp_path: Path, error: BaseException
) -> None:
    def breaks(what: str, n: int) -> None:
        raise error

    Fake.made = 0
    fake = Fake(breaks)
    logger, said, _ = guarded(tmp_path, fake)
    for step in range(3):
        logger.scalars(step, {"loss": 1.0})
    logger.close(complete=True)
    assert (Fake.made, fake.calls) == (1, 1)
    assert said == [
        f"fake: could not start ({error}); the run goes on without it",
        "fake: 3 entries were lost; metrics.jsonl has every value",
    ]


def test_a_server_that_goes_and_comes_back(tmp_path: Path) -> None:
    def breaks(what: str, n: int) -> None:
        if 3 <= n <= 5:
            raise ConnectionError(f"refused,\nfor the {n}th time")

    fake = Fake(breaks)
    logger, said, _ = guarded(tmp_path, fake)
    for step in range(1, 9):
        logger.scalars(step, {"loss": 1.0})
    logger.close(complete=False)
    assert steps(fake) == [1, 5, 6, 7, 8]
    assert fake.told[-1] == ("finish", False)
    assert said == [
        "fake: refused, for the 3th time",
        "fake: 3 entries were lost; metrics.jsonl has every value",
    ]


def test_one_that_only_fails_is_given_up(tmp_path: Path) -> None:
    def breaks(what: str, n: int) -> None:
        if what == "scalars":
            raise OSError("x" * 300)

    fake = Fake(breaks)
    logger, said, _ = guarded(tmp_path, fake)
    for step in range(50):
        logger.scalars(step, {"loss": 1.0})
    logger.close(complete=True)
    assert fake.calls == 1 + 20 + 1
    assert said[1].endswith("...; it is not tried any more")
    assert said[2] == "fake: 50 entries were lost; metrics.jsonl has every value"


def test_a_full_queue_loses_and_an_end_that_fails_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_HELD", 2)
    begins, goes_on = threading.Event(), threading.Event()

    def breaks(what: str, n: int) -> None:
        if what == "start":
            begins.set()
            goes_on.wait(30)
        if what == "finish":
            raise RuntimeError("disk full")

    fake = Fake(breaks)
    logger, said, _ = guarded(tmp_path, fake)
    assert begins.wait(30)
    for step in range(5):
        logger.scalars(step, {"loss": 1.0})
    goes_on.set()
    logger.close(complete=True)
    assert steps(fake) == [0, 1]
    assert said == [
        "fake: could not end (disk full)",
        "fake: 3 entries were lost; metrics.jsonl has every value",
    ]


def test_a_resumed_run_sends_nothing_twice_and_a_restart_begins_anew(tmp_path: Path) -> None:
    fake = Fake()
    logger, _, sent = guarded(tmp_path, fake)
    sent.has_id("fake", "abc")
    for step in (10, 20, 30):  # 20 was saved, the run was killed behind 30
        logger.scalars(step, {"loss": 1.0})
    logger.scalars(20, {"knn_top1": 1.0})
    logger.close(complete=False)
    again = Fake()
    logger, _, sent = guarded(tmp_path, again, start_step=20)
    assert sent.run_id("fake") == "abc"
    logger.scalars(30, {"loss": 1.0})
    logger.scalars(30, {"knn_top1": 1.0})
    logger.scalars(40, {"loss": 1.0})
    logger.close(complete=True)
    assert [one[1:] for one in again.told if one[0] == "scalars"] == [
        (30, {"knn_top1": 1.0}),
        (40, {"loss": 1.0}),
    ]
    anew = Fake()
    logger, _, sent = guarded(tmp_path, anew, start_step=20, anew=True)
    assert sent.run_id("fake") is None
    logger.scalars(30, {"loss": 2.0})
    logger.close(complete=True)
    assert steps(anew) == [30]


@pytest.mark.parametrize("text", ["", "[1]", '{"fake": 3}', "{", '{"fake": {"steps": "x", "id": 7}}'])
def test_a_damaged_list_of_what_was_sent_harms_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "loggers.json").write_text(text)
    sent = SentLines(tmp_path)
    assert sent.run_id("fake") is None
    assert not sent.has("fake", "steps", 1)


def test_the_first_rank_alone_has_loggers_and_they_get_every_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes: list[Fake] = []

    def make(name: str) -> Callable[[], Fake]:
        def one() -> Fake:
            fakes.append(Fake())
            return fakes[-1]

        return one

    monkeypatch.setattr(run_log, "maker", make)
    for rank in range(4):
        here = Ranks(rank, 1, torch.device("cpu"))
        log = RunLog(
            tmp_path, here, total_steps=20, start_step=0, prototypes=8, loggers=["wandb", "mlflow"], config={}
        )
        assert log.shows_pictures(10, 5)  # all ranks know, since the network may be in parts
        assert not log.shows_pictures(10, 0)
        log.advance(20)
        log.write(20, {"loss": 2.0})
        log.pictures(20, {})
        log.close()
    assert [fake.told for fake in fakes] == [
        [("start",), ("scalars", 20, {"loss": 2.0}), ("pictures", 20), ("finish", True)]
    ] * 2
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 20, "loss": 2.0}


def test_values_and_settings_that_servers_refuse() -> None:
    assert finite({"a": 1, "b": float("nan"), "c": float("-inf")}) == ({"a": 1.0}, {"b": "nan", "c": "-inf"})
    assert cut("x" * 300, 250) == "x" * 247 + "..."
    assert cut(None, 250) == "None"
