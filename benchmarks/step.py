"""Cost of one whole training step: ODIS, own iBOT, and iBOT from lightly's parts, on the same images.

    python benchmarks/step.py [--batch 8] [--rounds 7] [--precision bf16] [--checkpointing] [--json FILE]
    # each kernel, and all of them, off
    python benchmarks/step.py --only odis odis:reference odis:without-attention odis:without-mlp
    # the code of another checkout
    python benchmarks/step.py --only odis odis:before ibot ibot:before --against DIR
    # what eight object tokens a view cost: all visible in all views, or as they are in these images
    python benchmarks/step.py --only objects-1 objects-8 [--data INDEX --steps 4]

A step is teacher pass, student pass, losses, backward pass, gradient clipping, AdamW, and the teacher's
update, for ViT-S/16 with 2 views of 224 and 10 of 96 pixels and 8192 prototypes. Data loading is left out.
Rounds interleave the three, every other round backwards, so that whatever else the machine does meets all of
them; ratios are taken within a round, and their median is given with its 95 % bootstrap interval over rounds:
a shared machine easily varies by 10 % from step to step. Each variant is a process of its own, which waits
while others are measured: how memory is allocated is part of the training code. Peak memory is measured in
yet another. The rate of matrix products is measured in every round too, and how much of it a step's counted
arithmetic is. `all tokens` also counts what would be made of tokens that no loss reads, as published code
makes it: the arithmetic of the method as it is usually counted.

`odis` and `ibot` are the recipes odis-vits16 and ibot-vits16 in the real training code. `lightly` is wired as
its documented iBOT example (examples/pytorch/ibot.py: MaskedVisionTransformerTIMM, DINOProjectionHead,
DINOLoss, IBOTPatchLoss, update_momentum, AdamW as torch makes it), without the example's layer scale, which
the other two networks have not; it does not clip gradients.

`objects-1` and `objects-8` are odis-vits16 with read-only object tokens, on the same views, each of which
shows eight objects: the worst case, since objects that a view does not show are left out. With `--data` each
has views of its own, of the images of an object index. FLOPs are counted, and the same on every machine.

`NAME:reference` runs without the kernels of `odis/kernels`, `NAME:without-KERNEL` without one of them, and
`NAME:before` runs `benchmarks/step.py` and `src` of the checkout that `--against` names.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import unittest.mock
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from odis.benchmark.flops import count_flops, matmul_rate
from odis.benchmark.measure import middle
from odis.machine.devices import peak_memory, resolve_device
from odis.machine.ranks import Ranks
from odis.method.vit import ObjectViT
from odis.train.start import build_run
from odis.types import Batch, SelectedTokens
from steps.variants import (
    COMPARED,
    IMAGES,
    Step,
    base_of,
    batches_for,
    build,
    configure,
    named,
    switched,
)


def seconds(step: Step, batches: list[Batch], device: torch.device) -> float:
    """Time of a step on each batch."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    wait()
    return time.perf_counter() - start


def peak_mib(variant: str, args: argparse.Namespace, device: torch.device) -> float:
    """Most memory held in this process while it takes two steps: of the GPU, or resident."""
    step, batches = build(variant, args, device), batches_for(variant, args, 2, device)
    with switched(variant):
        seconds(step, batches, device)
    status = Path("/proc/self/status")
    if device.type == "cpu" and status.exists():  # `getrusage` would begin with what the parent process held
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return peak_memory(device) * 2**10


def in_own_process(variant: str, args: argparse.Namespace, task: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a process that does a task (`--serve`, `--memory-of`) for a variant."""
    script, environment = Path(__file__), dict(os.environ)
    if variant.endswith(":before"):
        script = args.against / "benchmarks" / "step.py"
        environment["PYTHONPATH"] = str(args.against / "src")
        variant = base_of(variant)
    words, skip = [], False
    for word in sys.argv[1:]:  # what the other checkout need not know
        skip = word == "--only" or word == "--against" or (skip and not word.startswith("--"))
        words += [] if skip else [word]
    return [sys.executable, str(script), *words, task, variant], environment


def peak_mib_in_own_process(variant: str, args: argparse.Namespace) -> float:
    """`peak_mib`, undisturbed by the other variants."""
    command, environment = in_own_process(variant, args, "--memory-of")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"measuring the memory of {variant} failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


class Server:
    """A process that holds one variant and takes its steps when it is asked to, so that its allocator and
    threads are its own.
    """

    def __init__(self, variant: str, args: argparse.Namespace) -> None:
        command, environment = in_own_process(variant, args, "--serve")
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self) -> float:
        """Time of `args.steps` steps."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            return float(self.process.stdout.readline())
        except (OSError, ValueError):
            sys.exit("a variant failed; its error is above")


def serve(variant: str, args: argparse.Namespace, device: torch.device) -> None:
    """The other end of `Server`: a line in, the seconds of the steps out."""
    batches, step = batches_for(variant, args, args.steps, device), build(variant, args, device)
    with switched(variant):
        for _ in sys.stdin:
            print(seconds(step, batches, device), flush=True)


def measure(args: argparse.Namespace, device: torch.device) -> tuple[dict[str, list[float]], list[float]]:
    """Images a second of each variant in each round, and in each the GFLOPs a second of matrix products as
    wide as the MLP's.
    """
    views = configure("ibot", args).views
    shape = {"rows": args.batch * views.global_views * (views.global_size // 16) ** 2, "width": 384}
    servers = {variant: Server(variant, args) for variant in args.only}  # they start side by side
    for server in servers.values():
        server.seconds()  # the first step allocates
    rates: dict[str, list[float]] = {variant: [] for variant in args.only}
    products: list[float] = []
    for i in range(args.rounds):
        products.append(
            matmul_rate(device, args.precision, **shape, seconds=0.05 if args.tiny else 1.0) / 1e9
        )
        for variant in args.only if i % 2 == 0 else args.only[::-1]:
            rates[variant].append(args.batch * args.steps / servers[variant].seconds())
    for server in servers.values():
        server.process.terminate()
    return rates, products


def gflop(variant: str, args: argparse.Namespace, device: torch.device) -> float | None:
    """GFLOP an image of odis's own variants, counted on one batch; None for others."""
    if variant == "lightly" or ":" in variant:
        return None
    run = build_run(configure(variant, args), Ranks(0, 1, device), images=IMAGES)
    run.step = run.schedules.total_steps // 2
    return count_flops(run, batches_for(variant, args, 1, device)[0]) / args.batch / 1e9


def gflop_of_all_tokens(variant: str, args: argparse.Namespace, device: torch.device) -> float | None:
    """`gflop`, if every token went through all of the last block."""

    def read(
        self: ObjectViT,
        images: Tensor,
        masks: Any,
        hide: Any,
        patches: Tensor,
        objects: Tensor,
        *,
        image: bool,
    ) -> SelectedTokens:
        tokens = self(images, masks, hide)
        found = None if tokens.objects is None else tokens.objects.flatten(0, 1)[objects]
        return SelectedTokens(
            found, tokens.image if image or found is None else None, tokens.patches.flatten(0, 1)[patches]
        )

    with unittest.mock.patch.object(ObjectViT, "forward_selected", read):
        return gflop(variant, args, device)


def summarise(
    rates: dict[str, list[float]],
    products: list[float],
    memory: dict[str, float],
    flops: dict[str, Any],
    of_all_tokens: dict[str, Any],
) -> list[dict[str, Any]]:
    """One row a variant: rate with its spread, ratios (medians over rounds of the ratio within the round,
    with intervals), memory.
    """

    def ratio(one: str, other: str) -> list[float] | None:
        return (
            None
            if other not in rates or one == other
            else list(middle(np.array(rates[one]) / np.array(rates[other])))
        )

    def of_products(work: float | None, variant: str) -> list[float] | None:
        return None if work is None else list(middle(work * np.array(rates[variant]) / np.array(products)))

    return [
        {
            "step": variant,
            "images_per_second": statistics.median(r),
            "slowest": min(r),
            "fastest": max(r),
            "to_own_ibot": ratio(variant, "ibot"),
            "to_lightly": ratio(variant, "lightly"),
            "to_one_object": ratio(variant, "objects-1"),
            "to_same": ratio(variant, base_of(variant)),
            "gflop_per_image": flops[variant],
            "of_matmul_rate": of_products(flops[variant], variant),
            "peak_mib": memory[variant],
            "gflop_of_all_tokens": of_all_tokens[variant],
            "of_matmul_rate_all_tokens": of_products(of_all_tokens[variant], variant),
        }
        for variant, r in rates.items()
    ]


def shown(ratio: list[float] | None) -> str:
    return "" if ratio is None else f"{ratio[0]:.3f} ({ratio[1]:.3f} - {ratio[2]:.3f})"


def percent(share: list[float] | None) -> str:
    return "" if share is None else "{:.0f} % ({:.0f} - {:.0f})".format(*(100 * v for v in share))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8, help="images a step (default: 8)")
    parser.add_argument("--rounds", type=int, default=7, help="times each variant is measured (default: 7)")
    parser.add_argument(
        "--steps", type=int, default=1, help="steps a measurement (default: 1; take more on a GPU)"
    )
    parser.add_argument(
        "--only", nargs="+", type=named, default=COMPARED, help=f"default: {' '.join(COMPARED)}"
    )
    parser.add_argument("--against", type=Path, help="another checkout, for NAME:before")
    parser.add_argument("--data", help="object index: measure on views of its images, not on noise")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--checkpointing", action="store_true", help="activation checkpointing in odis and ibot"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="tiny network and views: seconds, to see that it runs"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--memory-of", type=named, help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=named, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if any(variant.endswith(":before") for variant in args.only) and args.against is None:
        parser.error("NAME:before needs --against DIR")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    if args.serve:
        serve(args.serve, args, device)
        return
    if args.memory_of:
        print(peak_mib(args.memory_of, args, device))
        return

    memory = {variant: peak_mib_in_own_process(variant, args) for variant in args.only}
    rates, products = measure(args, device)
    flops, whole = (
        {variant: count(variant, args, device) for variant in args.only}
        for count in (gflop, gflop_of_all_tokens)
    )
    rows = summarise(rates, products, memory, flops, whole)
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    network = "tiny ViT" if args.tiny else "ViT-S/16, 2 x 224 + 10 x 96, 8192 prototypes"
    table = Table(
        title=f"Training step, {network}, batch {args.batch}, {args.precision}, {where}: median of "
        f"{args.rounds} rounds"
    )
    compared = [("to_one_object", "to objects-1")] if "objects-1" in args.only else []
    compared += (
        [("to_own_ibot", "to own iBOT"), ("to_lightly", "to lightly")]
        if set(COMPARED) & set(args.only)
        else []
    )
    compared += [("to_same", "to the same, plain")] if any(":" in variant for variant in args.only) else []
    ends = ("GFLOP/image", "of matmul rate", "all tokens", "peak memory")
    for column in ("step", "images/s", "slowest - fastest", *(label for _, label in compared), *ends):
        table.add_column(column, justify="left" if column == "step" else "right")
    for r in rows:
        table.add_row(
            r["step"],
            f"{r['images_per_second']:.3f}",
            f"{r['slowest']:.3f} - {r['fastest']:.3f}",
            *(shown(r[key]) for key, _ in compared),
            "" if r["gflop_per_image"] is None else f"{r['gflop_per_image']:.1f}",
            percent(r["of_matmul_rate"]),
            percent(r["of_matmul_rate_all_tokens"]),
            f"{r['peak_mib']:.0f} MiB",
        )
    Console(width=165).print(table)
    print(f"Matrix products: {statistics.median(products):.0f} GFLOP/s (median of the rounds)")
    if args.json:
        setting = {k: v for k, v in vars(args).items() if k not in ("json", "memory_of", "serve", "against")}
        figures = {
            **setting,
            "device": where,
            "torch": torch.__version__,
            "variants": rows,
            "rounds_images_per_second": rates,
        }
        figures |= {"rounds_matmul_gflops": products}
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
