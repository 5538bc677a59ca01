"""Every kept backbone of a folder on data that it was not trained on: one table, and a JSON beside them.

    python benchmarks/evidence/evaluate.py benchmarks/evidence/results/voc --train TRAIN --test TEST [--name
    NAME] [--train-maps ROOT --test-maps ROOT] [--only 100k ...]

TRAIN and TEST are object indexes (`odis index`) with labels: objects and patches of TRAIN are neighbours,
those of TEST are classified. Patches are labelled by masks, and by boxes where an object has none; or by
label maps in VOC's layout. What the data cannot measure (classes, with one class) is named and left out.
`--coco ROOT` and `--nuclei ROOT` make the two indexes of the study itself. What is measured already is not
measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markdown import rows
from measure import RATIO, WAYS, Parts, objects, patches, probes
from worlds import Roots, transfers

from odis.errors import OdisError
from odis.evaluation.label_maps import LabelledImages
from odis.evaluation.protocols.layouts.segmentation import SegmentedImages, open_segmented
from odis.evaluation.results import write_results
from odis.inference import Encoder, load
from odis.objects.index import ObjectIndex

SCORES = {
    "linear": "linear probe",
    "linear_narrow": "linear probe, whole patches",
    "images_map": "image mAP",
    "dense_knn": "dense k-NN",
    "hummingbird": "Hummingbird",
    "corloc": "CorLoc",
}
"""Scores beside object k-NN, and their names in tables."""


def parts_of(train: ObjectIndex, test: ObjectIndex, maps: tuple[Path, Path] | None, side: int) -> Parts:
    """What is measured on, from two indexes and perhaps label maps."""
    if maps is None:
        labelled = tuple(LabelledImages.from_index(index, boxes=True) for index in (train, test))
        segmented = tuple(SegmentedImages(images, "index") for images in labelled)
    else:
        segmented = (
            open_segmented(maps[0], "", part="train"),
            open_segmented(maps[1], "", part="val"),
        )
        labelled = tuple(part.images for part in segmented)
    return Parts(train, test, labelled, segmented, side)  # two of each


def measured_row(encoder: Encoder, parts: Parts) -> dict[str, Any]:
    """All scores that this data has, and why others are left out."""
    scores: dict[str, Any] = {}
    left_out: dict[str, str] = {}

    def measure(name: str, how: Callable[[], dict[str, Any]]) -> None:
        try:
            scores.update(how())
        except OdisError as error:
            left_out[name] = _named(str(error), parts)

    measure("knn", lambda: objects(encoder, parts))
    measure("probes", lambda: probes(encoder, parts))
    measure("patches", lambda: patches(encoder, parts))
    return {"scores": scores, "left_out": left_out}


def _named(said: str, parts: Parts) -> str:
    """A line in which indexes go by their names: a file of results is read on other machines."""
    for index in (parts.train, parts.test):
        said = said.replace(index.path, Path(index.path).name)
    return said


def evaluate(
    folder: Path,
    train: ObjectIndex,
    test: ObjectIndex,
    out: Path,
    *,
    maps: tuple[Path, Path] | None = None,
    only: Sequence[str] = ("",),
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure the backbones of a folder that have one of `only` in their names, and write `out` after each.

    Raises:
        OdisError: There is none, or `out` is of other data.
    """
    kept = sorted(path for path in folder.glob("*.safetensors") if any(part in path.stem for part in only))
    if not kept:
        raise OdisError(f"{folder}: holds no kept backbone (*.safetensors) of those names")
    data = {
        part: {"images": len(index), "objects": index.count_objects(), "provenance": index.provenance}
        for part, index in (("train", train), ("test", test))
    }
    found: dict[str, Any] = {"trained_on": folder.name, "name": out.stem, **data, "rows": {}}
    if out.exists():
        before = json.loads(out.read_text())
        if any(before[part] != data[part] for part in data):
            raise OdisError(f"{out}: is of other data; give another --out or --name")
        found["rows"] = before["rows"]
    for path in kept:
        if path.stem in found["rows"]:
            continue
        encoder = load(path, device="auto")
        beside = path.with_suffix(".json")
        about = json.loads(beside.read_text()) if beside.exists() else {}
        row = measured_row(encoder, parts_of(train, test, maps, RATIO * encoder.image_size))
        row |= {name: about.get(name) for name in ("cell", "seed", "asked", "images_seen")}
        found["rows"][path.stem] = row
        write_results(out, found)
        say(f"{path.stem}: measured")
    return found


def table(found: dict[str, Any]) -> str:
    """The rows, a backbone each: object k-NN in every way to ask, then the other scores; none that no row
    has.
    """
    scores = {
        name: {way: row["scores"].get("knn", {}).get(way) for way in WAYS}
        | {said: row["scores"].get(score) for score, said in SCORES.items()}
        for name, row in found["rows"].items()
    }
    there = [one for one in (*WAYS, *SCORES.values()) if any(row[one] for row in scores.values())]
    body = [
        [f"`{name}`", found["rows"][name]["asked"] or "-", *(_shown(row[one]) for one in there)]
        for name, row in scores.items()
    ]
    return rows(["backbone", "asked by", *there], body)


def _shown(score: dict[str, float] | None) -> str:
    if score is None:
        return "-"
    half = (score["high"] - score["low"]) / 2
    return f"{score['value']:.1f} ± {half:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="kept backbones, *.safetensors")
    parser.add_argument("--train", help="object index whose objects and patches are neighbours")
    parser.add_argument("--test", help="object index that is measured on")
    parser.add_argument("--train-maps", type=Path, help="label maps of train images (default: masks, boxes)")
    parser.add_argument("--test-maps", type=Path, help="label maps of test images")
    parser.add_argument("--coco", type=Path, help="instead: COCO 2017's folder, its train and val part")
    parser.add_argument(
        "--nuclei", type=Path, help="instead: images of nuclei and their masks, divided by a draw"
    )
    parser.add_argument("--work", type=Path, default=Path("evidence-work"), help="where those indexes go")
    parser.add_argument("--name", help="of the data, in the file of results (default: that of its index)")
    parser.add_argument("--out", type=Path, help="file of results (default: FOLDER/on/NAME.json)")
    parser.add_argument("--only", nargs="+", help="only backbones with one of these in their names")
    args = parser.parse_args()
    try:
        pairs = _pairs(args, parser)
        for name, (train, test) in pairs.items():
            maps = (args.train_maps, args.test_maps or args.train_maps) if args.train_maps else None
            out = args.out or args.folder / "on" / f"{name}.json"
            found = evaluate(args.folder, train, test, out, maps=maps, only=args.only or [""])
            print(f"\n{args.folder.name} on {name}\n\n{table(found)}")
            for why in {why for row in found["rows"].values() for why in row["left_out"].values()}:
                print(f"left out: {why}")
            print(f"written: {out}")
    except OdisError as error:
        sys.exit(str(error))


def _pairs(
    args: argparse.Namespace, parser: argparse.ArgumentParser
) -> dict[str, tuple[ObjectIndex, ObjectIndex]]:
    """The train and test index of each data set that is asked for, by its name."""
    if bool(args.train) != bool(args.test):
        parser.error("--train and --test go together")
    found = {}
    if args.train:
        name = args.name or Path(args.test).stem
        found[name] = ObjectIndex.open(args.train), ObjectIndex.open(args.test)
    for name, transfer in transfers(Roots(coco=args.coco, nuclei=args.nuclei)).items():
        found[name] = transfer.index("train", args.work), transfer.index("test", args.work)
    if not found:
        parser.error("give --train and --test, or --coco, or --nuclei")
    if args.out is not None and len(found) > 1:
        parser.error("--out is one file; give one data set")
    return found


if __name__ == "__main__":
    main()
