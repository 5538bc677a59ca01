"""A folder is there whole or not at all."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from odis.errors import DataError
from odis.machine.folders import check_new_folder, written_folder


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path: Path):
    with written_folder(tmp_path / "a" / "out") as folder:
        (folder / "in").mkdir()
        (folder / "in" / "x").write_text("x")
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "in" / "x").read_text() == "x"
    assert os.listdir(tmp_path / "a") == ["out"]
    assert (tmp_path / "a" / "out").stat().st_mode == (tmp_path / "a").stat().st_mode


def test_an_empty_folder_is_filled_and_another_refused(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with written_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("x")
    with pytest.raises(DataError, match="out: is not empty; give a new or empty folder"):
        check_new_folder(tmp_path / "out")
    with pytest.raises(DataError, match="x: is a file"), written_folder(tmp_path / "out" / "x"):
        pass
    with pytest.raises(DataError, match="cannot be written"):
        check_new_folder(tmp_path / "out" / "x" / "y")


def test_nothing_stays_of_one_that_failed(tmp_path: Path):
    def fail() -> None:
        with written_folder(tmp_path / "out") as folder:
            (folder / "x").write_text("x")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert os.listdir(tmp_path) == []


def test_leftovers_of_a_killed_process_are_removed_and_those_of_a_living_one_stay(tmp_path: Path):
    code = (
        "import sys, time\nfrom odis.machine.folders import written_folder\n"
        "with written_folder(sys.argv[1]) as f:\n (f / 'x').write_text('x'); print('in', flush=True)\n"
        " time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "in\n"
        with written_folder(tmp_path / "out") as folder:
            (folder / "y").write_text("y")
        (alive,) = (p for p in tmp_path.iterdir() if p.name.startswith("."))
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while alive.exists() and time.monotonic() < deadline:
            (tmp_path / "out" / "y").unlink(missing_ok=True)
            with written_folder(tmp_path / "out") as folder:
                (folder / "y").write_text("z")
    finally:
        process.kill()
    assert os.listdir(tmp_path) == ["out"]
