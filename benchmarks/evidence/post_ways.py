"""Ways to ask that results of the study of post-training lack, measured with the networks of their runs.

    python benchmarks/evidence/post_ways.py --voc DIR --work WORK [--results DIR]

`post.py` measures them of runs that are made now. Nothing is trained, and what is there stays.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from cell import Place
from measure import knn_of
from post import MEASURED, weights
from post_grid import Target, targets
from run import HERE
from worlds import Roots

from odis.evaluation.results import write_results
from odis.inference import Encoder, load


def complete(place: Place, target: Target) -> list[str]:
    """Measure what the results of a target lack; the names of those that were."""
    train, test = (target.world.index(part, place.work) for part in ("train", "test"))
    named = []
    for path in sorted((place.results / target.name).glob("*-seed*.json")):
        result = json.loads(path.read_text())
        knn = result["scores"].get("knn", {})
        lacking = [way for way in MEASURED if knn and way not in knn]
        if lacking:
            encoder = opened(place, result)
            knn |= {way: knn_of(encoder, train, test, target.world.side, way, "obj") for way in lacking}
            write_results(path, result)
            named.append(path.stem)
            print(f"{path.stem}: {', '.join(lacking)}", flush=True)
    return named


def opened(place: Place, result: dict[str, Any]) -> Encoder:
    """The network of a result: that of its run, or the public one, as they were measured."""
    if "run" not in result:
        return load(weights(place), device="cpu")
    train = result["config"]["train"]
    return load(place.work / result["run"], device=train["device"], precision=train["precision"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voc", type=Path, required=True, help="the folder VOCdevkit/VOC2012")
    parser.add_argument("--work", type=Path, required=True, help="data and runs of post.py")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="figures")
    args = parser.parse_args()
    place = Place(args.work.resolve(), args.results.resolve())
    for target in targets(Roots(voc=args.voc.resolve())).values():
        complete(place, target)


if __name__ == "__main__":
    main()
