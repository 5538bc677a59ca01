"""A run that was made elsewhere, measured as a cell of the study.

    python benchmarks/evidence/adopt.py RUN --world voc --voc VOCdevkit/VOC2012 --cell ibot.100k [--seed 0]
    [--measures objects patches probes]

RUN is a folder of `odis pretrain` on the world's training images, with settings of its own: its JSON holds
them, and says that it was adopted. The way to ask is the best on the images that settings are chosen on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cell import KEPT_SEED, Place, asked_best, described, keep_backbone, parts
from grid import STUDIES, cells
from measure import MEASURES, measured
from worlds import Roots, World, worlds

from odis.errors import OdisError
from odis.evaluation.results import write_results
from odis.inference import load

HERE = Path(__file__).parent


def adopt(place: Place, world: World, cell: str, seed: int, run: Path, which: list[str]) -> dict[str, Any]:
    """Measure a finished run and write its figures as those of a cell.

    Raises:
        OdisError: It is no finished run.
    """
    figures = described(run)
    encoder = load(run, device="cpu", precision=figures["config"]["train"]["precision"])
    figures |= {
        "candidate": "given",
        "adopted": True,
        "asked": asked_best(place, world, encoder),
        "objects": "annotated",
        "scores": measured(encoder, parts(place, world, encoder), which),
    }
    path = place.result(world, cell, seed)
    if seed == KEPT_SEED:
        keep_backbone(encoder, path.with_suffix(".safetensors"))
    result = {"world": world.name, "cell": cell, "seed": seed, **figures}
    write_results(path, result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of odis pretrain")
    parser.add_argument("--world", required=True, help="the data: photographs-50, voc")
    parser.add_argument("--cell", required=True, help="name of the cell: ibot.100k")
    parser.add_argument("--seed", type=int, default=0, help="seed that the figures are of (default: 0)")
    parser.add_argument(
        "--measures", nargs="+", choices=list(MEASURES), default=list(MEASURES), help="which (default: all)"
    )
    parser.add_argument("--photographs", type=Path, help="Tiny-ImageNet's folder, for photographs-50")
    parser.add_argument("--voc", type=Path, help="the folder VOCdevkit/VOC2012, for voc")
    parser.add_argument("--work", type=Path, default=Path("evidence-work"), help="data of the worlds")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="figures")
    args = parser.parse_args()
    known = worlds(Roots(photographs=args.photographs, voc=args.voc))
    if args.world not in known:
        parser.error(f"no world {args.world!r}; there are {', '.join(known)}")
    names = [cell.name for study in STUDIES for cell in cells(study)]
    if args.cell not in names:
        parser.error(f"no cell {args.cell!r} in grid.py")
    place = Place(args.work.resolve(), args.results.resolve())
    try:
        found = adopt(place, known[args.world], args.cell, args.seed, args.run, args.measures)
    except OdisError as error:
        sys.exit(str(error))
    best = found["scores"].get("knn", {}).get(found["asked"], {}).get("value")
    print(f"{args.cell}: {found['images_seen']:,} images, asked by {found['asked']}: {best}")


if __name__ == "__main__":
    main()
