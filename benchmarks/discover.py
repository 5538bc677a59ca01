"""Objects found without annotations in scenes, by a network that was trained on whole images alone.

    python benchmarks/discover.py [--seeds 0 1] [--recipe scenes-whole-image] [--run RUN] [--json FILE]

For each seed, scenes of handwritten digits are made, a network is pretrained on whole ones (no box, mask or
label is read), and it is asked for the objects of held-out scenes, by spectral cuts and by seeds. Beside it
stand the untrained network of the same seed, asked in the same way, and one box in the middle of every image,
of the size that is best for these very scenes. `found` are true objects that have a box of IoU .5 or more;
COCO's evaluation says the rest.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.table import Table

from odis.backbones.build import build_pair
from odis.config.discovery import DiscoverConfig
from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.finding.discover.discoverer import Discoverer
from odis.inference import load
from odis.method.vit import ObjectViT
from odis.objects.edit.compare import compare, iou
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex, write_index
from odis.objects.scenes.write import write_scenes
from odis.train.loop import pretrain
from odis.train.run_folder import read_config
from odis.types import ImageObjects, Object

METHODS = ("spectral", "seeds")
CHANGEABLE = {
    "size": int,
    "tau": float,
    "seeds_k": int,
    "max_objects": int,
    "edge_radius": float,
    "min_score": float,
}
_TOGETHER = 64  # images


def scenes(folder: Path, split: str, count: int, seed: int) -> ObjectIndex:
    """The index of `count` scenes, made if it is not there."""
    path = folder / f"{split}.parquet"
    if not path.exists():
        write_scenes(folder / split, path, count=count, split=split, seed=seed)
    return ObjectIndex.open(path)


def untrained(config: PretrainConfig) -> ObjectViT:
    """The student as `pretrain` starts it, from the same seed."""
    torch.manual_seed(config.train.seed)
    student, _ = build_pair(config)
    return student.backbone.eval()


def config_of(run: Path, folder: Path) -> PretrainConfig:
    """The settings a run was made with."""
    recipe = folder / "run.yaml"
    recipe.write_text(yaml.safe_dump(read_config(run)["config"]))
    return load_recipe(str(recipe))


def measured(
    out: Path, truth: ObjectIndex, provenance: str, find: Callable[[list[np.ndarray]], list[list[Object]]]
) -> dict[str, Any]:
    """What `find` finds in the images of an index, written as an index and compared with it."""

    def rows() -> Iterator[ImageObjects]:
        for start in range(0, len(truth), _TOGETHER):
            places = range(start, min(start + _TOGETHER, len(truth)))
            images = [np.asarray(load_image(truth.image_path(i))) for i in places]
            for i, objects in zip(places, find(images)):
                yield ImageObjects(truth[i].image, truth[i].width, truth[i].height, tuple(objects))

    start = time.perf_counter()
    write_index(out, rows(), root=truth.root, provenance=provenance, classes=[])
    seconds = time.perf_counter() - start
    found = compare(ObjectIndex.open(out), truth)
    recall = found.recall50["all"]
    return {
        "objects_per_image": found.predicted_objects / found.images,
        "found": round(recall * found.true_objects / 100),
        "true_objects": found.true_objects,
        "recall50": recall,
        "corloc": found.corloc,
        "ap50": found.ap50,
        "ms_per_image": 1000 * seconds / found.images,
        "provenance": provenance,
    }


def best_centre_box(truth: ObjectIndex) -> float:
    """Side of the square in the middle, as a share of the image's, that finds most of the true objects."""
    shares = np.arange(0.1, 1.01, 0.05)
    hits = np.zeros(len(shares))
    for row in truth:
        for k, share in enumerate(shares):
            hits[k] += (iou(centre_box(row.width, row.height, share), row.boxes.astype(float)) >= 0.5).sum()
    return float(shares[hits.argmax()])


def centre_box(width: int, height: int, share: float) -> np.ndarray:
    """The box (1, 4) in the middle of an image."""
    return np.array(
        [
            [
                (1 - share) * width / 2,
                (1 - share) * height / 2,
                (1 + share) * width / 2,
                (1 + share) * height / 2,
            ]
        ]
    )


def measure(seed: int, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Rows of the table for one seed; its run, if it is not given, in `folder`."""
    truth = scenes(folder / "scenes", "val", args.test, seed)
    if args.run is None:
        train = scenes(folder / "scenes", "train", args.train, seed)
        config = load_recipe(args.recipe, data=train.path, train__seed=seed, train__threads=args.threads)
        run = folder / "run"
        start = time.process_time()
        pretrain(config, run, recipe=Path(args.recipe).stem)
        minutes = (time.process_time() - start) / 60
    else:
        run, minutes = args.run, float("nan")
        config = config_of(run, folder)
    trained = load(run, device=args.device)
    networks = {"untrained": untrained(config).to(trained.device), "trained": trained.model}
    share = best_centre_box(truth)

    def centre(images: list[np.ndarray]) -> list[list[Object]]:
        return [
            [Object(tuple(centre_box(i.shape[1], i.shape[0], share)[0].tolist()), score=1.0)] for i in images
        ]  # type: ignore[arg-type]  # four numbers

    rows = [
        {
            "seed": seed,
            "network": "box in the middle",
            "method": f"side {share:.2f}",
            **measured(folder / "centre.parquet", truth, "centre box", centre),
        }
    ]
    for method in args.methods:
        for name, model in networks.items():
            finder = Discoverer(
                model,
                trained.mean,
                trained.std,
                settings(args, method),
                name=name,
                image_size=trained.image_size,
            )
            row = measured(folder / f"{method}-{name}.parquet", truth, finder.provenance, finder)
            rows.append(
                {"seed": seed, "network": name, "method": method, **row, "pretraining_cpu_minutes": minutes}
            )
    return rows


def settings(args: argparse.Namespace, method: str) -> DiscoverConfig:
    """The recipe's settings of discovery, with what was asked for in their place."""
    changes = {k: v for k in CHANGEABLE if (v := getattr(args, k)) is not None}
    return replace(load_recipe(args.recipe).discover, method=method, **changes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="seeds of scenes and training (default: 0)"
    )
    parser.add_argument(
        "--recipe", default="scenes-whole-image", help="recipe of the pretraining, by name or path"
    )
    parser.add_argument("--run", type=Path, help="take this run instead of pretraining one")
    parser.add_argument("--train", type=int, default=6000, help="scenes to train on (default: 6000)")
    parser.add_argument("--test", type=int, default=400, help="held-out scenes (default: 400)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="(default: both)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--device", default="cpu", help="of discovery: cpu or cuda (default: cpu)")
    parser.add_argument(
        "--out", type=Path, help="folder for scenes, runs and found objects (default: a temporary one)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    for name, kind in CHANGEABLE.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, help=f"discover.{name} in place of the recipe's"
        )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in args.seeds:
            folder = (args.out or Path(temporary)) / f"seed-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            rows += measure(seed, args, folder)
    table = Table(title=f"Objects found in {args.test} held-out scenes")
    for column in (
        "seed",
        "network",
        "method",
        "objects an image",
        "found",
        "recall %",
        "CorLoc",
        "AP50",
        "ms an image",
    ):
        table.add_column(column, justify="left" if column in ("network", "method") else "right")
    for row in rows:
        table.add_row(
            str(row["seed"]),
            row["network"],
            row["method"],
            f"{row['objects_per_image']:.1f}",
            f"{row['found']} of {row['true_objects']}",
            f"{row['recall50']:.1f}",
            f"{row['corloc']:.1f}",
            f"{row['ap50']:.1f}",
            f"{row['ms_per_image']:.0f}",
        )
    Console(width=120).print(table)
    if args.json:
        setting = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "json"}
        args.json.write_text(
            json.dumps({**setting, "torch": torch.__version__, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
