"""Checkpoints in shards: whole or absent; what is missing or damaged is one line. `test_ranks.py` tests what
several ranks write and others read.
"""

import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.tensor import Shard, distribute_tensor

from odis.cli import main
from odis.errors import ConfigError, DataError
from odis.inference.load import load
from odis.machine.ranks import Ranks
from odis.machine.shards import mesh_of
from odis.train import shard_files
from odis.train.checkpoint import (
    checkpoints,
    consolidate,
    load_checkpoint,
    newest_step,
    newest_whole,
    save_sharded,
    set_aside,
    write_checkpoint,
)  # fmt: skip
from odis.train.shard_files import STATE

HERE = Ranks(0, 1, torch.device("cpu"))
FULL = torch.arange(15.0).view(5, 3)


def state(step: int, sharded: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": sharded(FULL / 2)}}
    return {
        "step": step,
        "student": {"w": sharded(FULL + step), "b": torch.ones(2)},
        "teacher": {"w": sharded(-FULL)},
        "optimizer": {"state": moments, "param_groups": [{"betas": (0.9, 0.99), "params": [0]}]},
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with two checkpoints, and what a full disk left of a third: nothing."""
    run = tmp_path_factory.mktemp("run")
    folder = run / "checkpoints"
    dist.init_process_group("gloo", init_method=f"file://{run}/ranks", rank=0, world_size=1)
    mesh = mesh_of(HERE)

    def sharded(x: torch.Tensor) -> torch.Tensor:
        return distribute_tensor(x, mesh, [Shard(0)])

    for step in (1, 2, 3):
        save_sharded(folder, step, state(step, sharded), 2, HERE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # writing fails half-way, as on a full disk
    try:
        with pytest.raises(
            DataError, match=r"step-00000004\.sharded: cannot be written \(.*; the one before it is "
        ):
            save_sharded(folder, 4, state(4, sharded), 2, HERE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    dist.destroy_process_group()
    return run


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    """A copy, to damage."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def same(found: dict[str, Any], step: int) -> None:
    expected = state(step, lambda x: x)
    assert found["step"] == step
    assert found["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
    for part in ("student", "teacher"):
        assert found[part].keys() == expected[part].keys()
        assert all(torch.equal(found[part][key], value) for key, value in expected[part].items())
    moments, of_expected = (one["optimizer"]["state"][0] for one in (found, expected))
    assert all(torch.equal(moments[key], value) for key, value in of_expected.items())


def test_the_newest_are_kept_and_nothing_half_written(saved: Path) -> None:
    folder = saved / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000002.sharded", "step-00000003.sharded"]
    assert newest_step(folder) == 3
    same(load_checkpoint(checkpoints(folder)[-1]), 3)


def test_what_is_missing_or_foreign_is_one_line_and_the_one_before_it_is_taken(run: Path) -> None:
    before, newest = checkpoints(run / "checkpoints")
    files = sorted(newest.iterdir())
    assert [file.suffix for file in files] == [".safetensors", ".pt"]
    for file in files:
        kept = file.read_bytes()
        file.unlink()
        with pytest.raises(DataError, match=rf"not a whole checkpoint \(.*{file.name}") as error:
            load_checkpoint(newest)
        assert "\n" not in str(error.value)
        file.write_bytes(kept)
    shutil.copy(files[0], newest / "shard-00002-model-00001-of-00001.safetensors")
    with pytest.raises(DataError, match="is no shard of this checkpoint"):
        load_checkpoint(newest)
    found = newest_whole(run / "checkpoints")
    assert found is not None
    same(found.state, 2)
    assert found.path == before
    assert list(found.damaged) == [newest]
    set_aside(found.damaged)
    assert checkpoints(run / "checkpoints") == [before]
    assert (run / "checkpoints" / "step-00000003.sharded.damaged").is_dir()


@settings(max_examples=40)
@given(
    name=st.sampled_from(["shard", "state"]),
    place=st.floats(0, 1, exclude_max=True),
    flip=st.integers(1, 255),
)
def test_a_changed_byte_anywhere_is_found(saved: Path, name: str, place: float, flip: int) -> None:
    newest = checkpoints(saved / "checkpoints")[-1]
    (file,) = newest.glob(f"{name}*")
    whole = file.read_bytes()
    at = int(place * len(whole))
    try:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
        with pytest.raises(DataError, match=r"step-00000003\.sharded: not a whole checkpoint"):
            load_checkpoint(newest)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("change", ["shape", "key", "dtype", "code"])
def test_a_state_that_does_not_fit_its_shards_is_refused(
    run: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = checkpoints(run / "checkpoints")[-1]
    found: dict[str, Any] = torch.load(newest / STATE, weights_only=True)
    student = found["tree"]["student"]
    (note,) = student["w"].values()
    if change == "shape":
        note[0][0] = 10**12
    elif change == "dtype":
        note[1] = "load"
    elif change == "key":
        del student["w"]
    else:
        found["tree"]["extra"] = Evil()
    torch.save(found, newest / STATE)
    with pytest.raises(DataError, match="not a whole checkpoint"):
        load_checkpoint(newest)
    assert "code ran" not in capsys.readouterr().out


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


def test_consolidated_it_is_one_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = checkpoints(run / "checkpoints")[-1]
    for source, step in ((run, 3), (run / "checkpoints" / "step-00000002.sharded", 2)):
        main(["checkpoint", "consolidate", str(source), "--out", str(tmp_path / "one.pt")])
        assert capsys.readouterr().out == f"{tmp_path / 'one.pt'}\n"
        same(load_checkpoint(tmp_path / "one.pt"), step)
    with pytest.raises(DataError, match="odis checkpoint consolidate"):
        load(newest, device="cpu")
    for words, said in (
        ([str(run), "--out", str(tmp_path / "one.bin")], "must end in .pt"),
        ([str(tmp_path), "--out", str(tmp_path / "two.pt")], "holds no checkpoint"),
        ([str(tmp_path / "none"), "--out", str(tmp_path / "two.pt")], "no such run or checkpoint"),
    ):
        with pytest.raises(SystemExit):
            main(["checkpoint", "consolidate", *words])
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert not (tmp_path / "two.pt").exists()


def test_a_run_with_both_kinds_goes_by_steps(run: Path) -> None:
    folder = run / "checkpoints"
    write_checkpoint(folder / "step-00000005.pt", state(5, lambda x: x))
    assert newest_step(folder) == 5
    found = newest_whole(folder)
    assert found is not None
    same(found.state, 5)


def test_of_two_checkpoints_of_a_step_the_damaged_one_is_set_aside(run: Path) -> None:
    folder = run / "checkpoints"
    before, shards = checkpoints(folder)
    whole = consolidate(shards, folder / "step-00000003.pt")
    (shards / "state.pt").unlink()
    found = newest_whole(folder)
    assert found is not None
    assert found.path == whole
    set_aside(found.damaged)
    assert checkpoints(folder) == [before, whole]


def test_ranks_share_the_work_of_verifying_and_all_take_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard of a checkpoint is read once for its checksum; what the rank that reads it finds is
    everybody's finding.
    """
    folder = run / "checkpoints"
    before, newest = checkpoints(folder)
    (shard,) = newest.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    read: list[Path] = []
    crc_of = shard_files.crc_of
    monkeypatch.setattr(shard_files, "crc_of", lambda path: (read.append(path), crc_of(path))[1])
    load_checkpoint(newest, share=(1, 2))  # the other one verifies it
    assert not read
    with pytest.raises(DataError, match="checksum"):
        load_checkpoint(newest, share=(0, 2))

    answers = ["", f"{newest}: is damaged"]  # of the first rank, for the one before and for this one

    class Second(Ranks):
        """The second of two ranks, which reads no shard for its checksum here."""

        def from_first(self, value: Callable[[], Any]) -> Any:
            return value()

        def gather(self, item: Any) -> list[Any]:
            return [answers.pop(), item]

    read.clear()
    ranks = Second(1, 2, torch.device("cpu"))
    found = newest_whole(folder, ranks=ranks)
    assert found is not None
    assert found.path == before
    assert list(found.damaged) == [newest]


def test_what_a_run_has_no_place_for_is_refused(saved: Path) -> None:
    def target(name: str, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        raise ConfigError(f"{name} is not in this run")

    with pytest.raises(ConfigError, match="student/w is not in this run"):
        load_checkpoint(checkpoints(saved / "checkpoints")[-1], target=target)
