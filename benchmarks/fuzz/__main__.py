"""The command: `python -m fuzz`. Its last line says what was found; the exit code is 1 if there is any."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from fuzz.check import run_input, scratch
from fuzz.pool import run_inputs

FAULTS = {"traceback": "tracebacks", "hang": "hangs", "counts": "counts that do not add up"}

_SHOWN = 20  # faults, one of each kind


def main() -> int:
    """Run the inputs, show a fault of each kind, and say how many there are."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", default=None, help="only layouts of this format")
    parser.add_argument(
        "--only", type=int, default=None, help="one input, by its number, and what came of it"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="an input that takes longer hangs")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.only is not None:
        work = scratch()
        outcome = run_input(options.only, options.seed, work, options.format)
        print(f"{outcome.layout} in {work}", *outcome.changes, outcome.said or "sound", sep="\n")
        return bool(outcome.fault)
    found: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    numbers = range(options.inputs)
    for outcome in run_inputs(
        numbers, options.seed, workers=options.workers, seconds=options.seconds, form=options.format
    ):
        found["inputs"] += 1
        found["refused"] += outcome.refused
        if not outcome.fault:
            continue
        found[outcome.fault] += 1
        kind = "\n".join(outcome.said.strip().splitlines()[-3:])
        shown[kind] += 1
        if shown[kind] == 1 and len(shown) <= _SHOWN:
            print(
                f"--- {outcome.fault}, input {outcome.number} ({outcome.layout})", *outcome.changes, sep="\n"
            )
            print(outcome.said.strip(), flush=True)
    faults = ", ".join(f"{found[name]} {noun}" for name, noun in FAULTS.items())
    print(f"{found['inputs']:,} inputs ({found['refused']:,} refused), {faults}")
    return any(found[name] for name in FAULTS)


if __name__ == "__main__":
    sys.exit(main())
