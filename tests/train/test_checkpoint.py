import resource
from pathlib import Path

import pytest
import torch

from odis.errors import DataError
from odis.method.step import Centers
from odis.train.checkpoint import checkpoints, load_checkpoint, newest_step, save_checkpoint

STATE = {"step": 3, "student": {"w": torch.arange(4.0)}, "teacher": {}, "optimizer": {}}


def test_round_trip_and_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        save_checkpoint(tmp_path, step, STATE | {"step": step}, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000015.pt", "step-00000020.pt"]
    loaded = load_checkpoint(checkpoints(tmp_path)[-1])
    assert loaded["step"] == 20
    assert torch.equal(loaded["student"]["w"], STATE["student"]["w"])


def test_a_failed_save_leaves_the_previous_one_and_nothing_half_written(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, STATE, keep=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # writing fails half-way, as on a full disk
    try:
        with pytest.raises(
            DataError,
            match=r"step-00000002\.pt: cannot be written \(File too large\); the one before it is whole "
            r"\(step-00000001\.pt\)$",
        ):
            save_checkpoint(tmp_path, 2, STATE | {"student": {"w": torch.zeros(100_000)}}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001.pt"]
    assert newest_step(tmp_path) == 1
    assert newest_step(tmp_path / "none") == 0


def test_a_leftover_of_a_kill_is_not_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, STATE, keep=1)
    (tmp_path / "step-00000002.tmp").write_bytes(b"half")
    assert len(checkpoints(tmp_path)) == 1


def test_a_checkpoint_of_before_the_new_spelling_is_read(tmp_path: Path) -> None:
    """It held `centres`, with a buffer `centre` for each kind of token."""
    kinds = ("objects", "patches", "image")
    new = {f"{kind}.center": torch.rand(1, 8) for kind in kinds}
    old = {name.replace("center", "centre"): value for name, value in new.items()}
    loaded = load_checkpoint(save_checkpoint(tmp_path, 3, STATE | {"centres": old}, keep=1))
    assert loaded.keys() == STATE.keys() | {"centers"}
    Centers(8, 0.9).load_state_dict(loaded["centers"])
    assert all(torch.equal(loaded["centers"][name], value) for name, value in new.items())


@pytest.mark.parametrize("cut", [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, cut: float) -> None:
    path = save_checkpoint(tmp_path, 1, STATE, keep=1)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut if cut >= 1 else cut * len(whole))])
    with pytest.raises(DataError, match=r"step-00000001\.pt: not a whole checkpoint"):
        load_checkpoint(path)


class Evil:
    def __reduce__(self) -> tuple:
        return (print, ("code ran",))


def test_loading_executes_no_code(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "step-00000001.pt"
    torch.save(STATE | {"extra": Evil()}, path)
    with pytest.raises(DataError):
        load_checkpoint(path)
    assert "code ran" not in capsys.readouterr().out


def test_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.pt"
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="not an odis checkpoint"):
        load_checkpoint(path)
