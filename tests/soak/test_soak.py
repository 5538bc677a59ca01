"""A small part of `make soak`, and its oracle: a loss is found out."""

import os
import re
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def soak(*words: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """`python -m soak` in a process of its own: it forks, and this one has threads."""
    program = f"{code}\nimport sys\nfrom soak.__main__ import main\nsys.exit(main())"
    path = f"{BENCHMARKS}:{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        timeout=400,
    )


def test_kills_lose_nothing() -> None:
    cases = ["index-parts", "pretrain"]
    done = soak("--kills", "3", *[word for name in cases for word in ("--only", name)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("of 2 commands (seed 0): 0 losses")
    assert int(done.stdout.split()[0]) == 3


def test_a_rank_killed_under_torchrun_starts_all_again_and_nothing_is_lost() -> None:
    done = soak("--kills", "1", "--only", "elastic")
    assert done.returncode == 0, done.stdout + done.stderr
    # A run may end before it is killed, and is followed by another.
    assert re.fullmatch(
        r"1 kills in \d runs of 1 commands \(seed 0\): 0 losses", done.stdout.splitlines()[-1]
    )


def test_what_is_lost_is_found_out() -> None:
    """A resume that takes one part more for done than there are. Parts take a while, so that kills fall
    between them on any machine.
    """
    code = (
        "import time\n"
        "from odis.objects.parts import Parts\n"
        "done, write = Parts.done, Parts.write\n"
        "Parts.write = lambda self, *a, **k: (write(self, *a, **k), time.sleep(0.1))[0]\n"
        "Parts.done = lambda self: (found := done(self)) | ({max(found) + 1} if found else set())\n"
    )
    done = soak("--kills", "12", "--only", "index-parts", code=code)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "index-parts, killed after" in done.stdout
