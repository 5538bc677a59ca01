"""Runs with a logger that hangs, cannot start or loses its server: they train, and say what was lost."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from odis.cli import main
from odis.train import run_log
from odis.train.loggers import guard

STEPS = 8
TINY = [
    "--recipe=debug", "--views.global_size=32", "--views.local_size=16", "--model.depth=1",
    "--model.embed_dim=32", "--model.num_heads=2", "--head.prototypes=24", "--train.device=cpu",
    f"--train.steps={STEPS}", "--train.batch_size=2", "--train.log_every=1", "--loader.workers=0",
    "--train.loggers=[tensorboard]",
]  # fmt: skip


class Remote:
    """A logger whose calls do what `breaks` does, by the name of the call and its number."""

    rewinds = False

    def __init__(self, breaks: Callable[[str, int], None]) -> None:
        self.told: list[Any] = []
        self.calls = 0
        self._breaks = breaks

    def _call(self, *told: Any) -> None:
        self.calls += 1
        self.told.append(told)
        self._breaks(told[0], self.calls)

    def start(self, run: guard.LoggedRun) -> None:
        self._call("start")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._call("scalars", step)

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        self._call("pictures", step)

    def finish(self, complete: bool) -> None:
        self._call("finish", complete)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"images/{i}.png")
    return tmp_path / "images"


@pytest.fixture
def asleep() -> Iterator[threading.Event]:
    wakes = threading.Event()
    yield wakes
    wakes.set()


def steps(out: Path) -> list[int]:
    """The steps in the local log."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.mark.parametrize("fault", ["sleeps", "cannot start", "loses its server"])
def test_training_ends_well_whatever_becomes_of_a_logger(
    fault: str,
    images: Path,
    asleep: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def breaks(call: str, number: int) -> None:
        if fault == "sleeps" and call == "start":
            asleep.wait(300)
        if fault == "cannot start" and call == "start":
            raise SystemExit(1)
        if fault == "loses its server" and number > 3:
            raise ConnectionError("connection refused")

    remote = Remote(breaks)
    monkeypatch.setattr(run_log, "maker", lambda name: lambda: remote)
    monkeypatch.setattr(guard, "PATIENCE", 0.2)
    before = time.monotonic()
    main(["pretrain", f"--data={images}", f"--out={images.parent / 'run'}", *TINY])  # code 0, or it raises
    assert time.monotonic() - before < 120, "it does not wait for the sleeper"
    assert steps(images.parent / "run") == list(range(1, STEPS + 1))
    assert (images.parent / "run" / "model.safetensors").exists()
    said = capsys.readouterr().err
    why, lost = {
        "sleeps": ("is still busy after 0.2 seconds, and is left behind", STEPS + 1),
        "cannot start": ("could not start (1); the run goes on without it", STEPS),
        "loses its server": ("connection refused", STEPS - 2),
    }[fault]
    assert f"tensorboard: {why}" in said
    assert f"tensorboard: {lost} entries were lost; metrics.jsonl has every value" in said


def test_a_run_that_fails_ends_its_loggers(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that stays open would block the run that resumes."""
    remote = Remote(lambda call, number: None)
    monkeypatch.setattr(run_log, "maker", lambda name: lambda: remote)

    def breaks(self: run_log.RunLog, step: int, values: dict[str, float]) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(run_log.RunLog, "write", breaks)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        main(["pretrain", f"--data={images}", f"--out={images.parent / 'run'}", *TINY])
    assert remote.told[0] == ("start",)
    assert remote.told[-1] == ("finish", False)
