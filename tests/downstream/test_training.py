"""The loop: resumed bit for bit, layer decay on every parameter, frozen means frozen, nothing silent."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from odis.config.query import ReadConfig
from odis.downstream import training
from odis.downstream.classification import ClassificationTask
from odis.downstream.detection import DetectionTask
from odis.downstream.semantic import SemanticTask
from odis.downstream.settings import ClassificationSettings, DetectionData, IndexedData, SemanticSettings
from odis.downstream.starts import Start, open_starts
from odis.downstream.task import Task
from odis.errors import DataError, OdisError
from odis.evaluation.protocols.segmentation.segmented_settings import SegmentedData
from odis.machine.ranks import Ranks
from odis.train.checkpoint import checkpoints
from odis.train.optim import NEW_TOKENS
from odis.train.stop import stop_signals

QUICK = {
    "steps": 4, "batch": 2, "warm_up": 1, "checkpoint_every": 2, "log_every": 3, "resamples": 5, "lr": 1e-2,
    "read": ReadConfig(device="cpu"),
}  # fmt: skip


@pytest.fixture(scope="module")
def start(model) -> Start:
    return open_starts([model])[0]


@pytest.fixture(scope="module")
def tasks(squares, tiny) -> Callable[..., Task]:
    """Makes a task by name, on squares."""
    indexes = squares / "indexes" / "train.parquet", squares / "indexes" / "test.parquet"
    folders = str(squares / "classes" / "train"), str(squares / "classes" / "val")

    def make(name: str, **more: object) -> Task:
        quick = QUICK | more
        if name == "semantic":
            return SemanticTask(
                SegmentedData(train=str(squares), test=str(squares)),
                SemanticSettings(**{"size": 32, "channels": 8} | quick),
            )
        if name == "classification":
            return ClassificationTask(
                IndexedData(*folders), ClassificationSettings(**{"size": 32, "head_steps": 1} | quick)
            )
        data = DetectionData(*map(str, indexes))
        return DetectionTask(data, replace(tiny.detection, **quick), masks=name == "instances")

    return make


@pytest.fixture
def train(tiny, start) -> Callable[..., Path]:
    """Trains from one starting point by one seed, in a folder."""

    def run(task: Task, folder: Path, **read: object) -> Path:
        here, stop = tiny.one_rank()
        training.finetune_start(task, start, 0, folder, tiny.reading(**read), here, stop)
        return folder

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "answers.safetensors")}


def lines(folder: Path) -> list[dict]:
    """metrics.jsonl without what differs from machine to machine."""
    rows = [json.loads(one) for one in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("images_per_second", "data_wait", "seconds_left", "memory_gib")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


@pytest.mark.parametrize("name", ["detection", "instances", "semantic", "classification"])
def test_a_killed_training_resumes_bit_for_bit(name, tasks, train, tmp_path, monkeypatch):
    """Killed in the step after a checkpoint that lies between two lines of the log."""
    task = tasks(name)
    whole = train(task, tmp_path / "whole")
    step = training._step

    def killed(run, samples, log):
        step(run, samples, log)
        if run.step == 3:
            raise SystemExit(137)

    monkeypatch.setattr(training, "_step", killed)
    with pytest.raises(SystemExit):
        train(task, tmp_path / "cut")
    assert [p.name for p in checkpoints(tmp_path / "cut" / "checkpoints")] == ["step-00000002.pt"]
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    monkeypatch.setattr(training, "_step", step)
    again = train(task, tmp_path / "cut")
    assert content(again) == content(whole)
    assert lines(again) == lines(whole)
    # What is done is not done again.
    before = (again / "model.safetensors").stat().st_mtime_ns
    train(task, again)
    assert (again / "model.safetensors").stat().st_mtime_ns == before


def test_sigterm_saves_the_state_and_the_same_call_resumes(tasks, train, tmp_path, monkeypatch, start, tiny):
    task = tasks("classification")
    whole = train(task, tmp_path / "whole")
    step = training._step

    def stopped(run, samples, log):
        step(run, samples, log)
        if run.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training, "_step", stopped)
    here = Ranks(0, 1, torch.device("cpu"))
    with stop_signals(here) as stop, pytest.raises(KeyboardInterrupt):
        training.finetune_start(task, start, 0, tmp_path / "cut", tiny.reading(), here, stop)
    assert [p.name for p in checkpoints(tmp_path / "cut" / "checkpoints")] == ["step-00000001.pt"]
    monkeypatch.setattr(training, "_step", step)
    assert content(train(task, tmp_path / "cut")) == content(whole)


def test_a_damaged_checkpoint_is_set_aside_and_none_that_is_whole_is_one_line(
    tasks, train, tmp_path, monkeypatch
):
    task = tasks("classification")
    whole = train(task, tmp_path / "run")
    (path,) = checkpoints(whole / "checkpoints")
    expected = content(whole)
    for name in ("model.safetensors", "answers.safetensors"):
        (whole / name).unlink()
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match="not a whole checkpoint") as error:
        train(task, whole)
    assert "\n" not in str(error.value)
    path.unlink()
    assert content(train(task, whole)) == expected
    torch.save({"step": 3}, whole / "checkpoints" / "step-00000009.pt")
    (whole / "answers.safetensors").unlink()
    train(task, whole)
    assert (whole / "checkpoints" / "step-00000009.pt.damaged").exists()


@pytest.mark.parametrize("name", ["instances", "semantic", "classification"])
def test_layer_decay_reaches_every_parameter_by_its_depth(name, tasks, start, tiny, tmp_path):
    """ViTDet's rule, written out: embeddings decay^(n + 1), block i decay^(n - i), all else 1."""
    run = training.build(tasks(name, layer_decay=0.5), start, 0, tmp_path, tiny.reading())
    factors = {id(p): g["lr_factor"] for g in run.optimizer.param_groups for p in g["params"]}
    named = {n: factors.pop(id(p)) for n, p in run.module.named_parameters() if p.requires_grad}
    assert not factors
    seen = Counter()
    for parameter, factor in named.items():
        part, _, rest = parameter.partition(".")
        if part != "backbone":
            expected, kind = 1.0, "head"
        elif rest.startswith("blocks."):
            expected, kind = 0.5 ** (2 - int(rest.split(".")[1])), "block"
        elif rest.split(".")[0] in ("patch_embed", "pos_embed", "cls_token"):
            expected, kind = 0.5**3, "embedding"
        else:
            assert rest.split(".")[0] in {"norm", *NEW_TOKENS}, f"{parameter}: no rule is written for it"
            expected, kind = 1.0, "last"
        assert factor == expected, parameter
        seen[kind] += 1
    assert seen["embedding"] == 4
    assert min(seen[kind] for kind in ("head", "block", "last")) > 0


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["instances", "semantic", "classification"])
def test_a_frozen_backbone_does_not_change_and_a_trained_one_does(name, tasks, train, start, tmp_path):
    more = {"head_steps": 0} if name == "classification" else {}
    frozen = state_of(train(tasks(name, frozen=True, steps=2, **more), tmp_path / "frozen"))
    trained = state_of(train(tasks(name, steps=2, **more), tmp_path / "trained"))
    start_state = {f"backbone.{key}": value for key, value in start.weights.items()}
    assert start_state.keys() <= frozen.keys()
    assert all(torch.equal(frozen[key], value) for key, value in start_state.items())
    for key in ("backbone.blocks.1.attn.qkv.weight", "backbone.pos_embed", "backbone.norm.weight"):
        assert not torch.equal(trained[key], start_state[key]), key
    assert torch.equal(trained["backbone.mask_token"], start_state["backbone.mask_token"])
    assert [key for key in frozen if not key.startswith("backbone.")]


def test_the_head_alone_learns_first(tasks, start, tiny, tmp_path):
    """Also in a step that is resumed: what trains is a function of the step."""
    task = tasks("classification", head_steps=2, warm_up=0)
    run = training.build(task, start, 0, tmp_path, tiny.reading())
    moved = []
    quiet = type("Log", (), {"warn": print, "nonfinite": print})()
    for step in range(4):
        before = {n: p.detach().clone() for n, p in run.module.named_parameters()}
        training._step(run, [task.samples(8, 0, 2 * step, 2)[i] for i in range(2)], quiet)
        after = dict(run.module.named_parameters())
        moved.append(
            tuple(not torch.equal(after[n], before[n]) for n in ("head.weight", "backbone.norm.weight"))
        )
    assert moved == [(True, False), (True, False), (True, True), (True, True)]


def test_heads_are_those_of_the_seed_whatever_the_start(tasks, model, tiny, tmp_path):
    task = tasks("semantic")
    one, other = (
        training.build(task, start, 3, tmp_path, tiny.reading()).module.head.state_dict()
        for start in open_starts([model, "random"])
    )
    assert all(torch.equal(one[key], value) for key, value in other.items())


def test_what_cannot_be_read_is_named_or_with_strict_refused(tasks, train, tmp_path, capsys):
    task = tasks("detection", steps=6)
    folder = train(task, tmp_path / "run")
    (skipped,) = [json.loads(one) for one in (folder / "skipped.jsonl").read_text().splitlines()]
    assert skipped["what"].endswith("broken.png")
    assert "broken.png: is not an image" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(DataError, match=r"broken\.png: is not an image"):
        train(task, tmp_path / "strict", strict=True)


@pytest.mark.parametrize("name", ["detection", "semantic", "classification"])
def test_steps_that_are_not_finite_are_not_taken_and_end_it(name, tasks, train, tmp_path, monkeypatch):
    task = tasks(name, steps=20)
    losses = type(task).losses

    def broken(self, module, samples, start, device):
        return {k: v * float("nan") for k, v in losses(self, module, samples, start, device).items()}

    monkeypatch.setattr(type(task), "losses", broken)
    with pytest.raises(OdisError, match="5 steps in a row were not finite; no checkpoint was written yet"):
        train(task, tmp_path / "run")
    named = [json.loads(one) for one in (tmp_path / "run" / "nonfinite.jsonl").read_text().splitlines()]
    assert [one["step"] for one in named] == [1, 2, 3, 4, 5]
    assert all(path.endswith(".png") for one in named for path in one["images"])
    assert not list((tmp_path / "run").rglob("*.pt"))
    assert not (tmp_path / "run" / "model.safetensors").exists()
