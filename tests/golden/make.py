"""Write `losses.json`: what every loss was over 50 steps, for the code that is to be held against it.

    # with the code that is installed
    python tests/golden/make.py [--out tests/golden/losses.json]
    # with the code of an earlier commit
    git worktree add BEFORE COMMIT && PYTHONPATH=BEFORE/src python BEFORE/tests/golden/make.py

An optimisation is to change no loss beyond rounding, so it is held against the losses of the code before it:
make the file from that commit, and make it anew only for a change that is meant to change losses, from the
commit that made it. The file says which code, torch and numpy it is from.

There are two kinds of case. The `fixed` ones take batches and first weights from numpy's generator, so that
they depend on the arithmetic of a step alone. The `data` ones train on scenes composed in memory, through the
loader; what was drawn (objects that are visible, patches that are hidden, mean pixels) is kept beside their
losses, so that another draw is told apart from other arithmetic. All are in fp32, on one thread, without drop
path (whose draws are not the same on every processor).

How far rounding alone may lead is measured too: each case is run again from weights that differ by one part
in 10^7, which is what one rounding of fp32 does, and the largest relative difference over the 50 steps stands
in the file as `rounding`. Training is chaotic, so the difference grows with the steps, and differently in
each case; the tests take a multiple of it. In the `data` cases a pixel can also be rounded to the next of 256
levels. One in fp32 is off by some 1e-4 of a level, so one pixel in 10,000 may be: these cases are run again
with as many pixels moved by a level, three times, and `rounding` is the largest difference.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import odis
from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.data.loader import collate, make_loader
from odis.machine.ranks import Ranks
from odis.objects.index import ObjectIndex
from odis.objects.scenes.write import write_scenes
from odis.train.start import build_run
from odis.train.update import TrainState, train_step
from odis.types import Batch, Crop, Sample, View

STEPS = 50
SCENES = 24
BATCHES = 10  # fixed ones, which come again and again
IMAGES = 4
NUDGE = 1e-7
MOVED = 1e-4  # the share of pixels that another processor may round to the next level
DRAWS = 3

TINY: dict[str, Any] = {
    "views__global_size": 32,
    "views__local_size": 16,
    "views__local_views": 2,
    "model__patch_size": 8,
    "model__embed_dim": 32,
    "model__depth": 2,
    "model__num_heads": 2,
    "model__drop_path": 0.0,
    "head__prototypes": 48,
    "head__hidden": 32,
    "head__bottleneck": 16,
    "head__norm_last_layer": False,
    "loss__warmup_teacher_temp_epochs": 2,
    "optim__base_lr": 0.064,
    "optim__warmup_epochs": 1,
    "optim__momentum_teacher": 0.96,
    "optim__freeze_last_layer_epochs": 0.5,
    "train__steps": STEPS,
    "train__batch_size": IMAGES,
    "train__threads": 1,
    "train__device": "cpu",
    "train__precision": "fp32",
    "loader__workers": 0,
}
READ_ONLY: dict[str, Any] = {"model__object_tokens": "read-only", "objects__per_image": 3}
FIXED: dict[str, dict[str, Any]] = {
    "dino": {"objects__use": False, "loss__patch_weight": 0.0},
    "ibot": {"objects__use": False},
    "odis-single": {},
    "odis-read-only": READ_ONLY,
    "beside": {"model__object_tokens": "beside", "loss__missing_pairs": "zero", "loss__image_weight": 0.5},
    "mean-pool": {"model__object_readout": "mean-pool", "objects__per_image": 2},
    "image-term": {"loss__image_weight": 0.5, "head__shared": False},
    "sinkhorn-koleo-batch-norm": READ_ONLY
    | {"loss__centering": "sinkhorn", "loss__koleo_weight": 0.1, "head__norm": "batch"},
    "accumulate": READ_ONLY | {"train__accumulate": 2},
    # A center that stands still, and every object seen by every view: then micro-batches may be cut anywhere.
    "even": {"loss__center_momentum": 1.0},
}
DATA: dict[str, dict[str, Any]] = {
    "scenes-single": {"views__global_scale": (0.1, 0.5)},
    "scenes-read-only": READ_ONLY | {"views__global_scale": (0.1, 0.5), "objects__min_visible": 0.3},
}
CASES = FIXED | DATA


def configure(case: str, data: str = "fixed", **changes: Any) -> PretrainConfig:
    """The settings of a case, some of them changed."""
    return load_recipe("debug", data=data, **(TINY | CASES[case] | changes))


def fixed_batches(
    config: PretrainConfig, *, even: bool = False, parts: int | None = None
) -> list[list[Batch]]:
    """Ten batches of noise, each in `train.accumulate` micro-batches, or in so many `parts`.

    Objects are random patches, seen in about two views of three, or in all of them (`even`).
    """
    rng = np.random.default_rng(20251)
    views, objects = config.views, config.objects.per_image
    sizes = [views.global_size] * views.global_views + [views.local_size] * views.local_views
    parts = parts or config.train.accumulate
    batches = []
    for _ in range(BATCHES):
        samples = []
        for i in range(IMAGES):
            shown = []
            for size in sizes:
                grid = (size // 8) ** 2
                pixels = rng.standard_normal((3, size, size), dtype=np.float32)
                visible = rng.random(objects) < (2.0 if even else 0.67)
                masks = rng.random((objects, grid)) < 0.4
                masks[:, 0] |= ~masks.any(1)
                masks |= ~visible[:, None] | (not config.objects.use)
                visible |= not config.objects.use
                masks, visible = torch.from_numpy(masks), torch.from_numpy(visible)
                shown.append(View(torch.from_numpy(pixels), Crop(0, 0, size, size), masks, visible))
            hidden = torch.from_numpy(
                rng.random((2, (views.global_size // 8) ** 2)) < (0.3 if even or rng.random() < 0.7 else 0.0)
            )
            hidden[:, 1] |= even  # one at least
            samples.append(Sample(shown[:2], shown[2:], hidden, index=i, path=f"{i}"))
        share = IMAGES // parts
        parted = [samples[k * share : (k + 1) * share] for k in range(parts)]
        batches.append([collate(part, config.loss.missing_pairs) for part in parted])
    return batches


def steps_of(case: str, config: PretrainConfig, *, parts: int | None = None) -> Iterator[list[Batch]]:
    """The micro-batches of each step; those of a `data` case are what the loader makes of `config.data`."""
    if case in FIXED:
        batches = fixed_batches(config, even=case == "even", parts=parts)
        yield from (batches[k % BATCHES] for k in range(STEPS))
        return
    loader = iter(make_loader(ObjectIndex.open(config.data), config, patch_size=8, start_step=0, steps=STEPS))
    yield from ([next(loader) for _ in range(config.train.accumulate)] for _ in range(STEPS))


@torch.no_grad()
def set_weights(run: TrainState, nudge: float = 0.0) -> None:
    """First weights from numpy: a function of each one's name and shape, drawn about as wide as networks
    begin.

    With `nudge`, every weight is that part of itself larger or smaller.
    """
    for network in (run.student, run.teacher):
        for name, weight in network.named_parameters():
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            value = rng.standard_normal(tuple(weight.shape)) * (
                0.1 if weight.ndim < 2 or "token" in name else weight[0].numel() ** -0.5
            )
            if (weight.ndim == 1 and name.endswith("weight")) or name.endswith("length"):
                value += 1.0  # norms
            value *= 1 + nudge * np.random.default_rng(zlib.crc32(name.encode()) + 1).choice(
                (-1, 1), value.shape
            )
            weight.copy_(torch.from_numpy(value))


def new_run(config: PretrainConfig, *, nudge: float = 0.0) -> TrainState:
    """A run before its first step, with `set_weights`."""
    run = build_run(config, Ranks(0, 1, torch.device("cpu")), images=SCENES)
    set_weights(run, nudge)
    return run


def train(run: TrainState, steps: Iterable[list[Batch]]) -> dict[str, list[float]]:
    """Every loss at every step (of several micro-batches: their means)."""
    seen: dict[str, list[float]] = {}
    for micro_batches in steps:
        train_step(run, micro_batches)
        for name, value in run.meters.means().items():
            if name.startswith("loss"):
                seen.setdefault(name, []).append(float(f"{value:.9g}"))  # as many digits as fp32 has
    return seen


def move_pixels(steps: Iterable[list[Batch]], config: PretrainConfig, seed: int) -> Iterator[list[Batch]]:
    """The steps with a share `MOVED` of the pixels one level of 256 higher or lower."""
    rng, level = (
        np.random.default_rng(seed),
        torch.tensor([1 / 255 / std for std in config.views.statistics[1]]).view(-1, 1, 1),
    )

    def moved(pixels: Tensor) -> Tensor:
        where = torch.from_numpy(
            rng.choice((-1.0, 0.0, 1.0), tuple(pixels.shape), p=(MOVED / 2, 1 - MOVED, MOVED / 2))
        )
        return pixels + where.float() * level

    for batches in steps:
        yield [
            replace(b, global_views=moved(b.global_views), local_views=moved(b.local_views)) for b in batches
        ]


def rounding(case: str, config: PretrainConfig, losses: dict[str, list[float]]) -> float:
    """How far the losses of a case stray by rounding: of the weights, and in a `data` case of the pixels."""
    found = [train(new_run(config, nudge=NUDGE), steps_of(case, config))]
    if case in DATA:
        found += [
            train(new_run(config), move_pixels(steps_of(case, config), config, seed)) for seed in range(DRAWS)
        ]
    return float(f"{max(difference(losses, one) for one in found):.2g}")


def drawn(steps: Iterable[list[Batch]]) -> dict[str, Any]:
    """What the data of some steps is: counts, and mean pixels."""
    batches = [batch for micro_batches in steps for batch in micro_batches]

    def mean(pixels: Tensor) -> float:
        return float(f"{pixels.double().mean():.7g}")

    return {
        "rows": [batch.indices for batch in batches],
        "visible": [len(batch.teacher_rows) + len(batch.student_local_rows) for batch in batches],
        "object_patches": [int(batch.global_masks.sum() + batch.local_masks.sum()) for batch in batches],
        "hidden": [len(batch.hidden) for batch in batches],
        "pixels": [
            mean(torch.cat([batch.global_views.flatten(), batch.local_views.flatten()])) for batch in batches
        ],
    }


def difference(a: dict[str, list[float]], b: dict[str, list[float]]) -> float:
    """Largest relative difference of two courses of the losses."""
    assert a.keys() == b.keys(), f"{sorted(a)} and {sorted(b)}"
    scale = {name: np.maximum(np.abs(a[name]), 1e-3) for name in a}
    return max(float((np.abs(np.array(a[name]) - b[name]) / scale[name]).max()) for name in a)


def scenes(folder: Path) -> str:
    """Scenes to train on, written to `folder`: path of their index."""
    write_scenes(folder / "scenes", folder / "scenes.parquet", count=SCENES, split="train", seed=0)
    return str(folder / "scenes.parquet")


def make(folder: Path, *, measure_rounding: bool = True) -> dict[str, Any]:
    """What the golden file holds."""
    data, cases = scenes(folder), {}
    for case in CASES:
        config = configure(case, data)
        losses = train(new_run(config), steps_of(case, config))
        cases[case] = {"losses": losses}
        if measure_rounding:
            cases[case]["rounding"] = rounding(case, config, losses)
        if case in DATA:
            cases[case]["drawn"] = drawn(list(steps_of(case, config))[:10])
    where = Path(odis.__file__).resolve().parent
    commit = subprocess.run(
        ["git", "-C", str(where), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    made_by = {
        "code": commit or None, "odis": odis.__version__, "torch": torch.__version__, "numpy": np.__version__,
        "processor": platform.machine(), "kernels": torch.backends.cpu.get_cpu_capability(), "steps": STEPS,
    }  # fmt: skip
    return {"made_by": made_by, "cases": cases}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).with_name("losses.json"),
        help="default: beside this script",
    )
    parser.add_argument(
        "--against", type=Path, help="a golden file: print how far these losses are from it, write nothing"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder), measure_rounding=args.against is None)
    old = json.loads(args.against.read_text())["cases"] if args.against else None
    for case, values in made["cases"].items():
        losses = values["losses"]["loss"]
        if old is None:
            held = f"rounding {values['rounding']:.1e}"
        else:
            strayed = difference(old[case]["losses"], values["losses"])
            held = f"strays by {strayed:.1e}, {strayed / old[case]['rounding']:.2f} x its rounding"
            held += "" if values.get("drawn") == old[case].get("drawn") else "; OTHER DATA WERE DRAWN"
        print(f"{case:28} loss {losses[0]:.3f} -> {losses[-1]:.3f}  {held}")
    print(made["made_by"])
    if old is None:
        args.out.write_text(json.dumps(made).replace('"loss', '\n"loss').replace('"drawn', '\n"drawn') + "\n")


if __name__ == "__main__":
    main()
