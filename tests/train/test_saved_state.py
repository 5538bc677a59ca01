"""What is kept of a run whose steps stop being finite, and how it goes on."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from odis.backbones.build import build_vit
from odis.config.options import load_recipe
from odis.errors import ConfigError, DataError, OdisError, Preempted
from odis.inference import load
from odis.machine.locks import sole_owner
from odis.objects.index import write_index
from odis.train import loop, update
from odis.train.checkpoint import checkpoints, consolidate, load_checkpoint, step_of
from odis.train.run_folder import read_config
from odis.train.saved_state import filled_backbone
from odis.types import ImageObjects, Object

TINY: dict[str, Any] = {
    "views__global_size": 32, "views__local_size": 16, "views__local_views": 1, "model__embed_dim": 32,
    "model__depth": 1, "model__num_heads": 2, "head__prototypes": 24, "head__hidden": 20,
    "head__bottleneck": 12, "train__batch_size": 4, "train__device": "cpu", "loader__workers": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / f"{i}.png")
        rows.append(ImageObjects(f"{i}.png", 48, 40, (Object((4.0, 5.0, 30.0, 30.0)),)))
    write_index(root / "index.parquet", rows, root=root, provenance="annotated", classes=[])
    return str(root / "index.parquet")


def pretrain(data: str, out: Path, restart_from: int | None = None, **more: Any) -> Path:
    return loop.pretrain(load_recipe("debug", data=data, **TINY | more), out, restart_from=restart_from)


def steps(out: Path) -> list[int]:
    return [step_of(path) for path in checkpoints(out / "checkpoints")]


def poison_losses(monkeypatch: pytest.MonkeyPatch, poisoned: set[int]) -> None:
    """Make the loss of some steps NaN."""
    compute, train_step, current = update.compute_losses, loop.train_step, [0]

    def losses(*args: Any) -> Any:
        found = compute(*args)
        return replace(found, total=found.total * float("nan")) if current[0] in poisoned else found

    def noted(run: loop.TrainState, micro_batches: list, **more: Any) -> None:
        current[0] = run.step + 1
        train_step(run, micro_batches, **more)

    monkeypatch.setattr(update, "compute_losses", losses)
    monkeypatch.setattr(loop, "train_step", noted)


def poison_centers(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """From a step on the teacher's centers are NaN, so no loss is ever finite again; not even after a resume
    from such a state.
    """
    train_step = loop.train_step

    def poisoned(run: loop.TrainState, micro_batches: list, **more: Any) -> None:
        train_step(run, micro_batches, **more)
        if run.step == at:
            for value in run.centers.state_dict().values():
                value.fill_(float("nan"))

    monkeypatch.setattr(loop, "train_step", poisoned)


def test_a_streak_of_bad_steps_leaves_the_good_states(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint a step, two kept: the streak would push all good ones out."""
    poison_centers(monkeypatch, at=4)
    settings = {"train__steps": 30, "train__nonfinite_limit": 6, "train__checkpoint_every": 1}
    with pytest.raises(OdisError, match=r"6 steps in a row .*step-00000003\.pt; .*--restart-from 3 .*0\.000"):
        pretrain(index, tmp_path, **settings, train__keep=2)
    assert steps(tmp_path) == [2, 3]
    for path in checkpoints(tmp_path / "checkpoints"):
        state = load_checkpoint(path)
        assert all(t.isfinite().all() for part in ("student", "centers") for t in state[part].values())
    assert load(tmp_path).card["step"] == 3, "what is published is good as well"


def test_a_restart_goes_on_with_other_settings_once(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    settings = {"train__steps": 8, "train__checkpoint_every": 2, "train__keep": 9}
    pretrain(index, tmp_path / "straight", **settings)
    run, lower = tmp_path / "run", {"optim__base_lr": 1e-5}
    pretrain(index, run, **settings)
    with pytest.raises(ConfigError, match=r"optim\.base_lr: .* -> 1e-05"):
        pretrain(index, run, **settings, **lower)
    with pytest.raises(ConfigError, match=r"restart-from: .*no checkpoint of step 3; .* 2, 4, 6"):
        pretrain(index, run, 3, **settings, **lower)
    with pytest.raises(ConfigError, match=r"model\.drop_path: 0\.0 -> 0\.5"):
        pretrain(index, run, 4, **settings, **lower, model__drop_path=0.5)
    assert steps(run) == [2, 4, 6, 8], "a refusal changes nothing"
    consolidate(run, run / "checkpoints" / "step-00000008.pt")
    (run / "checkpoints" / "step-00000008.sharded").mkdir()  # a step may have both kinds
    with monkeypatch.context() as patch:  # killed on the way
        patch.setattr(loop, "train_step", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            pretrain(index, run, 4, **settings, **lower)
    assert steps(run) == [2, 4]
    pretrain(index, run, 4, **settings, **lower)
    assert steps(run) == [2, 4, 6, 8]
    capsys.readouterr()
    pretrain(index, run, 4, **settings, **lower)
    assert "the run is complete" in capsys.readouterr().err, "the same command resumes"
    assert read_config(run)["restarts"][-1]["changed"] == {"optim.base_lr": [0.0005, 1e-5]}
    states = [load_checkpoint(checkpoints(out / "checkpoints")[-1]) for out in (run, tmp_path / "straight")]
    rates = [state["optimizer"]["param_groups"][0]["lr"] for state in states]
    assert 0 < rates[0] < rates[1]


def test_a_signal_in_the_evaluation_of_a_complete_run_is_the_same_as_in_any(
    index: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The run was killed before the scores of its last step were written."""
    config = load_recipe("debug", data=index, **TINY, train__steps=2, train__checkpoint_every=0)
    loop.pretrain(config, tmp_path / "run")

    def evaluate(*_: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGUSR1)
        return {"score": 1.0}

    with pytest.raises(Preempted):
        loop.pretrain(config, tmp_path / "run", evaluate=evaluate)
    assert "stopped after step 2; the same command resumes" in capsys.readouterr().err
    loop.pretrain(config, tmp_path / "run", evaluate=lambda *_: {"score": 2.0})
    assert "the run is complete (2 steps)" in capsys.readouterr().err
    assert '{"step": 2, "score": 2.0}' in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "beit_base_patch16_224",
        "vit_small_patch16_dinov3",
        "vit_small_patch16_18x2_224",
    ],
)
def test_a_backbone_is_filled_without_drawing_or_copying_weights(name: str) -> None:
    """What it computes is the same, so that no buffer is forgotten which is not among its weights."""
    tokens = "read-only" if name.startswith("beit") else "single"
    given = TINY | {"model__name": name, "model__patch_size": 8, "model__num_heads": 2}
    config = load_recipe("debug", data="x", **given, model__object_tokens=tokens)
    views = config.views
    backbone = build_vit(config.model, views.global_size, drop_path=0.0, channels=views.channels).eval()
    state = backbone.state_dict()
    before = torch.get_rng_state()
    found = filled_backbone(config, backbone, state)
    assert torch.equal(torch.get_rng_state(), before), "nothing is drawn"
    assert all(value.data_ptr() == state[key].data_ptr() for key, value in found.state_dict().items())
    assert not any(x.is_meta for x in (*found.parameters(), *found.buffers()))
    images = torch.rand(2, 3, views.global_size, views.global_size)
    with torch.no_grad():
        assert torch.equal(found(images).patches, backbone(images).patches)


def test_a_folder_without_a_run_cannot_be_restarted(index: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"restart-from: .*holds no run"):
        pretrain(index, tmp_path, 2)


def test_a_last_step_that_is_not_taken_ends_the_run_all_the_same(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison_losses(monkeypatch, {4})
    pretrain(index, tmp_path, train__steps=4)
    assert steps(tmp_path) == [4]
    assert all(torch.isfinite(t).all() for t in load(tmp_path).model.state_dict().values())


def test_a_run_that_ends_in_weights_that_are_not_finite_publishes_nothing(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison_centers(monkeypatch, at=3)
    with pytest.raises(OdisError, match=r"the run ends in weights that are not finite; .*step-00000002"):
        pretrain(index, tmp_path, train__steps=4, train__checkpoint_every=1)
    assert load(tmp_path).card["step"] == 2


def test_a_run_has_one_owner(index: str, tmp_path: Path) -> None:
    with sole_owner(tmp_path / "run", inside=True):
        with pytest.raises(DataError, match="another call in this process is writing it"):
            pretrain(index, tmp_path / "run", train__steps=1)
        assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"], "nothing was written"


def test_what_killed_processes_left_in_a_run_is_neither_in_the_way_nor_kept(
    index: str, tmp_path: Path
) -> None:
    (tmp_path / ".config.yaml.0123abcd.partial").write_text("of a disk that was full")
    pretrain(index, tmp_path, train__steps=1)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))
    left = [".tmpAbc123", "config.tmp", "checkpoints/step-00000007.tmp"]
    left += ["checkpoints/.step-00000002.pt.0123abcd.partial", ".model.safetensors.0123abcd.partial"]
    for name in left:
        (tmp_path / name).write_bytes(b"left")
    mine = tmp_path / ".tmp-mine.txt"
    mine.write_text("not odis's")
    pretrain(index, tmp_path, train__steps=1)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p != mine) == names


def log_lines(out: Path) -> list[dict[str, Any]]:
    timing = {"images_per_second", "data_wait", "seconds_left", "memory_gib"}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timing} for line in lines]


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


def killed_after(step: int) -> Any:
    """A training step that is the last thing the process does, if it is that of `step`."""
    train_step = loop.train_step

    def last(run: loop.TrainState, micro_batches: list, **more: Any) -> None:
        if run.step == step:
            raise Killed
        train_step(run, micro_batches, **more)

    return last


@pytest.mark.parametrize("at", [3, 4, 8])
def test_an_interval_that_was_interrupted_logs_the_same_mean(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Checkpoints and log lines fall on different steps; the run is killed one step after a checkpoint."""
    settings = {"train__steps": 9, "train__log_every": 4, "train__checkpoint_every": at - 1}
    pretrain(index, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", killed_after(at))
        with pytest.raises(Killed):
            pretrain(index, tmp_path / "killed", **settings)
    pretrain(index, tmp_path / "killed", **settings)
    assert log_lines(tmp_path / "killed") == log_lines(tmp_path / "whole")
    assert [line["step"] for line in log_lines(tmp_path / "whole")] == [4, 8, 9]


@pytest.mark.parametrize("every", [2, 3])
def test_scores_are_written_once_whenever_the_run_is_killed(index: str, tmp_path: Path, every: int) -> None:
    """Killed in each evaluation, before its line or after; steps 2, 4 and 6 have checkpoints."""
    config = load_recipe(
        "debug", data=index, val=index, **TINY, train__steps=6, train__checkpoint_every=2,
        train__knn_every=every,
    )  # fmt: skip
    left = [True] * 4

    def evaluate(model: Any, _: Any) -> dict[str, float]:
        if left and left.pop():
            raise Killed
        return {"score": float(sum(value.double().sum() for value in model.state_dict().values()))}

    kills = 0
    while True:
        try:
            loop.pretrain(config, tmp_path / "killed", evaluate=evaluate)
            break
        except Killed:
            kills += 1
    assert kills == 4
    left = []
    whole = loop.pretrain(config, tmp_path / "again", evaluate=evaluate)
    assert log_lines(tmp_path / "killed") == log_lines(whole)
    assert [line["step"] for line in log_lines(whole) if "score" in line] == [*range(every, 7, every)]


def test_sums_of_other_ranks_are_shared_out() -> None:
    """Two ranks wrote the state, one goes on: it has the mean of both."""
    state = [{"sums": {"loss": torch.tensor(value)}, "counts": {"loss": 2}} for value in (3.0, 5.0)]
    meters = update.Meters()
    meters.load_state_dict(state, 0, torch.device("cpu"))
    meters.add({"loss": torch.tensor(1.0)})
    assert meters.means() == {"loss": pytest.approx((3 + 5) / 2 / 3 + 1 / 3)}
