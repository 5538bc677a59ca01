"""Cost of input: all 12 views of photographs with objects, against the PIL pipeline that DINO and iBOT
publish.

    python benchmarks/input.py INDEX [--images 40] [--rounds 5] [--json FILE]

INDEX is an object index of photographs (COCO: `odis index coco ROOT --split val2017 --out INDEX`). One
thread; every round does all images by every pipeline in turn, and ratios are taken within a round: their
median is given with its 95 % bootstrap interval.

`pil` decodes with Pillow and makes the views as `DataAugmentationDINO` of DINO and iBOT does (main_dino.py,
utils.py), with torchvision's transforms on PIL images: 2 crops of 224 and 10 of 96 pixels, jitter, grey,
blur, solarisation, normalisation. It knows no objects. `odis` is what a worker of `odis pretrain` does with
the recipe odis-vits16: object-aware crops, object masks, prediction masks, decoding, the same photometrics,
normalisation. Its parts are timed in the same run. `ibot` is the same without objects (the recipe
ibot-vits16): what its crops and masks take less is what object-aware sampling and object masks cost.
`hand-over` is what a worker does with `loader.render device`: all of it but the pixels of views. Times are
processor time, so that what else the machine does counts little.

The second table is of one photograph (the first of the index) as a JPEG of 640 x 480 and of 6000 x 4000
pixels. `first time` is what the latter costs with `loader.keep [disk:DIR]` when its copy is made, `copies`
what it costs in every later epoch."""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import process_time as clock
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from rich.console import Console
from rich.table import Table
from torchvision import transforms

from odis.benchmark.measure import middle
from odis.config.options import load_recipe
from odis.data import framing
from odis.data import views as view_module
from odis.data.dataset import ViewDataset
from odis.data.pixels import reader as reader_module
from odis.objects.index import ObjectIndex

PATCH = 16


class Blur:
    """`utils.GaussianBlur` of DINO."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        return (
            image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))
            if random.random() <= self.p
            else image
        )


class Solarise:
    """`utils.Solarization` of DINO."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.solarize(image) if random.random() < self.p else image


def published() -> Callable[[Image.Image], list[torch.Tensor]]:
    """The views of DINO and iBOT."""
    bicubic = transforms.InterpolationMode.BICUBIC
    jitter = [
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.RandomApply(
            [transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)], p=0.8
        ),
        transforms.RandomGrayscale(p=0.2),
    ]
    normalise = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]

    def view(size: int, scale: tuple[float, float], *more: Any) -> transforms.Compose:
        return transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=scale, interpolation=bicubic),
                *jitter,
                *more,
                *normalise,
            ]
        )

    first, second = view(224, (0.25, 1.0), Blur(1.0)), view(224, (0.25, 1.0), Blur(0.1), Solarise(0.2))
    local = view(96, (0.05, 0.25), Blur(0.5))
    return lambda image: [first(image), second(image), *(local(image) for _ in range(10))]


PARTS = {
    "decoding": (reader_module, ("decode",)),
    "objects": (framing, ("choose_objects",)), "masks": (view_module, ("_object_masks",)),
    "crops": (framing, ("draw_crops",)), "resizing": (view_module, ("resized_crop",)),
    "photometrics": (view_module, ("to_chw", "apply_photometrics")),
}  # fmt: skip
OF_OBJECTS = ("objects", "masks", "crops")


def time_parts(parts: dict[str, float]) -> None:
    """Have the functions of each part add the seconds they take to `parts`."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kinds: Any) -> Any:
            began = clock()
            try:
                return function(*args, **kinds)
            finally:
                parts[name] = parts.get(name, 0.0) + clock() - began

        return call

    for part, (module, names) in PARTS.items():
        for name in names:
            setattr(module, name, timed(part, getattr(module, name)))


def pil_views(path: str, augment: Callable[[Image.Image], list[torch.Tensor]]) -> None:
    """One image by the published pipeline."""
    with Image.open(path) as image:
        augment(image.convert("RGB"))


def measure(index: ObjectIndex, count: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds an image of each pipeline and part, in each round."""
    dataset, without = (
        ViewDataset(index, load_recipe(recipe, data="x"), PATCH) for recipe in ("odis-vits16", "ibot-vits16")
    )
    rows, augment = range(min(count, len(index))), published()
    parts: dict[str, float] = {}
    time_parts(parts)
    times: dict[str, list[float]] = {}
    for k in range(rounds + 1):
        began = clock()
        for row in rows:
            dataset.raw_sample((k, row))
        handed_over = clock()
        parts.clear()
        middle = clock()
        for row in rows:
            _ = dataset[k, row]
        rendered, of_odis = clock(), dict(parts)
        for row in rows:
            _ = without[k, row]
        plain, of_ibot = clock(), {name: seconds - of_odis[name] for name, seconds in parts.items()}
        for row in rows:
            pil_views(index.image_path(row), augment)
        end = clock()
        if k:  # the first round warms up
            ours = {"odis": rendered - middle, "hand-over": handed_over - began, **of_odis}
            added = {"objects add": sum(of_odis[name] - of_ibot[name] for name in OF_OBJECTS)}
            measured = {**ours, **added, "ibot": plain - rendered, "pil": end - plain}
            for name, seconds in measured.items():
                times.setdefault(name, []).append(1000 * seconds / len(rows))
    return times


def measure_sizes(photo: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of one photo at .3 and at 24 megapixels, by each pipeline, in each round."""
    times: dict[str, list[float]] = {}
    config, augment = load_recipe("odis-vits16", data="x"), published()
    with tempfile.TemporaryDirectory() as folder:
        with Image.open(photo) as image:
            small = image.convert("RGB").resize((640, 480), Image.Resampling.LANCZOS)
        pictures = {".3 MP": small, "24 MP": small.resize((6000, 4000), Image.Resampling.BICUBIC)}
        datasets = {}
        for name, picture in pictures.items():
            (Path(folder) / name).mkdir()
            picture.save(Path(folder) / name / "a.jpg", quality=90)
            datasets[name] = ViewDataset(ObjectIndex.open(Path(folder) / name), config, PATCH)
        kept = Path(folder) / "copies"
        copying = replace(config, loader=replace(config.loader, keep=[f"disk:{kept}"]))
        with_copies = {name: ViewDataset(dataset.index, copying, PATCH) for name, dataset in datasets.items()}
        repeats = {"odis": 5, "hand-over": 5, "pil": 1, "first time": 1, "copies": 5, "copies, hand-over": 5}
        for k in range(rounds + 1):
            for name, dataset in datasets.items():
                for file in kept.rglob("*.jpg"):
                    file.unlink()
                calls: dict[str, Callable[[int], Any]] = {
                    "odis": lambda i, d=dataset: d[i, 0],
                    "hand-over": lambda i, d=dataset: d.raw_sample((i, 0)),
                    "pil": lambda _, d=dataset: pil_views(d.index.image_path(0), augment),
                    "first time": lambda i, d=with_copies[name]: d[i, 0],
                    "copies": lambda i, d=with_copies[name]: d[i, 0],
                    "copies, hand-over": lambda i, d=with_copies[name]: d.raw_sample((i, 0)),
                }
                for pipeline, call in calls.items():
                    began = clock()
                    for i in range(repeats[pipeline]):
                        call(repeats[pipeline] * k + i)
                    if k:
                        times.setdefault(f"{pipeline}, {name}", []).append(
                            1000 * (clock() - began) / repeats[pipeline]
                        )
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", help="object index of photographs")
    parser.add_argument("--images", type=int, default=40, help="images a round (default: 40)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    torch.manual_seed(0)
    index = ObjectIndex.open(args.index)
    times = measure(index, args.images, args.rounds)
    ours = np.array(times["odis"])
    table = Table(
        title=f"12 views of a photograph, one thread, {min(args.images, len(index))} images, {args.rounds} "
        f"rounds"
    )
    for column in ("", "ms an image", "pil / this", "share of odis"):
        table.add_column(column, justify="left" if not column else "right")
    figures: dict[str, Any] = {
        "images": min(args.images, len(index)),
        "torch": torch.__version__,
        "milliseconds": times,
    }
    for name in ("pil", "odis", *PARTS, "ibot", "hand-over"):
        values, whole = np.array(times[name]), name in ("odis", "ibot", "hand-over")
        speed = "{:.2f} ({:.2f} - {:.2f})".format(*middle(np.array(times["pil"]) / values)) if whole else ""
        share = f"{100 * np.median(values / ours):.1f} %" if name in PARTS else ""
        table.add_row(f"  {name}" if name in PARTS else name, f"{np.median(values):.2f}", speed, share)
    figures["pil_over_odis"] = middle(np.array(times["pil"]) / ours)
    figures["odis_over_ibot"] = middle(ours / np.array(times["ibot"]))
    figures["pil_over_hand_over"] = middle(np.array(times["pil"]) / np.array(times["hand-over"]))
    Console(width=100).print(table)
    figures["objects_add"] = middle(np.array(times["objects add"]) / ours)
    percent = [100 * value for value in figures["objects_add"]]
    print(
        "object-aware sampling and object masks, beyond free crops: {:.1f} % ({:.1f} - {:.1f}) of "
        "odis".format(*percent)
    )
    print("odis / ibot: {:.3f} ({:.3f} - {:.3f})".format(*figures["odis_over_ibot"]))
    sizes = measure_sizes(index.image_path(0), args.rounds)
    table = Table(title="One photograph as a JPEG of .3 and of 24 megapixels: ms")
    for column in ("", ".3 MP", "24 MP", "24 MP / .3 MP"):
        table.add_column(column, justify="left" if not column else "right")
    figures["sizes"], figures["large_over_small"] = sizes, {}
    for name in ("pil", "odis", "hand-over", "first time", "copies", "copies, hand-over"):
        small, large = np.array(sizes[f"{name}, .3 MP"]), np.array(sizes[f"{name}, 24 MP"])
        figures["large_over_small"][name] = middle(large / small)
        ratio = "{:.2f} ({:.2f} - {:.2f})".format(*figures["large_over_small"][name])
        table.add_row(name, f"{np.median(small):.1f}", f"{np.median(large):.1f}", ratio)
    Console(width=100).print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
