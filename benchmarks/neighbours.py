"""Memory and speed of the k-NN at the sizes people evaluate at.

    python benchmarks/neighbours.py [--train 10000 100000 1280000] [--queries 50000] [--json FILE]

For each number of train vectors, `NearestNeighbours` finds the k nearest of every query while the train
vectors stream past in fp16 chunks, as the encoder makes them; peak resident memory is that of a process of
its own, with the test features and the answers in it.

Speed is measured against the plain loop: the same tiles of `torch.mm`, then `topk` of each tile and of what
is kept. Both see the same chunks, one after the other, in every round; the ratio is the median over rounds. A
stream of random vectors is hard for neither and easy for neither: what the k-NN saves it saves once the k
nearest so far are better than most of what comes, so the ratio is that of a later chunk; the first is given
too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from odis.evaluation import neighbours
from odis.evaluation.neighbours import NearestNeighbours, vote

CLASSES = 1000


def chunk(rows: int, width: int, seed: int) -> Tensor:
    """Train vectors as they would come from an encoder: float16, with a few directions that all share."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(CLASSES, (rows,), generator=rng)
    return (centres[labels] + 2 * torch.randn(rows, width, generator=rng)).half()


def resident_mib(name: str) -> float:
    """`VmRSS` or `VmHWM` (the peak) of this process."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 2**10


def measure_memory(train: int, args: argparse.Namespace) -> dict[str, float]:
    """Peak memory of one whole evaluation of `train` vectors, above what Python and torch take, and its
    seconds.
    """
    before = resident_mib("VmRSS")
    start = time.perf_counter()
    found = NearestNeighbours(chunk(args.queries, args.width, 0).float(), args.k, args.device)
    for i in range(0, train, args.chunk):
        found.add(chunk(min(args.chunk, train - i), args.width, 2 + i))
    similarity, rows = found.read()
    vote(similarity, rows % CLASSES, [args.k], temperature=0.07, classes=CLASSES)
    if torch.device(args.device).type == "cuda":
        return {
            "peak_mib": torch.cuda.max_memory_allocated() / 2**20,
            "base_mib": 0.0,
            "seconds": time.perf_counter() - start,
        }
    return {"peak_mib": resident_mib("VmHWM"), "base_mib": before, "seconds": time.perf_counter() - start}


def plain(
    test: Tensor, train: Tensor, values: Tensor, rows: Tensor, first: int, k: int
) -> tuple[Tensor, Tensor]:
    """The loop everybody writes: `mm` and `topk` tile by tile, then `topk` of the old and the new."""
    all_values, all_rows = [], []
    for start in range(0, len(test), neighbours._TEST_CHUNK):
        at = slice(start, start + neighbours._TEST_CHUNK)
        new_values, new_rows = torch.mm(test[at], train.T).topk(min(k, len(train)), dim=1)
        kept_values, kept_rows = (
            torch.cat([values[at], new_values], 1),
            torch.cat([rows[at], new_rows + first], 1),
        )
        best = kept_values.topk(min(k, kept_values.shape[1]), dim=1)
        all_values.append(best.values)
        all_rows.append(kept_rows.gather(1, best.indices))
    return torch.cat(all_values), torch.cat(all_rows)


def measure_speed(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of each chunk, by the k-NN and by the plain loop, in turns."""
    device, rows = torch.device(args.device), neighbours._TRAIN_CHUNK
    test = chunk(args.speed_queries, args.width, 0).float()
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    found, unit = NearestNeighbours(test, args.k, device), normalize(test, dim=1).to(device)
    values, places = (
        torch.empty(len(test), 0, device=device),
        torch.empty(len(test), 0, dtype=torch.int64, device=device),
    )
    seconds: list[dict[str, Any]] = []
    for i in range(args.chunks):
        train = chunk(rows, args.width, 2 + i)
        took = {}
        for name in ("odis", "plain") if i % 2 else ("plain", "odis"):
            wait()
            start = time.perf_counter()
            if name == "odis":
                found.add(train)
            else:
                values, places = plain(
                    unit, normalize(train.to(device, torch.float32), dim=1), values, places, i * rows, args.k
                )
            wait()
            took[name] = time.perf_counter() - start
        seconds.append({"chunk": i, **took, "ratio": took["plain"] / took["odis"]})
    assert torch.allclose(found.read()[0], values, atol=1e-5), "both must find the same"
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--train", type=int, nargs="+", default=[10_000, 100_000, 1_280_000], help="numbers of train vectors"
    )
    parser.add_argument("--queries", type=int, default=50_000, help="test vectors (default: 50000)")
    parser.add_argument("--width", type=int, default=384, help="D (default: 384)")
    parser.add_argument("--k", type=int, default=20, help="neighbours (default: 20)")
    parser.add_argument(
        "--chunk", type=int, default=16_384, help="train vectors that come at once (default: 16384)"
    )
    parser.add_argument(
        "--chunks", type=int, default=15, help="chunks of the speed measurement (default: 15)"
    )
    parser.add_argument(
        "--speed-queries",
        type=int,
        default=4096,
        help="test vectors of the speed measurement (default: 4096)",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(json.dumps(measure_memory(args.memory_of, args)))
        return

    speed = measure_speed(args)
    later = [s["ratio"] for s in speed[len(speed) // 3 :]]
    memory = []
    for train in args.train:
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--memory-of", str(train)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"measuring {train} train vectors failed:\n{done.stderr}")
        memory.append({"train": train, **json.loads(done.stdout.splitlines()[-1])})
    table = Table(title=f"k-NN of {args.queries:,} queries, {args.width} wide, k = {args.k}, {args.device}")
    for column in ("train vectors", "peak memory", "of it Python and torch", "seconds"):
        table.add_column(column, justify="right")
    for m in memory:
        table.add_row(
            f"{m['train']:,}", f"{m['peak_mib']:,.0f} MiB", f"{m['base_mib']:,.0f} MiB", f"{m['seconds']:.0f}"
        )
    console = Console(width=110)
    console.print(table)
    median = statistics.median(later)
    console.print(
        f"speed against mm + topk on the same chunks of {neighbours._TRAIN_CHUNK:,} (above 1: faster): "
        f"first chunk {speed[0]['ratio']:.2f}, later chunks {median:.2f} (median of {len(later)}, "
        f"{min(later):.2f} to {max(later):.2f})"
    )
    if args.json:
        setting = {
            k: str(v) if isinstance(v, Path) else v
            for k, v in vars(args).items()
            if k not in ("json", "memory_of")
        }
        figures = {
            **setting,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "memory": memory,
            "speed": speed,
        }
        args.json.write_text(json.dumps({**figures, "later_chunks_ratio": median}, indent=2) + "\n")


if __name__ == "__main__":
    main()
