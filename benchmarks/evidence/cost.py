"""What a training step of every method costs, measured side by side: images a second and memory, on the
study's own data.

    python benchmarks/evidence/cost.py [--world scenes] [--rounds 7] [--methods ...] [--work evidence-work]
    [--results DIR]

Cells of the study run beside each other and beside whatever else the machine does, so their own speed says
little. Here all methods take steps in turns, in one process, on batches that are ready; a rate is the median
over rounds. Memory is that of a process of its own.

Before settings are chosen (`run.py`), `--candidate` says which to take: so the cost of a study is known
before it is paid. A study that is made for a GPU (tiny-imagenet) is measured on a CPU with `--precision fp32
--batch 8 --rounds 1`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from cell import Place, chosen, config_of, flops_per_image
from grid import METHODS, Cell
from worlds import Roots, World, worlds

from odis.benchmark.measure import batches_of, peak_gib, start
from odis.config.training import PretrainConfig
from odis.evaluation.results import write_results
from odis.machine.devices import describe_device, resolve_device
from odis.machine.ranks import Ranks
from odis.objects.index import ObjectIndex
from odis.train.update import train_step

HERE = Path(__file__).parent

_STEPS = 3  # a method takes in one round


def configs_of(
    place: Place, world: World, methods: list[str], candidate: str | None, data: str
) -> dict[str, PretrainConfig]:
    """The settings of each method: with those that were chosen for it, or with the same candidate for all."""
    return {
        name: config_of(world, Cell(name, name), candidate or chosen(place, world, name)[0], data, 0)
        for name in methods
    }


def measure(
    configs: dict[str, PretrainConfig], index: ObjectIndex, rounds: int
) -> tuple[dict[str, dict[str, float]], str]:
    """Images a second, GFLOP an image and peak GiB of every method, and the device they are of."""
    device = resolve_device(next(iter(configs.values())).train.device)
    ranks = Ranks(0, 1, device)
    torch.set_num_threads(1)
    runs = {name: start(config, index, ranks) for name, config in configs.items()}
    ready = {}
    for name, run in runs.items():
        ready[name] = [
            batch.to(device)
            for batch in itertools.islice(batches_of(configs[name], index, run.patch_size), _STEPS)
        ]
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    rates: dict[str, list[float]] = {name: [] for name in configs}
    for turn in range(rounds + 1):
        for name in list(configs)[:: 1 if turn % 2 else -1]:
            wait()
            began = time.perf_counter()
            for batch in ready[name]:
                train_step(runs[name], [batch])
            wait()
            if turn:  # the first round warms up
                rates[name].append(_STEPS * configs[name].train.batch_size / (time.perf_counter() - began))
    found = {
        name: {
            "images_per_second": statistics.median(rates[name]),
            "gflop_per_image": flops_per_image(config, index) / 1e9,
            "peak_gib": peak_gib(config, index, ranks),
        }
        for name, config in configs.items()
    }
    return found, describe_device(device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", default="scenes", help="the data (default: scenes)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: 7)")
    parser.add_argument(
        "--work", type=Path, default=Path("evidence-work"), help="data and runs (default: evidence-work)"
    )
    parser.add_argument(
        "--results", type=Path, default=HERE / "results", help="figures (default: beside this file)"
    )
    parser.add_argument(
        "--photographs", type=Path, help="Tiny-ImageNet's folder, for photographs, its kin and tiny-imagenet"
    )
    parser.add_argument("--voc", type=Path, help="the folder VOCdevkit/VOC2012, for voc")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        choices=list(METHODS),
        help="only these methods (default: all)",
    )
    parser.add_argument(
        "--candidate", help="settings that all methods take (default: those that were chosen for each)"
    )
    parser.add_argument("--batch", type=int, help="images a batch (default: the study's)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="precision (default: the study's)")
    args = parser.parse_args()
    known = worlds(Roots(photographs=args.photographs, voc=args.voc))
    if args.world not in known:
        parser.error(f"no world {args.world!r}; there are {', '.join(known)}")
    world, place = known[args.world], Place(args.work.resolve(), args.results.resolve())
    if args.candidate is not None and args.candidate not in world.candidates:
        parser.error(f"no candidate {args.candidate!r}; there are {', '.join(world.candidates)}")
    if args.rounds < 1 or (args.batch or 1) < 1:
        parser.error("--rounds and --batch must be 1 or more")
    index = world.index("train", place.work)
    try:
        configs = configs_of(place, world, args.methods, args.candidate, index.path)
    except FileNotFoundError as error:
        parser.error(f"{error.filename} is not there: choose settings first (run.py), or give --candidate")
    for config in configs.values():
        config.train.batch_size = args.batch or config.train.batch_size
        config.train.precision = args.precision or config.train.precision
    found, device = measure(configs, index, args.rounds)
    for name, row in found.items():
        print(
            f"{name:20} {row['images_per_second']:8.1f} images/s {row['gflop_per_image']:7.3f} GFLOP an "
            f"image {row['peak_gib']:6.2f} GiB"
        )
    path = place.results / args.world / "cost.json"
    first = next(iter(configs.values()))
    shared: dict[str, Any] = {
        "candidate": args.candidate or "chosen",
        "batch": first.train.batch_size,
        "precision": first.train.precision,
    }
    shared["images_a_run"] = round(first.train.epochs * len(index))
    write_results(
        path, {"world": args.world, "rounds": args.rounds, "device": device, **shared, "methods": found}
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
