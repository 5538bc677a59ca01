"""The command: `python -m soak`. One line says what was found; the exit code is 1 if there is any."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from soak.cases import CASES, Case, make_world, model
from soak.elastic import run_elastic
from soak.process import KILLED, run

_SHOWN = 10  # faults
_MOST_RESTARTS = 8  # of one elastic run


def soak(
    kills: int, seed: int, only: Sequence[str] = (), minutes: float = math.inf
) -> tuple[Counter[str], list[str], list[float]]:
    """Kill the commands in turn, until there were as many kills or the minutes are over.

    Returns:
        Counts of `kills`, `runs` and `losses`, a line about each loss, and how many seconds each start of an
        elastic run took to its first step.
    """
    work = Path(tempfile.mkdtemp(prefix="odis-soak-"))
    counts: Counter[str] = Counter()
    faults: list[str] = []
    began: list[float] = []
    try:
        make_world(work)
        assert run(model(work), work / "log") == 0, (work / "log").read_text()
        undisturbed: dict[str, tuple[dict[str, Any], float]] = {}
        cases = {name: CASES[name] for name in only or CASES}
        rng = np.random.default_rng(seed)
        until = time.monotonic() + 60 * minutes
        while counts["kills"] < kills and time.monotonic() < until:
            for name, case in cases.items():
                if counts["kills"] >= kills or time.monotonic() >= until:
                    break
                if name not in undisturbed:
                    undisturbed[name] = _undisturbed(name, case, work)
                fault, seconds = _kill(name, case, work, undisturbed[name], rng, counts, kills, began)
                undisturbed[name] = (undisturbed[name][0], seconds)
                if fault:
                    faults.append(fault)
                    counts["losses"] += 1
                print(
                    f"{name}: {counts['kills']} kills, {counts['losses']} losses", file=sys.stderr, flush=True
                )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return counts, faults, began


def _undisturbed(name: str, case: Case, work: Path) -> tuple[dict[str, Any], float]:
    """What the command writes, and in how many seconds."""
    out = work / "undisturbed" / name
    out.mkdir(parents=True)
    start = time.monotonic()
    code = run(case.words(work, out), work / "log", ranks=case.ranks)
    took = time.monotonic() - start
    assert code == 0, f"{name}: {code}: {(work / 'log').read_text()[-2000:]}"
    if case.elastic:  # kills come in training alone, of which a later start has less
        again, rng = work / "undisturbed-elastic", np.random.default_rng(0)
        again.mkdir()
        words = case.words(work, again)
        took = run_elastic(words, work / "log", ranks=case.ranks, seconds=0, kills=0, rng=rng).trained * 0.7
    return case.content(out), took


def _kill(
    name: str,
    case: Case,
    work: Path,
    undisturbed: tuple[dict[str, Any], float],
    rng: np.random.Generator,
    counts: Counter[str],
    most: int,
    began: list[float],
) -> tuple[str, float]:
    """Kill a command at random moments until it ends by itself.

    Returns:
        What is wrong then, and in how many seconds the command ends at most: less than before if it was never
        killed and took less, since moments after its end kill nothing.
    """
    expected, seconds = undisturbed
    out, log = work / "killed" / name, work / "log"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    log.unlink(missing_ok=True)
    counts["runs"] += 1
    at: list[float] = []
    start = time.monotonic()
    if case.elastic:
        left, words = min(_MOST_RESTARTS, most - counts["kills"]), case.words(work, out)
        elastic = run_elastic(words, log, ranks=case.ranks, seconds=seconds, kills=left, rng=rng)
        code, at = elastic.code, elastic.killed
        counts["kills"] += len(at)
        began += elastic.began
    while not case.elastic:
        after = float(rng.uniform(0, 1.1 * seconds)) if counts["kills"] < most and len(at) < 8 else None
        start = time.monotonic()
        code = run(case.words(work, out), log, ranks=case.ranks, after=after)
        if code != KILLED:
            break
        counts["kills"] += 1
        at.append(round(after or 0, 3))
    took = seconds if at or case.elastic else min(seconds, time.monotonic() - start)
    where = f"{name}, killed after {', '.join(map(str, at)) or 'nothing'} s"
    where += " of training" if case.elastic else ""
    if code:
        said = log.read_text(errors="replace").strip().splitlines()[-1:]
        return f"{where}: ended with {code}: {said[0] if said else ''}", took
    try:
        found = case.content(out)
    except Exception as error:
        return f"{where}: {type(error).__name__}: {error}", took
    wrong = [key for key in {*expected, *found} if expected.get(key) != found.get(key)]
    if not wrong:
        return "", took
    shown = {
        key: (expected.get(key), found.get(key)) for key in wrong if not isinstance(found.get(key), bytes)
    }
    return f"{where}: other {', '.join(sorted(wrong)[:4])}: {str(shown)[:600]}", took


def main() -> int:
    """Kill, and say what was lost."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(CASES), help="a command; again for more")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after so many")
    options = parser.parse_args()
    counts, faults, began = soak(options.kills, options.seed, options.only or (), options.minutes)
    print(*faults[:_SHOWN], sep="\n", end="\n" if faults else "")
    if began:
        print(
            f"{len(began)} elastic starts logged their first step after {np.median(began):.1f} s (median; "
            f"{min(began):.1f} to {max(began):.1f}), and were killed after it"
        )
    print(
        f"{counts['kills']} kills in {counts['runs']} runs of {len(options.only or CASES)} commands "
        f"(seed {options.seed}): {counts['losses']} losses"
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
