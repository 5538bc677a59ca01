"""How often two random crops of an image show the same object: what distillation of whole images takes for
granted.

    python benchmarks/evidence/agreement.py INDEX [INDEX ...] --names NAME [NAME ...] --scale .08 .25 --scale
    .15 .5 --out benchmarks/evidence/results/photographs-50/agreement.json

Two crops are drawn as DINO draws them, in the aspect ratios that all runs of the study have, at each scale,
for the images of each index. An object is in a crop that shows at least half of its box, or lies half inside
it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from odis.config.training import ViewsConfig
from odis.data.geometry.crops import coverage, propose_crops
from odis.errors import DataError, OdisError
from odis.evaluation.results import write_results
from odis.objects.index import ObjectIndex

SHOWN = 0.5
"""How well a crop shows an object that is in it (`coverage`): a crop inside an object shows it whole."""

PAIRS = 20_000
"""Pairs of crops that are drawn at each scale."""


def agreement(index: ObjectIndex, scale: tuple[float, float], seed: int = 0) -> dict[str, Any]:
    """Of pairs of random crops of images with objects, in percent: `same`, those that have an object in
    common; `kept`, how many of the objects of one are in the other; and `objects`, how many one has.

    Raises:
        DataError: No image has an object.
    """
    rng = np.random.default_rng(seed)
    rows = [row for row in index if row.objects]
    if not rows:
        raise DataError(f"{index.path}: no image has an object, so that no two crops can show the same")
    each = -(-PAIRS // len(rows))
    same, both, one = 0, 0, 0
    for row in rows:
        boxes = np.array([item.box for item in row.objects])
        crops = propose_crops(rng, row.width, row.height, (each, 2), scale, ViewsConfig().ratio)
        there = coverage(crops, boxes) >= SHOWN  # (each, 2, n)
        together = there.all(axis=1)
        same += int(together.any(axis=-1).sum())
        both += int(together.sum())
        one += int(there.sum())
    pairs = each * len(rows)
    return {
        "scale": list(scale),
        "pairs": pairs,
        "same": 100 * same / pairs,
        "kept": 200 * both / max(1, one),
        "objects": one / (2 * pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", nargs="+", help="object index of the images that are trained on")
    parser.add_argument("--names", nargs="+", required=True, help="the name of each")
    parser.add_argument(
        "--scale", type=float, nargs=2, action="append", required=True, help="area of a crop, from and to"
    )
    parser.add_argument("--out", type=Path, required=True, help="figures, a JSON")
    args = parser.parse_args()
    if len(args.names) != len(args.index):
        parser.error(f"--names has {len(args.names)} for {len(args.index)} indexes")
    found = {}
    for name, path in zip(args.names, args.index):
        try:
            index = ObjectIndex.open(path)
            found[name] = {
                "images": len(index),
                "objects": index.count_objects(),
                "scales": [agreement(index, (low, high)) for low, high in args.scale],
            }
        except OdisError as error:
            sys.exit(str(error))
        print(f"{name}: measured")
    write_results(args.out, found)


if __name__ == "__main__":
    main()
