"""How long the explorer takes to find neighbours, at the sizes people search.

    python benchmarks/explore.py [--objects 10000 100000 1000000] [--width 384] [--threads 2] [--json FILE]

Random unit vectors in parts of 1,000, as an index is embedded. Each question is a new random vector, without
the objects of one image, as the page asks. Measured is `ObjectSearch.nearest`, without the network;
processor time of all threads beside it tells what a busy machine adds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from odis.explorer.search import ObjectSearch

PART, NEAREST, OBJECTS_AN_IMAGE = 1000, 12, 5


def measure(objects: int, width: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of questions to so many objects."""
    rng = torch.Generator().manual_seed(0)
    search = ObjectSearch()
    for start in range(0, objects, PART):
        numbers = torch.arange(start, min(start + PART, objects))
        search.add(torch.randn(len(numbers), width, generator=rng), numbers // OBJECTS_AN_IMAGE, numbers)
    taken: list[float] = []
    computing: list[float] = []
    for k in range(rounds + 2):
        query = torch.randn(width, generator=rng)
        clock, cores = time.perf_counter(), time.process_time()
        found = search.nearest(query, NEAREST, other_than=k)
        taken.append(1000 * (time.perf_counter() - clock))
        computing.append(1000 * (time.process_time() - cores))
        assert len(found) == min(NEAREST, max(0, objects - OBJECTS_AN_IMAGE))
    taken, computing = taken[2:], computing[2:]  # the first touch the memory
    return {
        "objects": objects,
        "width": width,
        "megabytes": objects * width * 4 / 1e6,
        "median_ms": statistics.median(taken),
        "slowest_ms": max(taken),
        "processor_ms": statistics.median(computing),
    }


def main() -> None:
    """Measure, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [measure(count, args.width, args.rounds) for count in args.objects]
    table = Table(title=f"The {NEAREST} nearest of random objects, {args.threads} threads")
    for name in ("objects", "width", "MB", "median ms", "slowest ms", "processor ms"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = (f"{row[name]:.1f}" for name in ("megabytes", "median_ms", "slowest_ms", "processor_ms"))
        table.add_row(f"{row['objects']:,}", str(row["width"]), *figures)
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"threads": args.threads, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
