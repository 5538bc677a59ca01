"""Cost of asking about many objects of an image in one pass.

    python benchmarks/embed.py [--objects 1 4 16] [--images 16] [--rounds 15] [--json FILE]

ViT-S/16 with read-only object tokens at 224 x 224, random weights: `Encoder.embed` of the same images with 1
and with more objects each, in turns, every other round backwards; the ratio to one object is taken within a
round and its median given with a 95 % bootstrap interval. Resizing and masks are part of it. Before anything
is timed, the answers for 16 objects are compared with those of 16 single calls, and with `single` tokens,
which need a pass for each.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from odis.backbones.build import build_vit
from odis.benchmark.measure import ratio
from odis.config.training import ModelConfig, PretrainConfig, ViewsConfig
from odis.inference import Encoder

SIDE = 224


def encoder(kind: str, device: str, tiny: bool) -> Encoder:
    """An untrained ViT-S/16 whose object token is not quite its `[CLS]`."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2} if tiny else {}
    model = ModelConfig("vit_small_patch16_224", None, kind, **sizes)
    vit = build_vit(model, SIDE, drop_path=0.0).eval().to(device)
    if kind == "read-only":
        with torch.no_grad():
            vit.object_token.add_(0.1 * torch.randn_like(vit.object_token))
    return Encoder.of(vit, PretrainConfig(model=model, views=ViewsConfig(global_size=SIDE)))


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes of all sizes in a 320 x 240 image."""
    corners = np.sort(rng.random((count, 2, 2)) * (300, 220), axis=1)
    corners[:, 1] += 20
    return corners.reshape(count, 4)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--objects", type=int, nargs="+", default=[1, 4, 16], help="objects an image; the first is the base"
    )
    parser.add_argument("--images", type=int, default=16, help="images a call (default: 16)")
    parser.add_argument("--rounds", type=int, default=15, help="times each is measured (default: 15)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--tiny", action="store_true", help="tiny network: seconds, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (240, 320, 3), dtype=np.uint8) for _ in range(args.images)]
    given = {n: [boxes(rng, n) for _ in images] for n in args.objects}
    read_only = encoder("read-only", args.device, args.tiny)

    most = max(args.objects)
    together = read_only.embed(images[0], boxes=given[most][0]).objects
    alone = torch.cat(
        [read_only.embed(images[0], boxes=given[most][0][i : i + 1]).objects for i in range(most)]
    )
    difference = ((together - alone).abs().max() / alone.abs().max()).item()

    seconds: dict[int, list[float]] = {n: [] for n in args.objects}
    for n in args.objects:
        read_only.embed(images, boxes=given[n])
    for r in range(args.rounds):
        for n in args.objects if r % 2 == 0 else args.objects[::-1]:
            start = time.perf_counter()
            read_only.embed(images, boxes=given[n])
            seconds[n].append(time.perf_counter() - start)
    single = encoder("single", args.device, args.tiny)
    start = time.perf_counter()
    single.embed(images, boxes=given[most])
    of_single = time.perf_counter() - start

    base = seconds[args.objects[0]]
    rows = []
    for n in args.objects:
        median, low, high = ratio(seconds[n], base)
        milliseconds = 1000 * float(np.median(seconds[n])) / args.images
        found = {"ratio": median, "ratio_low": low, "ratio_high": high}
        rows.append({"objects": n, "ms_per_image": milliseconds, **found})
    table = Table(
        title=f"Embedding {args.images} images, {'tiny ViT' if args.tiny else 'ViT-S/16'} at 224, read-only "
        f"tokens, {args.device}"
    )
    for column in ("objects an image", "ms an image", f"to {args.objects[0]} object (95 %)"):
        table.add_column(column, justify="right")
    for row in rows:
        interval = f"{row['ratio']:.3f} ({row['ratio_low']:.3f} - {row['ratio_high']:.3f})"
        table.add_row(str(row["objects"]), f"{row['ms_per_image']:.1f}", interval)
    table.add_row(
        f"{most}, single tokens",
        f"{1000 * of_single / args.images:.1f}",
        f"{of_single / float(np.median(base)):.2f} (once)",
    )
    console = Console(width=110)
    console.print(table)
    console.print(
        f"{most} objects at once against {most} single calls: largest difference {difference:.1e} of the "
        f"largest value"
    )
    if args.json:
        setting = {k: v for k, v in vars(args).items() if k != "json"}
        figures = {
            **setting,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "rows": rows,
            "relative_difference": difference,
        }
        args.json.write_text(
            json.dumps({**figures, "single_seconds": of_single, "seconds": seconds}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
