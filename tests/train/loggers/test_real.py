"""The real packages, offline: what they stored is read back. One that is not installed is skipped."""

import math
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from odis.errors import OdisError
from odis.train.loggers import PACKAGES, maker, require_packages
from odis.train.loggers.guard import GuardedLogger, LoggedRun
from odis.train.loggers.sent import SentLines

PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.fixture(scope="module")
def trackio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where trackio keeps its databases: it looks once, when it is imported."""
    return tmp_path_factory.mktemp("trackio")


@pytest.fixture(autouse=True)
def _nothing_is_reached(monkeypatch: pytest.MonkeyPatch, trackio_folder: Path) -> None:
    """Whoever tries the network gets nowhere, slowly."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://10.255.255.1:9")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(trackio_folder))


def log(name: str, out: Path, steps: list[int], *, start: int = 0, scored: int = 0) -> None:
    """Log as a run does from `start` on; nothing may be said or lost."""
    out.mkdir(exist_ok=True)
    said: list[str] = []
    config = {"train.steps": 100, "data": "x" * 7000, "views.mean": None}
    logger = GuardedLogger(
        name, maker(name), LoggedRun(out, "photos", config, start, SentLines(out)), said.append
    )
    for step in steps:
        logger.scalars(step, {"loss": 1 / step, "lr": math.nan if step == 20 else 0.5})
    if scored:
        logger.scalars(scored, {"knn_top1": 5.0})
        logger.pictures(scored, {"views": PICTURE})
    logger.close(complete=steps[-1] == 100)
    assert said == []


def twice(name: str, out: Path, every: int = 10) -> None:
    """A run that was saved at 50 and stopped at 80, and its resume."""
    log(name, out, list(range(every, 81, every)), scored=50)
    log(name, out, list(range(50 + every, 101, every)), start=50, scored=100)


def expected(every: int = 10) -> list[tuple[int, Any]]:
    return [(step, pytest.approx(1 / step)) for step in range(every, 101, every)]


def wandb_history(path: Path) -> Iterator[dict[str, str]]:
    """The entries of an offline run's file: blocks of 32 KiB of records, in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    data, at, held = path.read_bytes(), 7, b""
    while at < len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        held += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(held)
            held = b""
            if record.WhichOneof("record_type") == "history":
                yield {one.key or "/".join(one.nested_key): one.value_json for one in record.history.item}


def test_wandb_offline(tmp_path: Path) -> None:
    """No later point is lost behind a resume, none is there twice, and the network is not waited for."""
    pytest.importorskip("wandb")
    before = time.monotonic()
    twice("wandb", tmp_path / "run", every=1)
    assert time.monotonic() - before < 100
    files = sorted((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
    assert len({path.name for path in files}) == 1  # one id
    entries: list[dict[str, str]] = []
    for _ in range(100):  # its service may still be writing
        entries = [entry for path in files for entry in wandb_history(path)]
        if len(entries) >= len(expected(1)) + 4:
            break
        time.sleep(0.1)
    assert [(int(e["step"]), float(e["loss"])) for e in entries if "loss" in e] == expected(1)
    assert [(int(e["step"]), float(e["knn_top1"])) for e in entries if "knn_top1" in e] == [(50, 5), (100, 5)]
    assert [int(e["step"]) for e in entries if "views/width" in e] == [50, 100]


def test_mlflow_in_files(tmp_path: Path) -> None:
    """Long settings are cut, NaN is a tag, the run is ended and opened again."""
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    twice("mlflow", tmp_path / "run")
    client = MlflowClient(tracking_uri=(tmp_path / "run/mlruns").as_uri())
    experiment = client.get_experiment_by_name("odis")
    (run,) = client.search_runs([experiment.experiment_id])
    found = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in found] == expected()
    assert [one.step for one in client.get_metric_history(run.info.run_id, "knn_top1")] == [50, 100]
    assert (run.info.status, run.info.run_name) == ("FINISHED", "photos")
    assert run.data.params == {"train.steps": "100", "data": "x" * 247 + "...", "views.mean": "None"}
    assert run.data.tags["nonfinite.lr"] == "nan at step 20"
    views = [one.path for one in client.list_artifacts(run.info.run_id, "views")]
    assert views == ["views/00000050.png", "views/00000100.png"]


def trackio_rows(path: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as base:
        return base.execute(
            "select run_name, step, metrics ->> 'loss' from metrics where metrics ->> 'loss' is not null "
            "order by id"
        ).fetchall()


def test_trackio(tmp_path: Path, trackio_folder: Path) -> None:
    pytest.importorskip("trackio")
    twice("trackio", tmp_path / "run")
    rows = trackio_rows(trackio_folder / "odis.db")
    assert len({name for name, _, _ in rows}) == 1
    assert [(step, loss) for _, step, loss in rows] == expected()


def test_trackio_with_a_reader_attached(
    tmp_path: Path, trackio_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an open dashboard: the database is read all the time."""
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_PROJECT", "watched")
    base = trackio_folder / "watched.db"
    done, reads = threading.Event(), [0]

    def read() -> None:
        while not done.wait(0.01):
            if base.exists():
                try:
                    reads[0] += bool(trackio_rows(base))
                except sqlite3.OperationalError:  # the table is not there yet
                    continue

    reader = threading.Thread(target=read)
    reader.start()
    log("trackio", tmp_path / "run", list(range(1, 10_001)))
    done.set()
    reader.join()
    assert [step for _, step, _ in trackio_rows(base)] == list(range(1, 10_001))
    assert reads[0] > 0


def test_a_package_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "wandb", "no_such_package")
    with pytest.raises(
        OdisError, match=r"^train\.loggers: wandb is not installed; run: pip install 'odis\[wandb\]'$"
    ):
        require_packages(["tensorboard", "wandb"])
