"""Small files that ask for much memory or time: each of at most 1 MB, given to the command that reads it.

    PYTHONPATH=benchmarks python -m fuzz.heavy [--gib 4] [--only NAME]

A command may refuse a file or read it. It may not end without a line, by a signal, after `--seconds`, or take
more resident memory than `--gib` in one of its processes. To hold all processes together to a limit, start
this in a control group with one; a process that the system ends for its memory is a fault then too.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
from PIL import Image

from fuzz.heavy_inputs import INPUTS, MOST, Words
from odis.objects.build import build_index


def make_world(work: Path) -> None:
    """A sound index and a sound model, beside which the inputs lie."""
    images = work / "images"
    images.mkdir()
    for k in range(3):
        Image.new("RGB", (40, 40), (k, 90, 90)).save(images / f"{k}.png")
    build_index("folder", images, work / "sound.parquet", None)
    words = ["pretrain", "--recipe", "debug", "--data", str(work / "sound.parquet"),
             "--out", str(work / "model"), "--train.steps", "1", "--train.batch_size", "2",
             "--train.device", "cpu"]  # fmt: skip
    subprocess.run([sys.executable, "-m", "odis", *words], check=True, capture_output=True)


def largest(root: Path) -> int:
    """Bytes of the largest file."""
    return max(path.stat().st_size for path in root.rglob("*") if path.is_file())


def run(words: Words, log: Path, seconds: float) -> tuple[int, float, float]:
    """Exit code (negative: a signal; -9 after so many seconds too), seconds, and peak GiB of one process."""
    began, peak = time.monotonic(), 0
    with log.open("wb") as out:
        child = subprocess.Popen([sys.executable, "-m", "odis", *words], stdout=out, stderr=out)
    while child.poll() is None:
        if time.monotonic() - began > seconds:
            child.kill()
        peak = max(peak, *map(_peak, _with_children(child.pid)))
        time.sleep(0.02)
    return child.returncode, time.monotonic() - began, peak / 2**20


def _peak(pid: int) -> int:
    """KiB that a process was resident at most, since it began; 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1])
    return 0


def _with_children(pid: int) -> list[int]:
    found = [pid]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += _with_children(int(child))
    return found


def main() -> int:
    """Give each to its command, a line each; the exit code is 1 if one took a command down."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.heavy", description=__doc__)
    parser.add_argument("--gib", type=float, default=4.0, help="resident memory of a process (default: 4)")
    parser.add_argument("--seconds", type=float, default=120.0, help="an input that takes longer is a fault")
    parser.add_argument("--only", action="append", choices=list(INPUTS), help="an input; again for more")
    options = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory(prefix="odis-heavy-") as folder:
        work = Path(folder)
        make_world(work)
        for name in options.only or INPUTS:
            root = work / name
            root.mkdir()
            words = INPUTS[name](root)
            pa.default_memory_pool().release_unused()
            size = largest(root)
            code, took, gib = run(words, work / "log", options.seconds)
            text = (work / "log").read_text(errors="replace").strip()
            last = text.splitlines()[-1][:110] if text else ""
            wrong = [
                *(["no line"] if not text else []),
                *(["a traceback"] if "Traceback (most recent call last)" in text else []),
                *([f"ended by signal {-code}"] if code < 0 else []),
                *(["too much memory"] if gib > options.gib else []),
                *([f"the input has {size:,} bytes"] if size > MOST else []),
            ]
            faults += bool(wrong)
            said = f"FAULT: {', '.join(wrong)}; {last}" if wrong else last
            print(f"{name:24} {size:9,} B {took:6.1f} s {gib:5.2f} GiB  exit {code}: {said}", flush=True)
    print(f"{len(options.only or INPUTS)} inputs of at most {MOST:,} bytes: {faults} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
