"""Training where something is scarce: shared memory, the disk, folders that may be written to; and Ctrl-C
while it waits for data.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from odis.config.options import load_recipe
from odis.data.dataset import ViewDataset
from odis.errors import DataError
from odis.machine.files import append_line
from odis.train import loop
from odis.train.checkpoint import checkpoints, load_checkpoint

SETTINGS = {
    "views.global_size": 32, "views.local_size": 16, "model.depth": 1, "model.embed_dim": 32,
    "model.num_heads": 2, "head.prototypes": 32, "head.hidden": 32, "train.device": "cpu",
    "train.precision": "fp32", "train.batch_size": 16, "train.steps": 4, "train.threads": 1,
    "train.log_every": 1, "loader.workers": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i in range(16):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def command(images: Path, out: Path, **more: Any) -> str:
    options = {name: f"{value}" for name, value in (SETTINGS | more).items()}
    words = " ".join(f"--{name}={value}" for name, value in options.items())
    return f"{sys.executable} -m odis pretrain --data {images} --out {out} --recipe debug {words}"


def pretrain(images: Path, out: Path, **more: Any) -> Path:
    settings = {name.replace(".", "__"): value for name, value in SETTINGS.items()} | more
    return loop.pretrain(load_recipe("debug", data=str(images), **settings), out)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def with_mounts(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script that may mount file systems, which nobody else sees."""
    allowed = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /dev/shm"]
    try:
        subprocess.run(allowed, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no user namespace here: {error}")
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=300, check=False
    )


def test_a_small_dev_shm_slows_a_run_and_changes_nothing(images: Path, tmp_path: Path) -> None:
    """A batch has 3.3 MB, four of them are made ahead; Docker's 64 MiB are as little for common settings."""
    pretrain(images, tmp_path / "usual", loader__workers=0)
    small = with_mounts(f"mount -t tmpfs -o size=1m tmpfs /dev/shm && {command(images, tmp_path / 'small')}")
    assert small.returncode == 0, small.stderr
    assert losses(tmp_path / "small") == losses(tmp_path / "usual")
    (warning,) = [line for line in small.stderr.splitlines() if line.startswith("warning")]
    assert "/dev/shm has 1.0 MiB, of which 1.0 MiB are free" in warning or "0.9 MiB are free" in warning
    assert "--shm-size" in warning
    assert "--loader.workers 0" in warning


def test_a_dev_shm_without_room_for_locks_is_one_line(images: Path, tmp_path: Path) -> None:
    none = with_mounts(
        f"mount -t tmpfs -o size=4k tmpfs /dev/shm && echo full > /dev/shm/x && "
        f"{command(images, tmp_path / 'run')}"
    )
    assert none.returncode == 2
    assert "Traceback" not in none.stderr
    said = none.stderr.splitlines()[-1]
    assert said.startswith("odis pretrain: data workers cannot be started (No space left on device); their")
    assert "--shm-size" in said
    assert said.endswith("--loader.workers 0 reads in this process")


def test_a_disk_that_fills_up_is_named_and_the_last_checkpoint_is_whole(images: Path, tmp_path: Path) -> None:
    """The data may be read-only, and the folder for temporary files too."""
    disk = tmp_path / "disk"
    disk.mkdir()
    run = command(images, disk / "run", **{"train.checkpoint_every": 1, "train.keep": 9, "train.steps": 60})
    full = with_mounts(
        f"mount -t tmpfs -o size=2m tmpfs {disk} && mount --bind {images} {images} && "
        f"mount -o remount,ro,bind {images} && mkdir {disk}/tmp && mount -t tmpfs -o ro tmpfs {disk}/tmp && "
        f"TMPDIR={disk}/tmp {run}; echo $?; ls {disk}/run/checkpoints; cp -r {disk}/run {tmp_path}/copy"
    )
    code, *names = full.stdout.split()
    assert code == "2", full.stderr
    assert all(name.endswith(".pt") for name in names), "nothing half-written stays"
    said = full.stderr.splitlines()[-1]
    assert f"{disk}/run/" in said
    assert "cannot be written (No space left on device)" in said
    saved = checkpoints(tmp_path / "copy" / "checkpoints")
    assert len(saved) == len(names) > 1
    assert load_checkpoint(saved[-1])["step"] == len(saved)


def test_a_log_that_cannot_grow_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(DataError, match=r"metrics\.jsonl: cannot be written \(Is a directory\)"):
        append_line(tmp_path / "metrics.jsonl", "{}")


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_while_waiting_for_data_saves_what_was_done(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    made = ViewDataset.__getitem__

    def stuck(self: ViewDataset, key: tuple[int, int]) -> Any:
        if key[0] == 2:  # an epoch is a step here
            (tmp_path / "waiting").touch()
            time.sleep(300)
        return made(self, key)

    def interrupt() -> None:
        while not (tmp_path / "waiting").exists():
            time.sleep(0.05)
        time.sleep(1.5)  # the two steps before it are done
        os.kill(os.getpid(), signal.SIGINT)
        began.append(time.monotonic())

    began: list[float] = []
    monkeypatch.setattr(ViewDataset, "__getitem__", stuck)
    timer = threading.Thread(target=interrupt, daemon=True)
    timer.start()
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        pretrain(images, out, loader__workers=workers)
    assert time.monotonic() - began[0] < 15
    (saved,) = checkpoints(out / "checkpoints")
    assert load_checkpoint(saved)["step"] == 2
    monkeypatch.undo()
    pretrain(images, out, loader__workers=0)
    pretrain(images, tmp_path / "usual", loader__workers=0)
    assert losses(out) == losses(tmp_path / "usual")
