"""Cost of input: all 12 views of photographs with objects, against the PIL pipeline that DINO and iBOT publish.

    python benchmarks/input.py INDEX [--images 40] [--rounds 5] [--json FILE]

INDEX is an object index of photographs (COCO: `odis index coco ROOT --split val2017 --out INDEX`). One thread; every round does all
images by every pipeline in turn, and ratios are taken within a round: their median is given with its 95 % bootstrap interval.

`pil` decodes with Pillow and makes the views as `DataAugmentationDINO` of DINO and iBOT does (main_dino.py, utils.py), with torchvision's
transforms on PIL images: 2 crops of 224 and 10 of 96 pixels, jitter, grey, blur, solarisation, normalisation. It knows no objects.
`odis` is what a worker of `odis pretrain` does with the recipe odis-vits16: decoding, object-aware crops, object masks, prediction masks,
the same photometrics, normalisation. Its parts are timed in the same run.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from rich.console import Console
from rich.table import Table
from torchvision import transforms

from odis.data import views as view_module
from odis.data.views import make_sample
from odis.objects.images import load_image
from odis.objects.index import ObjectIndex
from odis.options import load_recipe

PATCH = 16


class Blur:
    """`utils.GaussianBlur` of DINO."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0))) if random.random() <= self.p else image


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
        transforms.RandomApply([transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
    ]
    normalise = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]

    def view(size: int, scale: tuple[float, float], *more: Any) -> transforms.Compose:
        return transforms.Compose([transforms.RandomResizedCrop(size, scale=scale, interpolation=bicubic), *jitter, *more, *normalise])

    first, second = view(224, (0.25, 1.0), Blur(1.0)), view(224, (0.25, 1.0), Blur(0.1), Solarise(0.2))
    local = view(96, (0.05, 0.25), Blur(0.5))
    return lambda image: [first(image), second(image), *(local(image) for _ in range(10))]


def measure(index: ObjectIndex, count: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds an image of each pipeline and part, in each round."""
    config = load_recipe("odis-vits16", data="x")
    rows = [(index.image_path(i), index[i]) for i in range(min(count, len(index)))]
    augment = published()
    parts: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kinds: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kinds)
            finally:
                parts[name] = parts.get(name, 0.0) + time.perf_counter() - began

        return call

    def decode(path: str, row: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(load_image(path, (row.width, row.height)))).permute(2, 0, 1)

    originals = {
        "objects": ("choose_objects", "_object_masks"), "crops": ("_draw_crops",), "resizing": ("render",),
        "photometrics": ("photometrics",), "normalisation": ("normalise",),
    }  # fmt: skip
    for part, names in originals.items():
        for name in names:
            setattr(view_module, name, timed(part, getattr(view_module, name)))
    decode = timed("decoding", decode)

    times: dict[str, list[float]] = {}
    for k in range(rounds + 1):
        parts.clear()
        began = time.perf_counter()
        for i, (path, row) in enumerate(rows):
            rng = np.random.default_rng([k, i])
            make_sample(rng, decode(path, row), row, config.objects, config.views, config.prediction, PATCH)
        middle = time.perf_counter()
        for path, _ in rows:
            with Image.open(path) as image:
                augment(image.convert("RGB"))
        end = time.perf_counter()
        if k:  # the first round warms up
            for name, seconds in {"odis": middle - began, "pil": end - middle, **parts}.items():
                times.setdefault(name, []).append(1000 * seconds / len(rows))
    return times


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Median, and the bounds of its 95 % bootstrap interval."""
    medians = np.median(np.random.default_rng(0).choice(values, (2000, len(values))), axis=1)
    return float(np.median(values)), *(float(q) for q in np.quantile(medians, (0.025, 0.975)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    table = Table(title=f"12 views of a photograph, one thread, {min(args.images, len(index))} images, {args.rounds} rounds")
    for column in ("", "ms an image", "pil / this", "share of odis"):
        table.add_column(column, justify="left" if not column else "right")
    figures: dict[str, Any] = {"images": min(args.images, len(index)), "torch": torch.__version__, "milliseconds": times}
    for name in ("pil", "odis", "decoding", "objects", "crops", "resizing", "photometrics", "normalisation"):
        values = np.array(times[name])
        speed = "" if name != "odis" else "{:.2f} ({:.2f} - {:.2f})".format(*interval(np.array(times["pil"]) / ours))
        share = "" if name in ("pil", "odis") else f"{100 * np.median(values / ours):.1f} %"
        table.add_row(name if name in ("pil", "odis") else f"  {name}", f"{np.median(values):.2f}", speed, share)
    figures["pil_over_odis"] = interval(np.array(times["pil"]) / ours)
    Console(width=100).print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
