"""Check that the kernels compute what the reference computes, on this device, in a whole training step.

    python benchmarks/agree.py [--device auto] [--batch 4] [--tiny] [--json FILE]

Each case is one batch of noise through teacher pass, student pass, losses and backward pass, once with the
kernels that this device gets and once under `odis.kernels.reference()`. Every loss and every gradient is
compared. No bound comes from one machine:

- fp32: the scale is what rounding does. The reference runs again with every weight moved by one part in 10^7,
  which is one rounding of fp32. A kernel may differ by five times as much as that run does.
- bf16, fp16: the fp32 reference is the oracle, and the reference in the same precision is the scale. A
  kernel may be off by twice as much.

A gradient is compared by its norm, one tensor at a time. On top of each bound comes what rounding does to a
sum of as many terms as the longest product has. Views rendered on the device are compared with those of the
CPU, in levels of 8 bits. The exit status is 1 if anything differs by more than it may.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import odis.kernels
from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.data.loader import collate, make_loader
from odis.data.views import make_sample
from odis.machine.devices import DTYPES, describe_device, resolve_device
from odis.machine.ranks import Ranks
from odis.method.step import compute_losses, student_pass, teacher_pass
from odis.objects.index import ObjectIndex
from odis.objects.scenes.write import write_scenes
from odis.train.start import build_run
from odis.train.update import TrainState
from odis.types import Batch, ImageObjects, Object, Sample

READ_ONLY: dict[str, Any] = {"model__object_tokens": "read-only", "objects__per_image": 8}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "odis": ("odis-vits16", {}),
    "ibot": ("ibot-vits16", {}),
    "read-only": ("odis-vits16", READ_ONLY),
    "beside": ("odis-vits16", {"model__object_tokens": "beside"}),
    "checkpointing": ("odis-vits16", READ_ONLY | {"model__grad_checkpointing": True}),
}
TINY: dict[str, Any] = {
    "model__name": "vit_tiny_patch16_224", "model__embed_dim": 32, "model__depth": 2, "model__num_heads": 2,
    "model__patch_size": 8, "views__global_size": 64, "views__local_size": 32,
    "head__prototypes": 64, "head__hidden": 64, "head__bottleneck": 32,
}  # fmt: skip
WIDTH, HEIGHT = 320, 240  # of the images of noise
NUDGE = 1e-7
OF_ROUNDING, OF_PRECISION = 5.0, 2.0
TERMS = 4096
LEVELS = 5.1  # a resized pixel may be rounded to the next level, and jitter makes up to 5 of one
MEAN_LEVELS = 0.03


@dataclass(frozen=True)
class Difference:
    """The loss or gradient of a case that is nearest to its bound."""

    case: str
    precision: str
    what: str
    off: float  # relative to its norm
    allowed: float

    @property
    def share(self) -> float:
        """Of what is allowed; above 1 the kernels are wrong."""
        return self.off / self.allowed


def configure(case: str, precision: str, args: argparse.Namespace, device: torch.device) -> PretrainConfig:
    """The recipe of a case, without the draws of drop path and with all layers trained."""
    recipe, changes = CASES[case]
    return load_recipe(
        recipe, train__batch_size=args.batch, train__device=device.type, train__precision=precision,
        model__drop_path=0.0, optim__freeze_last_layer_epochs=0, **(TINY if args.tiny else {}), **changes,
    )  # fmt: skip


def a_batch(config: PretrainConfig, device: torch.device) -> Batch:
    """Noise with boxes of many sizes, so that some views show an object and others do not."""
    rng = np.random.default_rng(0)
    samples = []
    for i in range(config.train.batch_size):
        image = torch.from_numpy(rng.integers(0, 256, (3, HEIGHT, WIDTH), dtype=np.uint8))
        boxes = []
        for _ in range(config.objects.per_image):
            x, y = rng.uniform(0, WIDTH - 40), rng.uniform(0, HEIGHT - 40)
            right, bottom = rng.uniform(x + 20, WIDTH), rng.uniform(y + 20, HEIGHT)
            boxes.append(Object((x, y, right, bottom)))
        row = ImageObjects("noise", WIDTH, HEIGHT, tuple(boxes))
        patch = config.model.patch_size or 16
        views = make_sample(rng, image, row, config.objects, config.views, config.prediction, patch)
        samples.append(Sample(*views, index=i, path="noise"))
    return collate(samples).to(device)


def step_values(run: TrainState, batch: Batch, precision: str) -> dict[str, Tensor]:
    """The losses of a step and its gradients, in fp32."""
    run.student.zero_grad(set_to_none=True)
    dtype, temp = DTYPES[precision], run.config.loss.teacher_temp
    with torch.autocast(run.ranks.device.type, dtype=dtype, enabled=dtype != torch.float32):
        teacher = teacher_pass(run.teacher, batch, run.centers, temp, run.config, run.terms)
        student = student_pass(run.student, batch, run.terms)
    losses = compute_losses(student, teacher, batch, run.config)
    scale = 2.0**12 if precision == "fp16" else 1.0  # small gradients are nothing in fp16
    (scale * losses.total).backward()
    found = {name: torch.as_tensor(value) for name, value in losses.named().items()}
    for name, parameter in run.student.named_parameters():
        if parameter.grad is not None:
            found[f"gradient of {name}"] = parameter.grad / scale
    return {name: value.detach().float().cpu() for name, value in found.items()}


@torch.no_grad()
def nudge(run: TrainState) -> None:
    """Move every weight by one part in 10^7."""
    generator = torch.Generator().manual_seed(0)
    for network in (run.student, run.teacher):
        for weight in network.parameters():
            sign = torch.randint(0, 2, weight.shape, generator=generator, dtype=torch.float32) * 2 - 1
            weight.mul_(1 + NUDGE * sign.to(weight.device))


def compare(case: str, precision: str, args: argparse.Namespace, device: torch.device) -> Difference:
    """What of a case is nearest to its bound.

    Raises:
        ValueError: The kernels and the reference train other parameters, or a value is not finite.
    """
    config = configure(case, precision, args, device)
    batch, run = a_batch(config, device), build_run(config, Ranks(0, 1, device), images=1000)
    found = step_values(run, batch, precision)
    with odis.kernels.reference():
        same = step_values(run, batch, precision)
        if precision == "fp32":
            exact = same
            nudge(run)
            usual = step_values(run, batch, precision)
            times = OF_ROUNDING
        else:
            exact, usual, times = step_values(run, batch, "fp32"), same, OF_PRECISION
    if not found.keys() == usual.keys() == exact.keys():
        raise ValueError(f"{case}, {precision}: {sorted(found.keys() ^ exact.keys())} are there in one only")
    # What is summed up may cancel, so that the scale is the largest gradient where a tensor's own is less.
    largest = max(float(value.norm()) for name, value in exact.items() if name.startswith("gradient"))
    rounding = max(TERMS**0.5 * torch.finfo(torch.float32).eps, torch.finfo(DTYPES[precision]).eps)
    differences = []
    for name, value in exact.items():
        size = float(value.norm()) or 1.0
        floor = rounding * max(size, 1e-3 * largest if name.startswith("gradient") else 0.0)
        off = float((found[name] - value).norm())
        allowed = times * float((usual[name] - value).norm()) + floor
        if not np.isfinite(off):
            raise ValueError(f"{case}, {precision}: {name} is not finite")
        differences.append(Difference(case, precision, name, off / size, allowed / size))
    return max(differences, key=lambda d: d.share)


def compare_views(device: torch.device) -> tuple[float, float]:
    """Largest and mean difference of views rendered on the device from the CPU's, in levels of 8 bits."""
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder) / "scenes", Path(folder) / "index.parquet", count=16, split="val", seed=0)
        index = ObjectIndex.open(Path(folder) / "index.parquet")
        config = load_recipe("odis-vits16", data="x", train__batch_size=16, loader__workers=0)
        batches = []
        for render in ("device", "cpu"):
            chosen = replace(config, loader=replace(config.loader, render=render))
            (batch,) = make_loader(index, chosen, patch_size=16, start_step=0, steps=1)
            batches.append(batch.to(device if render == "device" else "cpu").to("cpu"))
    ours, theirs = batches
    level = 1 / 255 / torch.tensor(config.views.statistics[1])[:, None, None]
    off = [
        ((a - b) / level).abs().flatten()
        for a, b in ((ours.global_views, theirs.global_views), (ours.local_views, theirs.local_views))
    ]
    return float(torch.cat(off).max()), float(torch.cat(off).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--batch", type=int, default=4, help="images (default: 4)")
    parser.add_argument(
        "--precision", nargs="+", choices=list(DTYPES), help="default: what the device computes in"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="tiny network and views: seconds, to see that it runs"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    device = resolve_device(args.device)
    precisions = args.precision or (["fp32", "bf16", "fp16"] if device.type == "cuda" else ["fp32", "bf16"])
    found = [compare(case, precision, args, device) for case in CASES for precision in precisions]
    largest, mean = compare_views(device)

    table = Table(
        title=f"Kernels against the reference: {describe_device(device)}, torch {torch.__version__}"
    )
    for column in ("case", "precision", "nearest to its bound", "off by", "allowed"):
        table.add_column(column, justify="right" if column in ("off by", "allowed") else "left")
    for d in found:
        table.add_row(d.case, d.precision, d.what, f"{d.off:.1e}", f"{d.allowed:.1e}")
    Console(width=110).print(table)
    print(f"Views rendered on the device: off by at most {largest:.2f} levels of 255, {mean:.4f} on average")
    wrong = [f"{d.case}, {d.precision}: {d.what}" for d in found if d.share > 1]
    wrong += ["views"] if largest > LEVELS or mean > MEAN_LEVELS else []
    if args.json:
        figures = {
            "device": describe_device(device), "torch": torch.__version__,
            "batch": args.batch, "tiny": args.tiny,
            "steps": [vars(d) | {"share": d.share} for d in found],
            "views": {"largest": largest, "mean": mean, "allowed": [LEVELS, MEAN_LEVELS]}, "wrong": wrong,
        }  # fmt: skip
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    if wrong:
        sys.exit(f"the kernels differ from the reference: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
