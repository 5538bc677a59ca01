"""Cost of one whole training step: ODIS, own iBOT, and iBOT from lightly's parts, on the same images.

    python benchmarks/step.py [--batch 8] [--rounds 7] [--precision bf16] [--checkpointing] [--only odis ibot]
    [--json FILE] python benchmarks/step.py --only objects-1 objects-8                  # what eight object
    tokens a view cost, all visible in all views python benchmarks/step.py --only objects-1 objects-8 --data
    INDEX --steps 4     # ... where views show what they show in these images

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
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import statistics
import subprocess
import sys
import time
import unittest.mock
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from odis.benchmark.flops import count_flops, matmul_rate
from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.data.loader import collate, make_loader
from odis.data.views import make_sample
from odis.machine.devices import peak_memory, resolve_device
from odis.machine.ranks import Ranks
from odis.method.vit import ObjectViT
from odis.objects.index import ObjectIndex
from odis.train.schedules import Schedules
from odis.train.start import build_run
from odis.train.update import train_step
from odis.types import Batch, ImageObjects, Object, Sample, SelectedTokens

try:
    from lightly.loss import DINOLoss, IBOTPatchLoss
    from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
    from lightly.models.utils import update_drop_path_rate, update_momentum
except ImportError:
    sys.exit("benchmarks/step.py compares with lightly: pip install 'odis[test]'")

Step = Callable[[Batch], None]
VARIANTS = {
    "odis": "odis-vits16",
    "ibot": "ibot-vits16",
    "lightly": "ibot-vits16",
    "objects-1": "odis-vits16",
    "objects-8": "odis-vits16",
}
COMPARED = ["odis", "ibot", "lightly"]  # unless others are asked for
MOST = 8  # objects in an image
IMAGES = 1_281_167  # ImageNet-1k: where in its schedules a run is
WIDTH, HEIGHT = 500, 375
TINY: dict[str, Any] = {
    "model__name": "vit_tiny_patch16_224",
    "model__embed_dim": 32,
    "model__depth": 2,
    "model__num_heads": 2,
    "model__patch_size": 8,
    "views__global_size": 64,
    "views__local_size": 32,
    "head__prototypes": 64,
    "head__hidden": 64,
    "head__bottleneck": 32,
}


def configure(variant: str, args: argparse.Namespace) -> PretrainConfig:
    """The variant's recipe past its first epoch: no frozen layer, which would spare work."""
    changes = dict(TINY) if args.tiny else {}
    if (tokens := objects_of(variant)) is not None:
        changes |= {"model__object_tokens": "read-only", "objects__per_image": tokens}
    return load_recipe(
        VARIANTS[variant],
        train__batch_size=args.batch,
        train__precision=args.precision,
        train__device=args.device,
        optim__freeze_last_layer_epochs=0,
        model__grad_checkpointing=args.checkpointing,
        **changes,
    )


def objects_of(variant: str) -> int | None:
    """Object tokens of `objects-N`; None for another variant."""
    return int(variant.removeprefix("objects-")) if variant.startswith("objects-") else None


def batches_for(variant: str, args: argparse.Namespace, count: int, device: torch.device) -> list[Batch]:
    """What a variant is measured on: the same images, views and hidden patches for all that are compared,
    unless they are of an index.
    """
    if args.data:
        config = configure(variant, args)
        loader = make_loader(
            ObjectIndex.open(args.data),
            config,
            patch_size=config.model.patch_size or 16,
            start_step=0,
            steps=count,
        )
        return [batch.to(device) for batch in loader]
    if (tokens := objects_of(variant)) is None:
        return random_batches(configure("odis", args), count, device)
    return random_batches(configure(f"objects-{MOST}", args), count, device, tokens)


def random_batches(config: PretrainConfig, count: int, device: torch.device, tokens: int = 1) -> list[Batch]:
    """Batches of noise with large boxes in each image, which every view shows, so that all variants have the
    same rows to do.

    There are as many boxes as the config reads; a view is asked about the first `tokens` of them.
    """
    rng = np.random.default_rng(0)
    patch = config.model.patch_size or 16
    boxes = tuple(Object((50.0 - k, 40.0 - k, 450.0 + k, 335.0 + k)) for k in range(config.objects.per_image))
    row = ImageObjects("noise", WIDTH, HEIGHT, boxes)
    batches = []
    for _ in range(count):
        samples = []
        for i in range(config.train.batch_size):
            image = torch.from_numpy(rng.integers(0, 256, (3, HEIGHT, WIDTH), dtype=np.uint8))
            *shown, hidden = make_sample(
                rng, image, row, config.objects, config.views, config.prediction, patch
            )
            shown = [
                [replace(v, object_masks=v.object_masks[:tokens], visible=v.visible[:tokens]) for v in part]
                for part in shown
            ]
            samples.append(Sample(*shown, hidden, index=i, path="noise"))
        batch = collate(samples).to(device)
        g, n = config.views.global_views, config.views.local_views
        assert float(batch.pairs) == config.train.batch_size * tokens * g * (g - 1 + n), (
            "a view misses its object"
        )
        batches.append(batch)
    return batches


def own_step(config: PretrainConfig, device: torch.device) -> Step:
    """One step of odis's own training code."""
    run = build_run(config, Ranks(0, 1, device), images=IMAGES)
    run.step = run.schedules.total_steps // 2

    def step(batch: Batch) -> None:
        train_step(run, [batch])

    return step


class LightlyIBOT(nn.Module):
    """The model of lightly's iBOT example, with the sizes of `config`."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        model, head = config.model, config.head
        sizes = {
            k: v
            for k in ("patch_size", "embed_dim", "depth", "num_heads")
            if (v := getattr(model, k)) is not None
        }
        vit = timm.create_model(
            model.name, img_size=config.views.global_size, pos_embed="learn", dynamic_img_size=True, **sizes
        )
        self.teacher_backbone = MaskedVisionTransformerTIMM(
            vit=vit, antialias=False, pos_embed_initialization="skip"
        )
        self.student_backbone = copy.deepcopy(self.teacher_backbone)
        update_drop_path_rate(self.student_backbone.vit, drop_path_rate=model.drop_path, mode="uniform")
        widths = {
            "input_dim": vit.embed_dim,
            "hidden_dim": head.hidden,
            "bottleneck_dim": head.bottleneck,
            "output_dim": head.prototypes,
        }
        self.student_head = DINOProjectionHead(**widths, norm_last_layer=head.norm_last_layer)
        self.teacher_head = DINOProjectionHead(**widths)
        for module in (self.teacher_backbone, self.teacher_head):
            module.requires_grad_(False).eval()


def lightly_step(config: PretrainConfig, device: torch.device) -> Step:
    """One step of iBOT made from lightly's parts, wired as in its example."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # lightly's head uses a deprecated weight norm
    torch.manual_seed(0)
    model = LightlyIBOT(config).to(device)
    loss, settings = config.loss, Schedules(config, IMAGES).at(10**5)
    dino = DINOLoss(output_dim=config.head.prototypes, teacher_temp=loss.teacher_temp).to(device)
    ibot = IBOTPatchLoss(output_dim=config.head.prototypes, teacher_temp=loss.teacher_temp).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr)
    views = config.views.global_views

    def losses(batch: Batch) -> Tensor:
        side = round(batch.prediction_masks.shape[1] ** 0.5)
        block_mask = batch.prediction_masks.unflatten(1, (side, side))
        mask = torch.cat([block_mask.new_zeros(len(block_mask), 1), batch.prediction_masks], dim=1)
        with torch.no_grad():
            teacher_features = model.teacher_backbone.encode(batch.global_views)
            teacher_cls = model.teacher_head(teacher_features[:, 0])
            teacher_patches = model.teacher_head(teacher_features[mask])
        features = model.student_backbone.encode(batch.global_views, mask=mask)
        student_cls = model.student_head(features[:, 0])
        student_patches = model.student_head(features[mask])
        local_cls = model.student_head(model.student_backbone.encode(batch.local_views)[:, 0])
        student_views = [*student_cls.chunk(views), *local_cls.chunk(config.views.local_views)]
        image_loss = dino(teacher_cls.chunk(views), student_views, teacher_temp=settings.teacher_temp)
        patch_loss = ibot(teacher_patches, student_patches, block_mask, teacher_temp=settings.teacher_temp)
        return image_loss + patch_loss

    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.train.precision)

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, dtype=half) if half else contextlib.nullcontext():
            total = losses(batch)
        total.backward()
        for group in optimizer.param_groups:
            group["weight_decay"] = settings.weight_decay
        optimizer.step()
        optimizer.zero_grad()
        update_momentum(model.student_backbone, model.teacher_backbone, m=settings.momentum_teacher)
        update_momentum(model.student_head, model.teacher_head, m=settings.momentum_teacher)

    return step


def build(variant: str, args: argparse.Namespace, device: torch.device) -> Step:
    """The step of a variant."""
    config = configure(variant, args)
    return lightly_step(config, device) if variant == "lightly" else own_step(config, device)


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
    seconds(step, batches, device)
    status = Path("/proc/self/status")
    if device.type == "cpu" and status.exists():  # `getrusage` would begin with what the parent process held
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return peak_memory(device) * 2**10


def peak_mib_in_own_process(variant: str) -> float:
    """`peak_mib`, undisturbed by the other variants."""
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--memory-of", variant], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"measuring the memory of {variant} failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


class Server:
    """A process that holds one variant and takes its steps when it is asked to, so that its allocator and
    threads are its own.
    """

    def __init__(self, variant: str) -> None:
        command = [sys.executable, __file__, *sys.argv[1:], "--serve", variant]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds()  # the first step allocates

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
    for _ in sys.stdin:
        print(seconds(step, batches, device), flush=True)


def measure(args: argparse.Namespace, device: torch.device) -> tuple[dict[str, list[float]], list[float]]:
    """Images a second of each variant in each round, and in each the GFLOPs a second of matrix products as
    wide as the MLP's.
    """
    views = configure("ibot", args).views
    shape = {"rows": args.batch * views.global_views * (views.global_size // 16) ** 2, "width": 384}
    servers = {variant: Server(variant) for variant in args.only}
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
    """GFLOP an image of odis's own variants, counted on one batch; None for lightly's."""
    if variant == "lightly":
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

    with unittest.mock.patch.object(ObjectViT, "read", read):
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
    rng = np.random.default_rng(0)

    def middle(within: np.ndarray) -> list[float]:
        """Median, and the bounds of its 95 % bootstrap interval."""
        medians = np.median(rng.choice(within, (2000, len(within))), axis=1)
        return [float(np.median(within)), *(float(q) for q in np.quantile(medians, (0.025, 0.975)))]

    def ratio(one: str, other: str) -> list[float] | None:
        return (
            None
            if other not in rates or one == other
            else middle(np.array(rates[one]) / np.array(rates[other]))
        )

    def of_products(work: float | None, variant: str) -> list[float] | None:
        return None if work is None else middle(work * np.array(rates[variant]) / np.array(products))

    return [
        {
            "step": variant,
            "images_per_second": statistics.median(r),
            "slowest": min(r),
            "fastest": max(r),
            "to_own_ibot": ratio(variant, "ibot"),
            "to_lightly": ratio(variant, "lightly"),
            "to_one_object": ratio(variant, "objects-1"),
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
        "--only", nargs="+", choices=list(VARIANTS), default=COMPARED, help=f"default: {' '.join(COMPARED)}"
    )
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
    parser.add_argument("--memory-of", choices=list(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    if args.serve:
        serve(args.serve, args, device)
        return
    if args.memory_of:
        print(peak_mib(args.memory_of, args, device))
        return

    memory = {variant: peak_mib_in_own_process(variant) for variant in args.only}
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
        setting = {k: v for k, v in vars(args).items() if k not in ("json", "memory_of", "serve")}
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
