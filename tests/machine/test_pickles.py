"""A file that holds code is refused in words of odis: torch's advise to run it."""

import pickle
from pathlib import Path

import pytest
import torch

from odis.machine.pickles import pickle_fault


class Payload:
    """Writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.write_text, (self.path, "code ran"))


def fault(path: Path) -> str:
    with pytest.raises(Exception) as refused:  # whatever torch raises
        torch.load(path, weights_only=True)
    return pickle_fault(refused.value)


def test_no_advice_to_run_the_code_is_passed_on(tmp_path: Path) -> None:
    for number, content in enumerate(
        (
            {"weights": Payload(tmp_path / "ran")},
            [torch.zeros(2), Payload(tmp_path / "ran")],
            torch.nn.Linear(2, 2),
            {"weights": {"x": eval}},
        )
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        said = fault(path)
        assert "no code of a file is run" in said
        assert "weights_only" not in said
        assert "arbitrary" not in said
    for number, data in enumerate((b"text\n", b"", pickle.dumps({"a": 1}), b"\x80\x02cos\nsystem\n.")):
        path = tmp_path / f"raw-{number}.pth"
        path.write_bytes(data)
        said = fault(path) if number != 2 else ""
        assert "weights_only" not in said
        assert "\n" not in said
    assert not (tmp_path / "ran").exists()


def test_other_errors_are_one_line() -> None:
    assert pickle_fault(RuntimeError("no\n room")) == "no room"
    assert pickle_fault(EOFError()) == "EOFError"
    assert len(pickle_fault(ValueError("x" * 999))) == 200
