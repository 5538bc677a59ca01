"""How long `odis compare` takes.

    python benchmarks/compare.py --train INDEX --test INDEX [--images 3000] [--precision bf16] [--json FILE]

Two untrained ViT-S/16 with read-only object tokens at 224 x 224, every measure with its defaults. Loading is
not part of it. Beside the time on the clock stands that of the processors, of this process and its workers:
on a busy machine the clock says little.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch

import odis
from odis.backbones.build import build_vit
from odis.config.training import ModelConfig, PretrainConfig, ViewsConfig
from odis.inference import Encoder
from odis.machine.allocator import keep_freed_memory
from odis.objects.index import ObjectIndex

SIDE = 224


def encoder(seed: int, precision: str, device: str, tiny: bool) -> Encoder:
    """An untrained ViT-S/16."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2} if tiny else {}
    model = ModelConfig("vit_small_patch16_224", None, "read-only", **sizes)
    side = 64 if tiny else SIDE
    vit = build_vit(model, side, drop_path=0.0).eval().to(device)
    config = PretrainConfig(model=model, views=ViewsConfig(global_size=side))
    return Encoder.of(vit, config, precision=precision, source=f"untrained {seed}")


def processors() -> float:
    """Seconds that processors have worked for this process and its workers that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", required=True, help="object index with labels")
    parser.add_argument("--test", required=True, help="object index with labels")
    parser.add_argument("--images", type=int, default=3000, help="images in all (default: 3000)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode (default: 0)")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16 (default: fp32)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: to see that it runs")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    test = min(len(ObjectIndex.open(args.test)), args.images // 2)
    train = min(len(ObjectIndex.open(args.train)), args.images - test)
    pair = [encoder(seed, args.precision, args.device, args.tiny) for seed in range(2)]
    clock, work = time.perf_counter(), processors()
    more = {"k": 5, "steps": 20} if args.tiny else {}
    found = odis.compare(
        *pair, train=args.train, test=args.test, max_train=train, max_test=test, workers=args.workers, **more
    )
    measured = [row["measure"] for row in found["data"][0]["measures"]]
    figures = {
        "images": train + test,
        "objects": sum(found["data"][0][part]["objects"] for part in ("train", "test")),
        "seconds": round(time.perf_counter() - clock, 1),
        "processor_seconds": round(processors() - work, 1),
        "threads": args.threads,
        "precision": args.precision,
        "measures": measured,
    }
    how = f"{args.precision}, {args.threads} threads"
    spent = f"{figures['seconds']:.0f} s on the clock, {figures['processor_seconds']:.0f} s of processors"
    print(
        f"{figures['images']:,} images, {figures['objects']:,} objects, {how}: {spent}; {', '.join(measured)}"
    )
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
