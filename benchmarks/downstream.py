"""Starting points fine-tuned on small data sets, each by the same budget and seeds: the tables of
docs/downstream.md.

    python benchmarks/downstream.py --voc VOCdevkit/VOC2012 --nuclei nuclei --camvid CamVid \\
        --model random= --model Tiny-ImageNet=runs/tiny --model ODIS=runs/voc --work WORK \\
        [--only voc-boxes] [--seeds 0 1 2] [--doc docs/downstream.md] [--json FILE]

`random` has the architecture of the first other model. What is done is not done again: the same command goes
on after an interruption, and one with more models or seeds adds these. A data set that is not given is left
out; its table in the page stays.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import odis
from odis.downstream.finetune import finetune
from odis.objects.index import ObjectIndex, write_index
from odis.types import ImageObjects, Object

BOXES: dict[str, Any] = {
    "size": 160, "scales": [2.0, 1.0, 0.5], "anchor": 4.0, "channels": 64, "hidden": 256, "proposals": 300,
    "regions": 64, "batch": 8,
}  # fmt: skip
PIXELS: dict[str, Any] = {"size": 160, "head": "multi-scale", "channels": 64, "steps": 200, "batch": 8}
SHARED: dict[str, Any] = {
    "lr": 5e-4, "layer_decay": 0.9, "warm_up": 40, "precision": "bf16", "workers": 0, "device": "cpu",
    "checkpoint_every": 100,
}  # fmt: skip

VOID = 255
"""The value of no class in VOC's masks."""


@dataclass(frozen=True)
class Study:
    """One table.

    Args:
        task: Of `odis finetune`.
        of: Which data set, by its option.
        parts: Makes the indexes, or names the folder: `train`, `test` and more of the task's data.
        settings: What differs from the task's defaults.
        shown: Scores in the table.
    """

    task: str
    of: str
    parts: Callable[[Path, Path], dict[str, Any]]
    settings: dict[str, Any]
    shown: tuple[str, ...] = field(default=("mIoU", "pixel accuracy"))


def voc_boxes(root: Path, work: Path) -> dict[str, Any]:
    """VOC's own lists, with all objects as one class: in so few steps 20 classes are not learned."""
    parts = {}
    for side, split in (("train", "train"), ("test", "val")):
        index = ObjectIndex.open(_index("voc", root, work, split))
        parts[side] = work / f"{root.name}-{split}-objects.parquet"
        if not parts[side].exists():
            rows = (replace(row, objects=tuple(Object(one.box) for one in row.objects)) for row in index)
            write_index(parts[side], rows, root=index.root, provenance=index.provenance, classes=[])
    return parts


def voc_maps(root: Path, work: Path) -> dict[str, Any]:
    """VOC's masks of the same lists, with all objects as one class: in so few steps the 21 classes are not
    learned, and everything is called background. Borders stay void.
    """
    made = work / f"{root.name}-object-maps"
    for split in ("train", "val"):
        (made / "images" / split).mkdir(parents=True, exist_ok=True)
        (made / "labels" / split).mkdir(parents=True, exist_ok=True)
        for name in (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split():
            classes, image = root / "SegmentationClass" / f"{name}.png", root / "JPEGImages" / f"{name}.jpg"
            label, linked = made / "labels" / split / f"{name}.png", made / "images" / split / f"{name}.jpg"
            if not label.exists():
                values = np.asarray(Image.open(classes))
                Image.fromarray(np.where(values == VOID, VOID, values > 0).astype(np.uint8)).save(label)
            if not linked.exists():
                linked.symlink_to(image.resolve())
    (made / "class_names.txt").write_text("background\nobject\n")
    return {"train": made, "test": made, "train_split": "train", "test_split": "val"}


def camvid(root: Path, work: Path) -> dict[str, Any]:
    """CamVid's train and val."""
    return {"train": root, "test": root}


def nuclei(root: Path, work: Path) -> dict[str, Any]:
    """Four fifths of the images, drawn by a seed, to learn from; the others to measure on."""
    whole = ObjectIndex.open(_index("coco", root, work, None))
    drawn = np.random.default_rng(0).permutation(len(whole))
    cut = len(whole) * 4 // 5
    parts = {"train": sorted(drawn[:cut]), "test": sorted(drawn[cut:])}
    for side, rows in parts.items():
        path = work / f"{root.name}-{side}.parquet"
        if not path.exists():
            write_index(
                path, (whole[int(i)] for i in rows), root=whole.root, provenance=whole.provenance,
                classes=whole.classes,
            )  # fmt: skip
    return {side: work / f"{root.name}-{side}.parquet" for side in parts}


def squares(root: Path, work: Path) -> dict[str, Any]:
    """Squares on noise, to try the script: no data set is needed."""
    rng = np.random.default_rng(0)
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(8):
        pixels = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8)
        x, y = (int(v) for v in rng.integers(0, 24, 2))
        pixels[y : y + 20, x : x + 20] = 250
        Image.fromarray(pixels).save(work / f"square-{i}.png")
        rows.append(ImageObjects(f"square-{i}.png", 64, 48, (Object((x, y, x + 20.0, y + 20.0), None, 0),)))
    made = {}
    for side, part in (("train", rows[:6]), ("test", rows[6:])):
        made[side] = work / f"squares-{side}.parquet"
        write_index(made[side], part, root=work, provenance="annotated", classes=["square"])
    return made


STUDIES = {
    "camvid": Study("semantic", "camvid", camvid, PIXELS),
    "voc-masks": Study("semantic", "voc", voc_maps, PIXELS),
    "nuclei-masks": Study(
        "instances",
        "nuclei",
        nuclei,
        BOXES | {"steps": 150},
        ("AP box", "AP50 box", "AP mask", "AP50 mask"),
    ),
    "voc-boxes": Study(
        "detection", "voc", voc_boxes, BOXES | {"steps": 300}, ("AP box", "AP50 box", "AR100 box")
    ),
    "squares": Study(
        "detection", "squares", squares, BOXES | {"size": 64, "steps": 2, "batch": 2}, ("AP box", "AP50 box")
    ),
}


def _index(form: str, root: Path, work: Path, split: str | None) -> Path:
    path = work / f"{root.name}-{split or 'all'}.parquet"
    if not path.exists():
        odis.index(form, root, path, split=split)
    return path


def table(study: Study, found: dict[str, Any], names: dict[str, str]) -> str:
    """Markdown: the mean over seeds, each seed's score, its interval over test images, and below the last
    column what lies between a start and the first one.
    """
    seeds, first = found["settings"]["seeds"], study.shown[0]
    head = ["start", *study.shown, f"{first}, seeds {', '.join(map(str, seeds))}", f"{first}, less the first"]
    lines = [head, ["---"] * len(head)]
    differences = {one["model"]: one["scores"][first] for one in found["differences"]}
    for row in found["rows"]:
        cells = [names[row["model"]]]
        for name in study.shown:
            score = row["scores"][name]
            cells.append(f"{score['value']:.1f} ({score['low']:.1f} to {score['high']:.1f})")
        cells.append(", ".join(f"{one:.1f}" for one in row["scores"][first]["seeds"]))
        less = differences.get(row["model"])
        cells.append(f"{less['value']:+.1f} ({less['low']:+.1f} to {less['high']:+.1f})" if less else "")
        lines.append(cells)
    made = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"{made}\n{_about(found)}\n"


def _about(found: dict[str, Any]) -> str:
    """One line below a table."""
    settings, sides = found["settings"], (found["train"], found["test"])
    images = " train and ".join(f"{side['images']:,}" for side in sides)
    return (
        f"*{images} test images; {settings['steps']} steps of {settings['batch']} images at "
        f"{settings['size']} px, lr {settings['lr']:g}, layer decay {settings['layer_decay']:g}.*"
    )


def fill(page: Path, tables: dict[str, str]) -> None:
    """Put tables in their places: from `<!-- made: NAME -->` to the next `<!-- end -->`."""
    text = page.read_text()
    for name, made in tables.items():
        place = re.compile(rf"(<!-- made: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(text):
            raise SystemExit(f"{page}: has no place for {name}")
        text = place.sub(lambda found, made=made: f"{found[1]}{made}{found[2]}", text)
    page.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("--voc", "--nuclei", "--camvid"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--squares", type=Path, default=None, help="any path: try the script on squares")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=SOURCE")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--doc", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    # `random=` is the start of that name; `random=random:SOURCE` another architecture.
    names = {(source or name): name for name, _, source in (one.partition("=") for one in given.model)}
    every, tables = {}, {}
    for name in given.only:
        study = STUDIES[name]
        root = getattr(given, study.of)
        if root is None:
            continue
        parts = study.parts(root, given.work / "data")
        found = finetune(
            study.task, list(names), given.work / name, seeds=given.seeds, **parts,
            **SHARED | study.settings,
        )  # fmt: skip
        every[name], tables[name] = found, table(study, found, names)
        print(f"{name}\n\n{tables[name]}", flush=True)
        if given.doc is not None:
            fill(given.doc, {name: tables[name]})
        if given.json is not None:
            given.json.write_text(json.dumps(every, indent=2) + "\n")


if __name__ == "__main__":
    main()
