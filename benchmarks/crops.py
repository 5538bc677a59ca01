"""Cost of object-aware crops: all candidates drawn at once, against torchvision's crops drawn one after the
other.

    python benchmarks/crops.py [--json FILE]

Both follow the same rule and have the same distribution (tests/data/test_crops.py); both are timed here in
one run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torchvision.transforms import RandomResizedCrop

from odis.data.geometry.crops import coverage, object_aware_crops

WIDTH, HEIGHT, RATIO = 500, 375, (3 / 4, 4 / 3)
# name: box, views, scale, min_coverage
CASES = {
    "2 global, ordinary object": ((120.0, 90.0, 260.0, 210.0), 2, (0.25, 1.0), 0.5),
    "2 global, all of the object": ((120.0, 90.0, 260.0, 210.0), 2, (0.25, 1.0), 1.0),
    "2 global, object that no crop contains": ((0.0, 180.0, 500.0, 190.0), 2, (0.25, 1.0), 1.0),
    "2 global, whole image": ((0.0, 0.0, 500.0, 375.0), 2, (0.25, 1.0), 0.5),
    "10 local, any overlap": ((120.0, 90.0, 260.0, 210.0), 10, (0.05, 0.25), 0.0),
    "10 local, tiny object": ((120.0, 90.0, 126.0, 96.0), 10, (0.05, 0.25), 0.0),
}


def one_after_the_other(
    box: np.ndarray, views: int, scale: tuple[float, float], min_coverage: float, candidates: int
) -> np.ndarray:
    """The rule as written: draw, look, draw again."""
    image = torch.empty(1).expand(3, HEIGHT, WIDTH)  # get_params reads its size only
    chosen = []
    for _ in range(views):
        best, most = np.zeros(4, dtype=np.int64), -1.0
        for _ in range(candidates):
            top, left, h, w = RandomResizedCrop.get_params(image, list(scale), list(RATIO))
            crop = np.array([left, top, left + w, top + h])
            share = float(coverage(crop, box))
            if share > most:
                best, most = crop, share
            if share >= min_coverage and share > 0:
                best = crop
                break
        chosen.append(best)
    return np.stack(chosen)


def microseconds(call: Callable[[], object], seconds: float) -> float:
    """Median over repeats of the time of one call."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 20:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--candidates", type=int, default=20, help="crops drawn a view (default: 20)")
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each figure (default: 1)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    rows = []
    for name, (corners, views, scale, min_coverage) in CASES.items():
        box, rng = np.array(corners), np.random.default_rng(0)
        rule = {"scale": scale, "ratio": RATIO, "min_coverage": min_coverage, "candidates": args.candidates}
        # Both are called before the loop goes on.
        at_once = microseconds(
            lambda: object_aware_crops(rng, WIDTH, HEIGHT, box, views, **rule),  # noqa: B023
            args.seconds,
        )
        in_turn = microseconds(
            lambda: one_after_the_other(box, views, scale, min_coverage, args.candidates),  # noqa: B023
            args.seconds,
        )
        rows.append(
            {
                "case": name,
                "at_once_us": at_once,
                "one_after_the_other_us": in_turn,
                "ratio": in_turn / at_once,
            }
        )

    table = Table(
        title=f"Object-aware crops of a {WIDTH} x {HEIGHT} image, {args.candidates} candidates a view: µs "
        f"an image (median)"
    )
    table.add_column("case")
    for column in ("all at once", "one after the other", "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["case"],
            f"{row['at_once_us']:.0f}",
            f"{row['one_after_the_other_us']:.0f}",
            f"{row['ratio']:.1f}",
        )
    Console(width=110).print(table)
    if args.json:
        args.json.write_text(
            json.dumps({"candidates": args.candidates, "image": [WIDTH, HEIGHT], "cases": rows}, indent=2)
            + "\n"
        )


if __name__ == "__main__":
    main()
