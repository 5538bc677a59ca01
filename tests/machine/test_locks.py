"""A lock has one owner, and ends with its process; also if that is killed."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from odis.errors import DataError, OdisWarning
from odis.machine.locks import lock_file, sole_owner

CODE = """
import os, sys
from odis.machine.locks import sole_owner
with sole_owner(sys.argv[1]):
    if os.fork() == 0:  # as a worker process; it lives on
        print(os.getpid(), flush=True)
        sys.stdin.read()
        os._exit(0)
    os.wait()
"""


@contextmanager
def other_owner(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a child that owns `path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()  # the child ends too
        process.kill()
        process.wait()


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    with other_owner(out) as process:
        said = rf"x\.parquet: .*\(process {process.pid} on .*\)"
        with pytest.raises(DataError, match=said) as refused, sole_owner(out):
            raise AssertionError("two owners")
        assert "\n" not in str(refused.value)
        process.kill()
        process.wait()
        with sole_owner(out):  # its child lives and does not hold it
            assert lock_file(out).read_text().startswith(f"process {os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


def test_a_second_call_in_this_process_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with sole_owner(tmp_path / "x.json"):
        with pytest.raises(DataError, match="another call in this process"), sole_owner(tmp_path / "x.json"):
            raise AssertionError("two owners")
        with sole_owner(tmp_path / "y.json"), sole_owner(tmp_path / "x.json", "2-of-2"):
            pass  # other things have other owners
        assert lock_file(tmp_path / "x.json").exists()
    with sole_owner(tmp_path / "x.json"):
        pass


def test_a_lock_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner ends between our opening the file and our locking it: we would hold what nobody sees."""
    path, lockf, gone = lock_file(tmp_path / "x"), fcntl.lockf, []

    def slow(handle: int, how: int) -> None:
        if not gone:
            gone.append(path.unlink())
        lockf(handle, how)

    monkeypatch.setattr(fcntl, "lockf", slow)
    with sole_owner(tmp_path / "x"):
        assert path.exists()


def test_folders_made_for_a_lock_go_if_nothing_is_written(tmp_path: Path) -> None:
    with sole_owner(tmp_path / "a" / "run", inside=True):
        assert (tmp_path / "a" / "run" / ".lock").exists()
    assert list(tmp_path.iterdir()) == []
    with sole_owner(tmp_path / "a" / "run", inside=True):
        (tmp_path / "a" / "run" / "config.yaml").write_text("")
    assert [p.name for p in (tmp_path / "a" / "run").iterdir()] == ["config.yaml"]


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.warns(OdisWarning, match="this file system has no locks"), sole_owner(tmp_path / "x"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="may write everywhere")
def test_a_folder_that_takes_no_file_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be"), sole_owner(tmp_path / "x"):
        pass
