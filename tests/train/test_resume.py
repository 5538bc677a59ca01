"""A run that is killed and started again is the run that was not: every later loss and the final weights, bit
for bit.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odis.config.options import load_recipe
from odis.errors import ConfigError
from odis.objects.index import ObjectIndex, write_index
from odis.train.checkpoint import checkpoints, load_checkpoint
from odis.train.loop import pretrain
from odis.types import ImageObjects, Object

STEPS = 24


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / f"{i}.png")
        rows.append(
            ImageObjects(
                f"{i}.png", 48, 40, (Object((4.0, 5.0, 20.0, 30.0)), Object((20.0, 10.0, 44.0, 36.0)))
            )
        )
    write_index(root / "index.parquet", rows, root=root, provenance="annotated", classes=[])
    return root / "index.parquet"


def command(index: Path, out: Path) -> list[str]:
    settings = {
        "objects.per_image": 2,
        "model.object_tokens": "read-only",
        "model.drop_path": 0.2,
        "head.norm": "batch",
        "loss.image_weight": 0.5,
        "train.steps": STEPS,
        "train.batch_size": 4,
        "train.checkpoint_every": 5,
        "train.threads": 1,
        "loader.workers": 2,
        "views.global_size": 32,
        "views.local_size": 16,
        "model.embed_dim": 48,
        "model.depth": 2,
        "head.prototypes": 64,
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    return [
        sys.executable,
        "-m",
        "odis",
        "pretrain",
        "--data",
        str(index),
        "--out",
        str(out),
        "--recipe",
        "debug",
        *options,
    ]


def metrics(out: Path) -> dict[int, dict[str, float]]:
    timing = {"images_per_second", "data_wait", "seconds_left", "memory_gib"}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1)), "every step is written once"
    return {line["step"]: {k: v for k, v in line.items() if k not in timing} for line in lines}


def written_steps(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def test_killed_and_resumed_equals_undisturbed(index: Path, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run(command(index, undisturbed), check=True, capture_output=True, timeout=240)

    at = random.randint(6, STEPS - 2)  # any step: the promise is for all of them
    process = subprocess.Popen(
        command(index, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while written_steps(killed) < at and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert load_checkpoint(checkpoints(killed / "checkpoints")[-1])["step"] < STEPS

    again = subprocess.run(command(index, killed), check=True, capture_output=True, text=True, timeout=240)
    assert "resumed after step" in again.stderr
    assert metrics(killed) == metrics(undisturbed), f"killed at step {at}"
    ours, theirs = (load_checkpoint(checkpoints(out / "checkpoints")[-1]) for out in (killed, undisturbed))
    assert ours["step"] == theirs["step"] == STEPS
    for part in ("student", "teacher", "centers"):
        assert all(torch.equal(ours[part][k], theirs[part][k]) for k in theirs[part]), part
    for key, state in theirs["optimizer"]["state"].items():
        assert all(torch.equal(ours["optimizer"]["state"][key][k], v) for k, v in state.items())
    assert (killed / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


def test_moved_data_goes_on_and_changed_data_is_refused(index: Path, tmp_path: Path) -> None:
    out, moved = tmp_path / "run", tmp_path / "moved"
    settings = {"train__steps": 4, "train__batch_size": 4, "loader__workers": 0, "train__device": "cpu"}
    small = {
        "views__global_size": 32, "views__local_size": 16, "model__embed_dim": 48, "model__depth": 1,
        "head__prototypes": 64,
    }  # fmt: skip

    def train(data: Path | str, **more: object) -> None:
        pretrain(load_recipe("debug", data=str(data), **settings, **small, **more), out)

    train(index)
    shutil.copytree(index.parent, moved)
    train(moved / "index.parquet", train__threads=2)
    (tmp_path / "link").symlink_to(moved)
    train(tmp_path / "link" / "index.parquet")
    rows = list(ObjectIndex.open(moved / "index.parquet"))
    rows[3] = replace(rows[3], objects=rows[3].objects[:1])
    write_index(moved / "index.parquet", rows, root=moved, provenance="annotated", classes=[])
    with pytest.raises(ConfigError, match=r"data: .*link/index\.parquet -> .*moved/index\.parquet"):
        train(moved / "index.parquet")
    with pytest.raises(ConfigError, match="has changed since"):
        train(tmp_path / "link" / "index.parquet")
