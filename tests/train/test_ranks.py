"""Ranks with parts of the batch, and of the state too, follow one process with all of it to rounding."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from odis.backbones.build import build_vit
from odis.backbones.saved import load_model
from odis.config.training import ModelConfig
from odis.objects.index import write_index
from odis.train.checkpoint import checkpoints, load_checkpoint, step_of
from odis.types import ImageObjects, Object

TINY: dict[str, Any] = {
    "train__batch_size": 4, "train__threads": 1, "train__checkpoint_every": 0, "loader__workers": 0,
    "train__precision": "fp32", "train__log_every": 1, "model__drop_path": 0.0,
    "views__global_size": 32, "views__local_size": 16, "model__patch_size": 8, "model__embed_dim": 32,
    "model__depth": 2, "model__num_heads": 2, "head__prototypes": 24, "head__hidden": 20,
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


SETTINGS: dict[str, dict[str, Any]] = {
    "center": {
        "train__steps": 20, "train__checkpoint_every": 10,
        "loss__centering": "center", "loss__image_weight": 1.0, "loss__center_patches": "all",
        "optim__clip": "parameter", "optim__clip_grad": 0.01, "optim__layer_decay": 0.8,
        "optim__freeze_backbone_epochs": 1.0, "model__freeze_blocks": 1,
    },
    "sinkhorn": {
        "train__steps": 6, "train__checkpoint_every": 3,
        "loss__centering": "sinkhorn", "loss__image_weight": 0.5, "loss__koleo_weight": 0.5,
        "head__norm": "batch", "head__shared": False, "optim__clip_grad": 0.5,
        "model__object_tokens": "read-only", "objects__per_image": 3,
    },
    # Which views are dropped differs with the number of ranks.
    "dropping": {
        "train__steps": 3, "model__drop_path": 0.3, "model__drop_path_kind": "dinov2",
        "model__grad_checkpointing": True, "loss__gram_weight": 0.5, "model__weights": "start.pth",
    },
    # Blocks of other classes, which `ObjectViT` takes apart in other ways.
    "parallel": {"train__steps": 2, "model__name": "vit_small_patch16_18x2_224"},
    "relative": {
        "train__steps": 2, "model__name": "beit_base_patch16_224", "model__object_tokens": "read-only",
    },
    "rotary": {
        "train__steps": 2, "model__name": "vit_small_patch16_dinov3", "model__grad_checkpointing": True,
    },
    "bf16": {"train__steps": 2, "train__precision": "bf16"},
}  # fmt: skip

FSDP = {"train__parallel": "fsdp"}
OTHERS = ("parallel", "relative", "rotary", "bf16")
RUNS: dict[tuple[str, str], dict[str, Any]] = {
    ("center", "one"): {"ranks": 1},
    # Where nothing is taken from a micro-batch alone, each rank takes its half in parts.
    ("center", "ddp 2"): {"ranks": 2, "settings": {"train__accumulate": 2}},
    ("center", "fsdp 2"): {"ranks": 2, "settings": FSDP | {"train__accumulate": 2}},
    ("center", "fsdp 4"): {"ranks": 4, "settings": FSDP},
    ("center", "fsdp 4, then fsdp 2"): {"ranks": 2, "settings": FSDP, "goes_on": "fsdp 4"},
    ("sinkhorn", "one"): {"ranks": 1},
    ("sinkhorn", "ddp 2"): {"ranks": 2},
    ("sinkhorn", "fsdp 4"): {"ranks": 4, "settings": FSDP},
    ("sinkhorn", "fsdp 4, then one"): {"ranks": 1, "goes_on": "fsdp 4"},
    ("sinkhorn", "fsdp 4, then fsdp 2"): {"ranks": 2, "settings": FSDP, "goes_on": "fsdp 4"},
    ("sinkhorn", "killed in a save, then fsdp 2"): {"ranks": 2, "settings": FSDP, "dies_saving": 1},
    ("dropping", "ddp 2"): {"ranks": 2},
    ("dropping", "fsdp 2"): {"ranks": 2, "settings": FSDP},
    **{(name, "one"): {"ranks": 1} for name in ("parallel", "relative", "rotary", "bf16")},
    **{
        (name, "fsdp 2"): {"ranks": 2, "settings": FSDP}
        for name in ("parallel", "relative", "rotary", "bf16")
    },
}
"""Which settings run on how many ranks; each is compared with the first of its settings."""


@pytest.fixture(scope="module")
def runs(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each settings, with a folder for each of their runs."""
    root = tmp_path_factory.mktemp("runs")
    weights = ModelConfig(name="vit_tiny_patch16_224", patch_size=8, embed_dim=32, depth=2, num_heads=2)
    torch.save(build_vit(weights, 32).state_dict(), root / "start.pth")
    lost: dict[str, Any] = {"ranks": 2, "settings": TINY | {"train__steps": 9, "data": str(index)}}
    jobs = [lost | {"out": str(root / kind), kind: 1} for kind in ("killed", "fails", "signalled")]
    for (settings, name), job in RUNS.items():
        given = TINY | SETTINGS[settings] | job.get("settings", {}) | {"data": str(index)}
        if "model__weights" in given:
            given["model__weights"] = str(root / given["model__weights"])
        more = {"goes_on": str(root / settings / job["goes_on"])} if "goes_on" in job else {}
        all_of_it = {"out": str(root / settings / name), "ranks": job["ranks"], "settings": given, **more}
        if "dies_saving" in job:
            jobs.append(all_of_it | {"dies_saving": job["dies_saving"]})
        jobs.append(all_of_it)
    (root / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("forked_ranks.py")
    command = [sys.executable, str(script), str(root / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    return root


@pytest.mark.parametrize("kind", ["killed", "fails"])
def test_the_others_say_who_is_gone(runs: Path, kind: str) -> None:
    """Within the time that `test_heartbeat.py` states; here the whole job ends."""
    last = (runs / kind / "said-0.txt").read_text().strip().splitlines()[-1]
    why = "is gone" if kind == "killed" else "ended: MemoryError: a fault of its own"
    who = f"rank 1 of 2, on {socket.gethostname()},"
    assert last == f"odis.errors.OdisError: {who} {why}; the same command resumes from the newest checkpoint"


def test_a_signal_to_one_rank_ends_all_after_the_same_step(runs: Path) -> None:
    out = runs / "signalled"
    for rank in range(2):
        assert (out / f"said-{rank}.txt").read_text().strip().endswith("odis.errors.Preempted")
    assert [step_of(path) for path in checkpoints(out / "checkpoints")] == [2]


def test_a_save_in_which_ranks_are_killed_leaves_the_checkpoint_before(runs: Path) -> None:
    """Its run has gone on from there to the end."""
    out = runs / "sinkhorn" / "killed in a save, then fsdp 2"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        "step-00000003.sharded", "step-00000006.sharded",
    ]  # fmt: skip


def test_a_store_that_is_gone_ends_all_ranks(image_server: Any, index: Path, tmp_path: Path) -> None:
    """The one that asked says why; the other has asked too, or hears it from that one."""
    for path in index.parent.glob("*.png"):
        (image_server.folder / path.name).write_bytes(path.read_bytes())
    image_server.fault = lambda number, path: "500" if number > 8 else ""
    given = TINY | {"train__steps": 9, "data": str(index), "root": image_server.url}
    job = {"out": str(tmp_path / "run"), "ranks": 2, "settings": given, "attempts": 2}
    (tmp_path / "jobs.json").write_text(json.dumps([job]))
    command = [sys.executable, str(Path(__file__).with_name("forked_ranks.py")), str(tmp_path / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    last = [(tmp_path / "run" / f"said-{rank}.txt").read_text().splitlines()[-1] for rank in range(2)]
    why = re.compile(
        rf"{re.escape(image_server.url)}/\d+\.png: cannot be reached: it answers with status 500"
    )
    assert all(why.search(line) for line in last), last
    assert any(line.startswith("odis.errors.UnreachableError: ") for line in last), last


def losses(out: Path) -> list[list[float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    names = [name for name in lines[0] if name.startswith("loss") or name == "grad_norm"]
    return [[line[name] for name in names] for line in lines]


FIRST = dict(reversed(RUNS))


@pytest.mark.parametrize(("settings", "name"), [run for run in RUNS if run != (run[0], FIRST[run[0]])])
def test_ranks_follow_one(runs: Path, settings: str, name: str) -> None:
    """Parts of the batch, or of the state too, on several ranks make what one process makes of all."""
    outs = [runs / settings / FIRST[settings], runs / settings / name]
    eps = 0.03 if settings == "bf16" else 2e-4
    np.testing.assert_allclose(losses(outs[1]), losses(outs[0]), rtol=eps)
    if settings == "bf16":
        return
    one, two = (load_checkpoint(checkpoints(out / "checkpoints")[-1]) for out in outs)
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
    metrics = [json.loads(line) for line in (outs[0] / "metrics.jsonl").read_text().splitlines()]
    step = sum(line["lr"] for line in metrics)  # about as far as AdamW takes a weight
    follow = sum(1 - line["momentum_teacher"] for line in metrics)  # that share of it moves the teacher
    for part, most in (("student", step), ("teacher", step * follow)):
        assert one[part].keys() == two[part].keys()
        off = torch.cat([(two[part][key] - value).abs().flatten() for key, value in one[part].items()])
        assert off.mean() < 0.01 * most, part


@pytest.mark.parametrize(("settings", "name"), [run for run in RUNS if "fsdp" in run[1].split(", ")[-1]])
def test_each_rank_holds_its_part(runs: Path, settings: str, name: str) -> None:
    """Of student, teacher and moments, after the last step: nothing stays gathered."""
    ranks = RUNS[settings, name]["ranks"]
    shares = [json.loads((runs / settings / name / f"held-{rank}.json").read_text()) for rank in range(ranks)]
    for part in ("student", "teacher", "moments"):
        assert sum(share[part] for share in shares) == pytest.approx(1)
        assert max(share[part] for share in shares) < 1.5 / ranks, part


@pytest.mark.parametrize(("settings", "name"), [run for run in RUNS if run[1].startswith("fsdp")])
def test_the_model_file_is_the_whole_teacher(runs: Path, settings: str, name: str) -> None:
    out = runs / settings / name
    backbone, _ = load_model(out / "model.safetensors")
    teacher = load_checkpoint(checkpoints(out / "checkpoints")[-1])["teacher"]
    found = backbone.state_dict()
    assert all(torch.equal(value, teacher[f"backbone.{key}"]) for key, value in found.items())


STOPPED = """
import os, signal, sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from odis.config.options import load_recipe
from odis.train import loop

init, train_step, rank = dist.init_process_group, loop.train_step, int(os.environ["RANK"])
dist.init_process_group = lambda backend, **more: init(backend, timeout=timedelta(seconds=4), **more)

def evaluate(model, config):
    time.sleep(7)  # longer than the limit of the group
    return {"score": 1.0}

def signalled(run, *given, **more):
    train_step(run, *given, **more)
    if run.step == 4 and rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)  # one rank alone

loop.train_step = signalled
settings = dict(line.split("=") for line in sys.argv[3:])
config = load_recipe("debug", data=sys.argv[1], val="x", **settings)
try:
    loop.pretrain(config, Path(sys.argv[2]), evaluate=evaluate)
except KeyboardInterrupt:
    os.write(1, f"rank {rank} stopped\\n".encode())  # at once: torchrun's ranks share one unbuffered stream
"""


def test_ranks_wait_for_an_evaluation_and_stop_together_at_a_step(index: Path, tmp_path: Path) -> None:
    """An evaluation outlasts the limit of the process group. Then a signal reaches one rank, far from any log
    line: the next step is the last one of both, and it is saved.
    """
    script, out = tmp_path / "stopped.py", tmp_path / "run"
    script.write_text(STOPPED)
    settings = TINY | {"train__steps": 500, "train__log_every": 400, "train__knn_every": 2}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(script), str(index), str(out), *[f"{name}={value}" for name, value in settings.items()]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(line for line in done.stdout.splitlines()) == ["rank 0 stopped", "rank 1 stopped"]
    assert "stopped after step 4; the same command resumes" in done.stderr
    assert load_checkpoint(checkpoints(out / "checkpoints")[-1])["step"] == 4
    scores = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert scores == [{"step": 2, "score": 1.0}]
