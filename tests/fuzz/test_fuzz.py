"""A small part of `make fuzz`: every layout as it is, and mutations of each."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from odis.objects.sources import FORMATS

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

INPUTS = 150


def test_every_format_has_a_layout() -> None:
    from fuzz.exports import ALL_SETS

    assert {one.form for one in ALL_SETS.values()} == FORMATS.keys()


def test_an_input_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    from fuzz.check import run_input

    assert run_input(90, 7, tmp_path / "a") == run_input(90, 7, tmp_path / "b")
    assert run_input(90, 8, tmp_path / "a").changes != run_input(90, 7, tmp_path / "b").changes


def test_a_hang_a_death_and_an_error_are_told_apart(tmp_path: Path) -> None:
    """The oracle: a reader that misbehaves is found out."""
    script = tmp_path / "bad.py"
    script.write_text(
        "import os, sys, time\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from odis.objects.sources import FORMATS\n"
        "real = FORMATS['folder']\n"
        "calls = Path(__file__).with_name('calls')\n"
        "def read(root, split, skip):\n"
        "    how = len(calls.read_text()) if calls.exists() else 0\n"
        "    calls.write_text('x' * (how + 1))\n"
        "    if how == 0: time.sleep(60)\n"
        "    if how == 1: os._exit(1)\n"
        "    if how == 2: {}['key']\n"
        "    found = real.read(root, split, skip)\n"
        "    return replace(found, units=[*found.units, *real.read(root, split, skip).units])\n"
        "FORMATS['folder'] = replace(real, read=read)\n"
        "if __name__ == '__main__':\n"
        "    from fuzz.__main__ import main\n"
        "    sys.exit(main())\n"
    )
    words = ["--format", "folder", "--inputs", "4", "--seconds", "3", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, str(script), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{BENCHMARKS}:{os.environ.get('PYTHONPATH', '')}"},
    )
    end = "4 inputs (0 refused), 2 tracebacks, 1 hangs, 1 counts that do not add up"
    assert done.stdout.splitlines()[-1] == end, done.stdout + done.stderr
    assert done.returncode == 1


def test_nothing_but_errors_of_odis_and_counts_that_add_up() -> None:
    from fuzz.check import run_input, scratch

    work = scratch()
    outcomes = [run_input(number, 0, work) for number in range(INPUTS)]
    shutil.rmtree(work)
    faults = [one for one in outcomes if one.fault]
    assert not faults, "\n".join(f"input {o.number} ({o.layout}): {o.changes}\n{o.said}" for o in faults[:3])
    assert 0 < sum(one.refused for one in outcomes) < INPUTS / 2
