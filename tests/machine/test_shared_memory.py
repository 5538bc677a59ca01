"""How much shared memory there is, and whether processes can open sockets to each other."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from odis.machine import shared_memory as module
from odis.machine.shared_memory import SharedMemory, mebibytes, shared_memory, socket_fault


def test_it_is_what_the_file_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    state, there = os.statvfs(tmp_path), shared_memory()
    assert there is not None
    assert there.total == state.f_blocks * state.f_frsize
    assert 0 < there.free <= there.total
    assert str(SharedMemory(64 * 2**20, 3 * 2**19)) == f"{tmp_path} has 64 MiB, of which 1.5 MiB are free"


def test_a_folder_that_is_missing_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLDER", tmp_path / "none")
    assert shared_memory() == SharedMemory(0, 0)
    assert str(shared_memory()) == f"{tmp_path / 'none'} is missing"
    monkeypatch.setattr(module, "FOLDER", tmp_path / "no" / "such")  # as on a system that has no /dev
    assert shared_memory() is None


@pytest.mark.parametrize(("count", "words"), [(2**20, "1.0 MiB"), (64 * 2**20, "64 MiB"), (0, "0.0 MiB")])
def test_bytes_in_words(count: int, words: str) -> None:
    assert mebibytes(count) == words


def fault(tmpdir: Path) -> str:
    """What a process that starts with this temporary folder says."""
    code = "from odis.machine.shared_memory import socket_fault; print(socket_fault())"
    environment = os.environ | {"TMPDIR": str(tmpdir)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_path_that_is_too_long_for_a_socket_is_found_out() -> None:
    """The bound is multiprocessing's own: the longest folder that is taken lets it listen, one more does
    not.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        outcomes = {}
        for length in range(70, 96):
            folder = Path(base) / ("x" * (length - len(base) - 1))
            folder.mkdir()
            code = (
                "from multiprocessing import connection, util; from odis.machine.shared_memory import *\n"
                "said = socket_fault()\n"
                "try: connection.Listener(None, 'AF_UNIX').close(); print(said is None)\n"
                "except OSError: print(said is not None)"
            )
            if length in (70, 78, 79, 80, 81, 82, 83, 84, 85, 95):
                done = subprocess.run(
                    [sys.executable, "-c", code],
                    env=os.environ | {"TMPDIR": str(folder)},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                outcomes[length] = done.stdout.strip()
        assert set(outcomes.values()) == {"True"}, outcomes
        assert "too long for a socket" in fault(folder)


def test_no_temporary_folder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    assert socket_fault() is None
    monkeypatch.setattr(module.util, "get_temp_dir", none)
    assert socket_fault() == "no temporary folder can be written (No usable temporary directory found)"
