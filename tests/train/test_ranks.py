"""Two ranks with half the batch each follow one process with the whole batch to rounding."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from odis.objects.index import write_index
from odis.train.checkpoint import checkpoints, load_checkpoint
from odis.types import ImageObjects, Object

STEPS = 8
TINY: dict[str, object] = {
    "train.batch_size": 6, "train.threads": 1, "train.checkpoint_every": 0, "loader.workers": 0,
    "views.global_size": 32, "views.local_size": 16, "model.embed_dim": 48, "model.depth": 2,
    "head.prototypes": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with no, one or several objects, so that ranks hold unequal numbers of object rows."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    boxes = [(4.0, 5.0, 20.0, 30.0), (20.0, 10.0, 44.0, 36.0), (1.0, 1.0, 9.0, 8.0)]
    rows = []
    for i in range(14):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / f"{i}.png")
        rows.append(ImageObjects(f"{i}.png", 48, 40, tuple(Object(b) for b in boxes[: i % 4])))
    write_index(root / "index.parquet", rows, root=root, provenance="annotated", classes=[])
    return root / "index.parquet"


def run(index: Path, out: Path, launcher: list[str], settings: dict[str, object]) -> None:
    fixed = TINY | {"train.steps": STEPS}
    options = [f"--{name}={value}" for name, value in (fixed | settings).items()]
    command = [
        sys.executable,
        *launcher,
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(out: Path) -> list[list[float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        [line[k] for k in ("loss", "loss_object", "loss_patch", "loss_image", "grad_norm")] for line in lines
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {
            "loss.centering": "center",
            "loss.image_weight": 1.0, "loss.center_patches": "all",
            "optim.clip": "parameter", "optim.clip_grad": 0.01,
        },
        {
            "loss.centering": "sinkhorn",
            "loss.image_weight": 0.5, "loss.koleo_weight": 0.5,
            "head.norm": "batch",
            "model.object_tokens": "read-only", "objects.per_image": 3,
        },
    ],
    ids=["single-center", "read-only-sinkhorn-batch-norm"],
)  # fmt: skip
def test_two_ranks_follow_one(index: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    """Where nothing is taken from a micro-batch alone, each rank takes its half in three parts."""
    run(index, tmp_path / "one", [], settings)
    run(
        index,
        tmp_path / "two",
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        settings | ({"train.accumulate": 3} if settings["loss.centering"] == "center" else {}),
    )
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=2e-4)
    one, two = (load_checkpoint(checkpoints(tmp_path / name / "checkpoints")[-1]) for name in ("one", "two"))
    # The moments say whether the gradients are the same. Where a gradient is zero but for rounding (of a bias
    # before a batch norm, of the keys), AdamW still takes whole steps, so weights agree on the whole only.
    found, expected = (state["optimizer"]["state"] for state in (two, one))
    assert found.keys() == expected.keys()
    for moment in ("exp_avg", "exp_avg_sq"):
        largest = max(float(state[moment].abs().max()) for state in expected.values())
        assert largest > 0
        for i, state in expected.items():
            torch.testing.assert_close(found[i][moment], state[moment], rtol=1e-3, atol=1e-4 * largest)
    for key, value in one["centers"].items():
        largest = float(value.abs().max())
        torch.testing.assert_close(two["centers"][key], value, rtol=1e-3, atol=1e-4 * largest)
    metrics = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    step = sum(line["lr"] for line in metrics)  # about as far as AdamW takes a weight
    follow = sum(1 - line["momentum_teacher"] for line in metrics)  # that share of it moves the teacher
    for part, most in (("student", step), ("teacher", step * follow)):
        assert one[part].keys() == two[part].keys()
        off = torch.cat([(two[part][key] - value).abs().flatten() for key, value in one[part].items()])
        assert off.mean() < 0.01 * most, part


STOPPED = """
import os, signal, sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from odis.config.options import load_recipe
from odis.train import loop

init, train_step, rank = dist.init_process_group, loop.train_step, int(os.environ["RANK"])
dist.init_process_group = lambda backend: init(backend, timeout=timedelta(seconds=4))

def evaluate(model, config):
    time.sleep(7)  # longer than the limit of the group
    return {"score": 1.0}

def signalled(run, *given, **more):
    train_step(run, *given, **more)
    if run.step == 4 and rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)  # one rank alone

loop.train_step = signalled
settings = dict(line.split("=") for line in sys.argv[3:])
settings = {name.replace(".", "__"): value for name, value in settings.items()}
config = load_recipe("debug", data=sys.argv[1], val="x", **settings)
try:
    loop.pretrain(config, Path(sys.argv[2]), evaluate=evaluate)
except KeyboardInterrupt:
    print(f"rank {rank} stopped", flush=True)
"""


def test_ranks_wait_for_an_evaluation_and_stop_together_at_a_step(index: Path, tmp_path: Path) -> None:
    """An evaluation outlasts the limit of the process group. Then a signal reaches one rank, far from any log
    line: the next step is the last one of both, and it is saved.
    """
    script, out = tmp_path / "stopped.py", tmp_path / "run"
    script.write_text(STOPPED)
    settings = TINY | {"train.steps": 500, "train.log_every": 400, "train.knn_every": 2}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(script), str(index), str(out), *[f"{name}={value}" for name, value in settings.items()]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(line for line in done.stdout.splitlines()) == ["rank 0 stopped", "rank 1 stopped"]
    assert "stopped after step 4; the same command resumes" in done.stderr
    assert load_checkpoint(checkpoints(out / "checkpoints")[-1])["step"] == 4
    scores = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert scores == [{"step": 2, "score": 1.0}]
