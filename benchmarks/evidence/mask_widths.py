"""How wide a mask should be when a network is asked: object k-NN of kept backbones, by masks of several
widths.

    python benchmarks/evidence/mask_widths.py benchmarks/evidence/results/photographs-50 --train TRAIN --test
    TEST [--only ibot.100k odis-read-only-all.100k]

The networks are what they are; only the patches differ that stand for an object: those of which it covers all
or half (of what it covers most), any that it touches, and a ring of patches more. Figures are written to
FOLDER/widths.json after each backbone; what is measured already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measure import RATIO, WINDOW, knn_of

from odis.errors import OdisError
from odis.evaluation.results import write_results
from odis.inference import load
from odis.objects.index import ObjectIndex

WIDTHS: dict[str, tuple[float, int]] = {
    "whole patches": (1.0, 0),
    "half": (0.5, 0),
    "any pixel": (0.0, 0),
    "half, and a ring": (0.5, 1),
    "any pixel, and a ring": (0.0, 1),
}
"""`mask_coverage` and `mask_margin`, from narrow to wide."""

MASKED = ("masked-attention", WINDOW)


def measure_widths(
    folder: Path,
    train: ObjectIndex,
    test: ObjectIndex,
    only: Sequence[str] = ("",),
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure the backbones of a folder that have one of `only` in their names; the figures by backbone,
    width and way to ask.

    Raises:
        OdisError: There is none.
    """
    kept = sorted(path for path in folder.glob("*.safetensors") if any(part in path.stem for part in only))
    if not kept:
        raise OdisError(f"{folder}: holds no kept backbone (*.safetensors) of those names")
    out = folder / "widths.json"
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for path in kept:
        if path.stem in found:
            continue
        encoder = load(path, device="auto", precision=_precision(path.with_suffix(".json")))
        scores = {}
        side = RATIO * encoder.image_size
        for name, width in WIDTHS.items():
            scores[name] = {way: knn_of(encoder, train, test, side, way, "obj", width) for way in MASKED}
        found[path.stem] = {
            "trained_at": [encoder.mask_coverage, encoder.mask_margin],
            "scores": scores,
        }
        write_results(out, found)
        say(f"{path.stem}: measured")
    return found


def _precision(result: Path) -> str:
    """That of the run, in which the study measures it; `auto` where nothing lies beside a backbone."""
    if not result.exists():
        return "auto"
    found: str = json.loads(result.read_text())["config"]["train"]["precision"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="kept backbones, *.safetensors")
    parser.add_argument("--train", required=True, help="object index whose objects are neighbours")
    parser.add_argument("--test", required=True, help="object index that is measured on")
    parser.add_argument("--only", nargs="+", default=[""], help="backbones with one of these in their names")
    args = parser.parse_args()
    try:
        train, test = ObjectIndex.open(args.train), ObjectIndex.open(args.test)
        measure_widths(args.folder, train, test, args.only)
    except OdisError as error:
        sys.exit(str(error))
    print(f"written: {args.folder / 'widths.json'}")


if __name__ == "__main__":
    main()
