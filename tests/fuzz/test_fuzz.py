"""A small part of `make fuzz`: every layout as it is, and mutations of each."""

import os
import subprocess
import sys
from pathlib import Path

from odis.objects.sources import FORMATS

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

INPUTS = 150


def test_every_format_has_a_layout() -> None:
    from fuzz.sets import SETS

    assert {one.form for one in SETS.values()} == FORMATS.keys()


def test_an_input_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    from fuzz.check import run_input

    assert run_input(40, 7, tmp_path / "a") == run_input(40, 7, tmp_path / "b")
    assert run_input(40, 8, tmp_path / "a").changes != run_input(40, 7, tmp_path / "b").changes


def test_a_hang_a_death_and_an_error_are_told_apart(tmp_path: Path) -> None:
    """The oracle: a reader that misbehaves is found out."""
    script = tmp_path / "bad.py"
    script.write_text(
        "import os, sys, time\n"
        "from dataclasses import replace\n"
        "from odis.objects.sources import FORMATS\n"
        "real = FORMATS['folder']\n"
        "def read(root, split, skip):\n"
        "    n = len(list(root.rglob('*')))\n"
        "    if os.environ['HOW'] == 'hang': time.sleep(60)\n"
        "    if os.environ['HOW'] == 'die': os._exit(1)\n"
        "    if os.environ['HOW'] == 'raise': {}['key']\n"
        "    found = real.read(root, split, skip)\n"
        "    return replace(found, units=[*found.units, *real.read(root, split, skip).units])\n"
        "FORMATS['folder'] = replace(real, read=read)\n"
        "if __name__ == '__main__':\n"
        "    from fuzz.__main__ import main\n"
        "    sys.exit(main())\n"
    )
    ends = {
        "hang": "0 tracebacks, 1 hangs, 0 counts that do not add up",
        "die": "1 tracebacks, 0 hangs, 0 counts that do not add up",
        "raise": "1 tracebacks, 0 hangs, 0 counts that do not add up",
        "twice": "0 tracebacks, 0 hangs, 1 counts that do not add up",
    }
    for how, end in ends.items():
        environment = {
            **os.environ,
            "PYTHONPATH": f"{BENCHMARKS}:{os.environ.get('PYTHONPATH', '')}",
            "HOW": how,
        }
        words = [
            sys.executable,
            str(script),
            "--format",
            "folder",
            "--inputs",
            "1",
            "--seconds",
            "3",
            "--workers",
            "1",
        ]
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        assert done.stdout.splitlines()[-1].endswith(end), (how, done.stdout, done.stderr)
        assert done.returncode == 1


def test_nothing_but_errors_of_odis_and_counts_that_add_up(tmp_path: Path) -> None:
    from fuzz.check import run_input

    outcomes = [run_input(number, 0, tmp_path / "work") for number in range(INPUTS)]
    faults = [one for one in outcomes if one.fault]
    assert not faults, "\n".join(f"input {o.number} ({o.layout}): {o.changes}\n{o.said}" for o in faults[:3])
    assert 0 < sum(one.refused for one in outcomes) < INPUTS / 2
