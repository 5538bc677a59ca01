"""The loop around the step: what is not finite, what is skipped, interrupted, finished, damaged; what is
logged.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from odis.cli import main
from odis.config.options import load_recipe
from odis.errors import OdisError
from odis.objects import rle
from odis.objects.index import write_index
from odis.train import loop, update
from odis.train.checkpoint import checkpoints, load_checkpoint
from odis.types import ImageObjects, Object

TINY: dict[str, Any] = {
    "views.global_size": 32,
    "views.local_size": 16,
    "views.local_views": 1,
    "model.embed_dim": 32,
    "model.depth": 1,
    "model.num_heads": 2,
    "head.prototypes": 24,
    "head.hidden": 20,
    "head.bottleneck": 12,
    "train.batch_size": 4,
    "train.device": "cpu",
    "train.checkpoint_every": 0,
    "loader.workers": 0,
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    """12 images of two classes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / f"{i}.png")
        rows.append(ImageObjects(f"{i}.png", 48, 40, (Object((4.0, 5.0, 30.0, 30.0), label=i % 2),)))
    write_index(root / "index.parquet", rows, root=root, provenance="annotated", classes=["a", "b"])
    return str(root / "index.parquet")


def options(data: str, out: Path, **more: Any) -> list[str]:
    settings = TINY | {name.replace("__", "."): value for name, value in more.items()}
    return [
        "--data",
        data,
        "--out",
        str(out),
        "--recipe",
        "debug",
        *[f"--{name}={value}" for name, value in settings.items()],
    ]


def pretrain(data: str, out: Path, evaluate: Any = None, **more: Any) -> Path:
    settings = {name.replace(".", "__"): value for name, value in TINY.items()} | more
    return loop.pretrain(load_recipe("debug", data=data, **settings), out, evaluate=evaluate)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def signal_after(step: int, number: int = signal.SIGINT) -> Iterator[None]:
    """The signal reaches this process at the end of a step."""
    train_step = loop.train_step

    def interrupted(run: loop.TrainState, *args: Any, **more: Any) -> None:
        train_step(run, *args, **more)
        if run.step == step:
            os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", interrupted)
        yield


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line with which the command line refuses."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1, error
    return error[0]


# --- losses that are not finite
# ---------------------------------------------------------------------------------------------------------


class Poison:
    """Makes the loss of given steps NaN, and notes the state after every step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: set[int], value: float = float("nan")) -> None:
        self.states: dict[int, dict[str, torch.Tensor]] = {}
        self.paths: dict[int, list[str]] = {}
        compute, train_step, current = update.compute_losses, loop.train_step, [0]

        def poisoned(*args: Any) -> Any:
            losses = compute(*args)
            return replace(losses, total=losses.total * value) if current[0] in steps else losses

        def noted(run: loop.TrainState, micro_batches: list, **more: Any) -> None:
            current[0] = run.step + 1
            train_step(run, micro_batches, **more)
            self.paths[run.step] = [path for batch in micro_batches for path in batch.paths]
            moments = {
                f"{i}/{k}": v for i, s in run.optimizer.state_dict()["state"].items() for k, v in s.items()
            }
            tensors = (
                run.student.state_dict()
                | {f"teacher/{k}": v for k, v in run.teacher.state_dict().items()}
                | moments
            )
            self.states[run.step] = {k: v.clone() for k, v in (tensors | run.centers.state_dict()).items()}

        monkeypatch.setattr(update, "compute_losses", poisoned)
        monkeypatch.setattr(loop, "train_step", noted)

    def moved(self, step: int) -> bool:
        """Whether the step changed a student weight or a moment of the optimiser."""
        before, after = self.states[step - 1], self.states[step]
        learnt = [k for k in after if k.startswith(("backbone.", "head.")) or "/exp_avg" in k or "/step" in k]
        return any(not torch.equal(before[k], after[k]) for k in learnt)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_whose_loss_is_not_finite_is_not_taken_and_its_images_are_named(
    index: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    value: float,
    precision: str,
) -> None:
    poison = Poison(monkeypatch, {3, 5, 6}, value)
    pretrain(index, tmp_path, train__steps=8, train__nonfinite_limit=3, train__precision=precision)
    assert [step for step in range(2, 9) if not poison.moved(step)] == [3, 5, 6]
    assert all(t.isfinite().all() for t in poison.states[8].values())
    warned = [line for line in capsys.readouterr().err.splitlines() if "not finite" in line]
    assert [line.split(":")[1].strip() for line in warned] == ["step 3", "step 5", "step 6"]
    for line, number in zip(warned, (3, 5, 6)):
        assert line.startswith("warning: ")
        assert all(path in line for path in poison.paths[number])
    assert lines(tmp_path / "nonfinite.jsonl") == [{"step": s, "images": poison.paths[s]} for s in (3, 5, 6)]
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl") if line["loss"] is None] == [3, 5, 6]


def test_the_first_micro_batch_counts_in_fp16_too(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Its scaler leaves the step out in any case; the point is that it is named."""
    compute, calls = update.compute_losses, []

    def poisoned(*args: Any) -> Any:
        calls.append(1)
        losses = compute(*args)
        return (
            replace(losses, total=losses.total * float("nan")) if len(calls) == 3 else losses
        )  # the first half of step 2

    monkeypatch.setattr(update, "compute_losses", poisoned)
    pretrain(index, tmp_path, train__steps=3, train__precision="fp16", train__accumulate=2)
    assert [line["step"] for line in lines(tmp_path / "nonfinite.jsonl")] == [2]
    assert capsys.readouterr().err.count("step 2: loss or gradient is not finite") == 1


def test_too_many_in_a_row_stop_the_run_and_the_last_good_checkpoint_is_named(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    Poison(monkeypatch, {4, 6, 7, 8, 9})
    settings = {"train__steps": 12, "train__nonfinite_limit": 3, "train__checkpoint_every": 5}
    with pytest.raises(OdisError, match="3 steps in a row were not finite") as stop:
        pretrain(index, tmp_path, **settings)
    good = tmp_path / "checkpoints" / "step-00000005.pt"
    assert f"the last good state is {good};" in str(stop.value)
    state = load_checkpoint(good)
    assert all(t.isfinite().all() for t in state["student"].values())
    monkeypatch.undo()
    assert "after step 5" in refuse_nothing(capsys, options(index, tmp_path, **settings))
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == list(range(1, 13))


def refuse_nothing(capsys: pytest.CaptureFixture, arguments: list[str]) -> str:
    """What a `pretrain` that succeeds says."""
    capsys.readouterr()
    main(["pretrain", *arguments])
    return capsys.readouterr().err


def test_the_count_of_steps_in_a_row_survives_a_resume(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train__steps": 9, "train__nonfinite_limit": 4, "train__checkpoint_every": 1}
    poison = Poison(monkeypatch, set(range(2, 99)))
    with signal_after(3), pytest.raises(KeyboardInterrupt):
        pretrain(index, tmp_path, **settings)
    with pytest.raises(OdisError, match="4 steps in a row"):
        pretrain(index, tmp_path, **settings)
    assert max(poison.states) <= 6, "stopped at step 5, or one later, since the device is asked a step behind"


def test_without_a_checkpoint_it_says_so(index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Poison(monkeypatch, {1, 2})
    with pytest.raises(OdisError, match="2 steps in a row were not finite; no checkpoint was written yet"):
        pretrain(index, tmp_path, train__steps=2, train__nonfinite_limit=2)
    assert not checkpoints(tmp_path / "checkpoints"), "the state is not saved on the way out"


# --- ends and beginnings
# ------------------------------------------------------------------------------------------------------------


def test_complete_run_called_again_says_so_and_changes_nothing(
    index: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = options(index, tmp_path, train__steps=2)
    assert f"done: {tmp_path / 'model.safetensors'}" in refuse_nothing(capsys, arguments)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "config.yaml"}
    assert refuse_nothing(capsys, arguments) == f"{tmp_path}: the run is complete (2 steps)\n"
    assert {
        p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "config.yaml"
    } == before


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_aloud(
    index: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = options(index, tmp_path, train__steps=4, train__checkpoint_every=2)
    refuse_nothing(capsys, arguments)
    folder = tmp_path / "checkpoints"
    before, newest = checkpoints(folder)
    losses = [line["loss"] for line in lines(tmp_path / "metrics.jsonl")]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    said = refuse_nothing(capsys, arguments)
    assert f"warning: {newest}: not a whole checkpoint (is damaged" in said
    assert f"the run goes on from {before.name}\n" in said
    assert "resumed after step 2" in said
    assert [line["loss"] for line in lines(tmp_path / "metrics.jsonl")] == losses
    assert [p.name for p in sorted(folder.iterdir())] == [before.name, newest.name, f"{newest.name}.damaged"]
    for path in checkpoints(folder):
        path.write_bytes(path.read_bytes()[:1000])
    line = refused(capsys, "pretrain", *arguments)
    assert line.startswith(f"odis pretrain: {newest}: not a whole checkpoint")
    assert line.endswith(f"no other is whole: remove {folder} to begin again")


def test_checkpoint_of_another_model_is_one_line(
    index: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = options(index, tmp_path, train__steps=2)
    refuse_nothing(capsys, arguments)
    newest = checkpoints(tmp_path / "checkpoints")[-1]
    state = load_checkpoint(newest)
    state["student"].pop("backbone.norm.weight")
    torch.save(state | {"odis_version": "0.0.9"}, newest)
    line = refused(capsys, "pretrain", *arguments)
    assert f"{newest}: does not fit the run's settings (odis 0.0.9 wrote it" in line


def test_ctrl_c_saves_exits_with_130_and_the_same_command_resumes(
    index: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = options(
        index,
        tmp_path,
        train__steps=150,
        model__depth=8,
        model__embed_dim=96,
        train__threads=1,
        loader__workers=2,
    )
    command = [sys.executable, "-m", "odis", "pretrain", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while (
        not (metrics.exists() and metrics.read_text().count("\n") >= 3)
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):  # no worker is left
        os.killpg(process.pid, 0)
    (newest,) = checkpoints(tmp_path / "checkpoints")
    step = load_checkpoint(newest)["step"]
    assert said.splitlines()[-1] == f"stopped after step {step}; the same command resumes"
    assert lines(metrics)[-1]["step"] == step

    with (
        signal_after(step + 3, signal.SIGTERM),
        pytest.raises(SystemExit) as end,
    ):  # a scheduler's way to say the same
        main(["pretrain", *arguments])
    assert end.value.code == 130
    assert f"resumed after step {step}" in capsys.readouterr().err
    assert [line["step"] for line in lines(metrics)] == list(range(1, step + 4))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "handlers are put back"


# --- what is logged
# ------------------------------------------------------------------------------------------------------------


def test_knn_is_logged_when_asked_and_at_the_end(
    index: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    refuse_nothing(
        capsys, [*options(index, tmp_path / "often", train__steps=5, train__knn_every=2), "--val", index]
    )
    logged = lines(tmp_path / "often" / "metrics.jsonl")
    knn = {line["step"]: line for line in logged if "loss" not in line}
    assert list(knn) == [2, 4, 5]
    assert all(set(line) == {"step", "knn/masked-attention@12", "knn/crop@12"} for line in knn.values())
    assert all(0 <= line["knn/crop@12"] <= 100 for line in knn.values())
    said = refuse_nothing(capsys, [*options(index, tmp_path / "end", train__steps=3), "--val", index])
    assert "step 3/3  knn/masked-attention@12 " in said
    assert [line["step"] for line in lines(tmp_path / "end" / "metrics.jsonl") if "loss" not in line] == [3]


def test_knn_leaves_training_as_it_is(index: str, tmp_path: Path) -> None:
    def losses(out: Path) -> list[float]:
        return [line["loss"] for line in lines(out / "metrics.jsonl") if "loss" in line]

    def evaluate(model: Any, config: Any) -> dict[str, float]:
        torch.rand(5)
        assert not model.training
        return {"score": 1.0}

    settings = {"train__steps": 4, "model__drop_path": 0.3}
    pretrain(index, tmp_path / "a", **settings)
    pretrain(index, tmp_path / "b", evaluate, **settings, val="x", train__knn_every=1)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_an_evaluation_that_fails_is_said_and_training_goes_on(
    index: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def evaluate(model: Any, config: Any) -> dict[str, float]:
        raise OdisError("features hold values that are not finite")

    pretrain(index, tmp_path / "run", evaluate, train__steps=3, val="x", train__knn_every=2)
    said = " ".join(capsys.readouterr().err.split())
    for at in (2, 3):
        assert (
            f"warning: step {at}: the evaluation during training failed: features hold values that are "
            f"not finite" in said
        )
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_skipped_files_are_named_once_and_counted_also_over_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(np.full((40, 40, 3), 50 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    names = ["bad.png", "odd [red]name.png"]  # rich would take the second for its markup
    for name in names:
        (folder / name).write_bytes((folder / "1.png").read_bytes()[:60])
    out = tmp_path / "run"
    with signal_after(6), pytest.raises(KeyboardInterrupt):
        pretrain(str(folder), out, train__steps=9)
    said = capsys.readouterr().err
    for name in names:
        assert said.count(f"warning: skipped {folder / name}: ") == 1
    pretrain(str(folder), out, train__steps=9)
    said = capsys.readouterr().err
    assert "warning" not in said
    assert said.endswith("; 2 files or objects skipped, named in skipped.jsonl\n")
    found = lines(out / "skipped.jsonl")
    assert sorted(record["what"] for record in found) == sorted(str(folder / name) for name in names)
    assert all(set(record) == {"step", "what", "why"} and "cannot be" in record["why"] for record in found)
    metrics = lines(out / "metrics.jsonl")
    for line in metrics:
        assert line["skipped"] == sum(record["step"] <= line["step"] for record in found)
    assert metrics[-1]["skipped"] == 2


def test_tensorboard_events_are_written_when_asked(index: str, tmp_path: Path) -> None:
    pretrain(index, tmp_path / "without", train__steps=3)
    assert not (tmp_path / "without" / "tensorboard").exists()
    pretrain(
        index, tmp_path / "with", train__steps=3, train__loggers=["tensorboard"], train__pictures_every=2
    )
    events = EventAccumulator(str(tmp_path / "with" / "tensorboard")).Reload()
    assert {"loss", "lr", "teacher_entropy", "images_per_second"} <= set(events.Tags()["scalars"])
    pictures = {name: [e.step for e in events.Images(name)] for name in events.Tags()["images"]}
    assert pictures == {"views": [2], "attention": [2]}
    losses = [[x["loss"] for x in lines(tmp_path / run / "metrics.jsonl")] for run in ("with", "without")]
    assert losses[0] == losses[1]  # pictures leave training as it is
    written = lines(tmp_path / "with" / "metrics.jsonl")
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (x["step"], pytest.approx(x["loss"])) for x in written
    ]


def test_data_that_cannot_be_read_at_all_stops_at_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").touch()
    for workers in (0, 2):
        with pytest.raises(SystemExit) as stop:
            main(
                [
                    "pretrain",
                    *options(str(folder), tmp_path / str(workers), train__steps=2, loader__workers=workers),
                ]
            )
        assert stop.value.code == 2
        _, line = capsys.readouterr().err.splitlines()  # what it was about to do, then why not
        assert line.startswith(
            f"odis pretrain: {folder}: none of its 3 images can be used; {folder / '0.jpg'}: is empty"
        )


def test_large_photographs_are_worth_a_word(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Once, and only where they would be read from their files more than twice."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(2):
        small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        small.resize((1800, 1200), Image.Resampling.BICUBIC).save(folder / f"{k}.jpg")

    def said(name: str, **more: Any) -> int:
        main(
            [
                "pretrain",
                *options(str(folder), tmp_path / name, **({"train.batch_size": 2, "train.steps": 3} | more)),
            ]
        )
        return capsys.readouterr().err.count("--loader.keep '[disk:DIR]'")

    assert said("plain") == 1
    assert said("copies", **{"loader.keep": f"[disk:{tmp_path / 'copies'}]"}) == 0
    assert said("cache", **{"loader.keep": "[memory]"}) == 0
    assert said("short", **{"train.steps": 2}) == 0


def test_a_margin_that_widens_nothing_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Masks that objects have of their own are widened as boxes of their components alone."""
    Image.new("RGB", (48, 40)).save(tmp_path / "0.png")
    square = Object((4.0, 5.0, 30.0, 30.0))
    masked = replace(square, mask=rle.encode(np.eye(40, 48, dtype=bool)))

    def told(name: str, *objects: Object, **more: Any) -> bool:
        path = tmp_path / f"{name}.parquet"
        rows = [ImageObjects("0.png", 48, 40, objects)] * 4
        write_index(path, rows, root=tmp_path, provenance="annotated", classes=[])
        main(["pretrain", *options(str(path), tmp_path / name, train__steps=1, **more)])
        return "views.mask_margin 1 does nothing here" in capsys.readouterr().err

    assert told("masks", masked, views__mask_margin=1)
    assert not told("no-margin", masked)
    assert not told("a-box", masked, square, views__mask_margin=1)
    assert not told("components", masked, views__mask_margin=1, **{"views.mask_shape": "component-boxes"})
