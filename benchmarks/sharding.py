"""Memory of each GPU against the number of GPUs: ViT-L and ViT-g with `train.parallel fsdp`, by arithmetic.

    python benchmarks/sharding.py [--json FILE] [--docs docs/distributed.md]

Weights are counted in networks on the meta device, which take no memory. What autograd keeps is counted in
networks of the same width with one and two blocks, with one and two images, on this CPU: the rest is linear
in both. No GPU is asked, and what its allocator adds is not in the figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import odis.kernels.choose
from agree import a_batch
from odis.backbones.build import build_pair
from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.method.step import LossTerms, student_pass

GIB = 2**30
WORLDS = (1, 2, 4, 8, 16, 32, 64)
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "ViT-L/16": ({}, 32),
    "ViT-g/14": (
        {"model__name": "vit_giant_patch14_dinov2", "model__patch_size": 14, "views__local_size": 98},
        16,
    ),
}
"""What differs from the recipe `odis-vitl16`, and images a GPU."""

BEGIN, END = "<!-- written by benchmarks/sharding.py -->", "<!-- end -->"


@dataclass(frozen=True)
class Sizes:
    """Numbers of weights."""

    student: int
    blocks: int  # of the student's, in its blocks
    block: int  # in the largest block
    teacher: int


@dataclass(frozen=True)
class Kept:
    """Bytes that autograd keeps."""

    weights: int  # copies in bf16 that products keep
    image: int  # for each image
    block_image: int  # for each image while one block is computed again


@dataclass(frozen=True)
class Memory:
    """GiB of one GPU at the end of the student's forward pass and in its backward pass, the larger."""

    gpus: int
    parallel: str
    weights: float
    gradients: float
    optimizer: float
    teacher: float
    gathered: float  # of student and gradients, not sharded for a moment
    activations: float

    @property
    def total(self) -> float:
        return sum(value for value in asdict(self).values() if isinstance(value, float))


def configure(model: str, **more: Any) -> PretrainConfig:
    """The settings of a model."""
    changes = MODELS[model][0] | {"train__precision": "bf16", "model__drop_path": 0.0} | more
    return load_recipe("odis-vitl16", data="x", model__weights=None, **changes)


def count_weights(config: PretrainConfig) -> Sizes:
    """Of student and teacher, on the meta device."""
    with torch.device("meta"):
        student, teacher = build_pair(config)
    blocks = [_count(block) for block in student.backbone.blocks]
    return Sizes(_count(student), sum(blocks), max(blocks), _count(teacher))


def count_kept(config: PretrainConfig) -> Kept:
    """What the student's forward pass keeps, by differences between small networks."""
    depth = count_depth(config)
    # As a GPU attends: without keeping the weights of attention.
    with patch.object(odis.kernels.choose, "_has_bf16_instructions", lambda: False):
        saved = {(d, b, r): _saved(config, d, b, r) for d in (1, 2) for b in (1, 2) for r in (False, True)}

    def at(batch: int, recomputed: bool) -> int:
        one, two = (saved[d, batch, recomputed] for d in (1, 2))
        return one + (depth - 1) * (two - one)

    image = at(2, True) - at(1, True)
    of_block = [saved[d, 2, False] - saved[d, 1, False] for d in (1, 2)]
    return Kept(max(at(1, True) - image, 0), image, of_block[1] - of_block[0])


def count_depth(config: PretrainConfig) -> int:
    """Blocks of the network."""
    with torch.device("meta"):
        return len(build_pair(config)[0].backbone.blocks)


def _saved(config: PretrainConfig, depth: int, images: int, recomputed: bool) -> int:
    """Bytes of the tensors that the student's pass keeps for its backward pass, weights apart."""
    model = replace(config.model, depth=depth, grad_checkpointing=recomputed)
    small = replace(config, model=model, train=replace(config.train, batch_size=images))
    student, _ = build_pair(small)
    mine = {p.untyped_storage().data_ptr() for p in student.parameters()}
    held: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in mine:
            held[storage.data_ptr()] = storage.nbytes()
        return x

    batch = a_batch(small, torch.device("cpu"))
    with (
        torch.autocast("cpu", torch.bfloat16, cache_enabled=not recomputed),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
    ):
        _alive = student_pass(student, batch, LossTerms.of(small))
    return sum(held.values())


def memory(sizes: Sizes, kept: Kept, images: int, gpus: int, parallel: str = "fsdp") -> Memory:
    """Of one GPU, with gradient checkpointing.

    Sharded, a rank holds for a moment what is outside the blocks, two blocks (one runs, the next is fetched),
    and the gradients of all blocks: the local views' are there first, and wait for the global views'.
    """
    share = gpus if parallel == "fsdp" else 1
    outside = sizes.student - sizes.blocks
    gathered = 4 * (outside + 2 * sizes.block + sizes.blocks) if gpus > 1 and parallel == "fsdp" else 0
    activations = kept.weights + images * (kept.image + kept.block_image)
    return Memory(
        gpus, parallel,
        weights=4 * sizes.student / share / GIB,
        gradients=4 * sizes.student / share / GIB,
        optimizer=8 * sizes.student / share / GIB,
        teacher=4 * sizes.teacher / share / GIB,
        gathered=gathered / GIB,
        activations=activations / GIB,
    )  # fmt: skip


def table(rows: Sequence[Memory]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "| GPUs | weights | gradients | optimizer | teacher | gathered | activations | together |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        parts = [value for value in [*asdict(row).values(), row.total] if isinstance(value, float)]
        name = f"{row.gpus}" if row.parallel == "fsdp" else "any, `ddp`"
        lines.append(f"| {name} | " + " | ".join(f"{part:.2f}" for part in parts) + " |")
    return lines


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--docs", type=Path, help="page whose tables are written anew")
    args = parser.parse_args()
    text, figures = list[str](), dict[str, Any]()
    for name, (_, images) in MODELS.items():
        config = configure(name)
        sizes, kept = count_weights(config), count_kept(config)
        rows = [memory(sizes, kept, images, 1, "ddp")]
        rows += [memory(sizes, kept, images, gpus) for gpus in WORLDS[1:]]
        head = f"{name} with its head: {sizes.student / 1e6:,.0f} million weights; {images} images a GPU"
        text += [f"{head}. GiB of a GPU:", "", *table(rows), ""]
        figures[name] = {"sizes": asdict(sizes), "kept": asdict(kept), "rows": [asdict(row) for row in rows]}
    print("\n".join(text))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    if args.docs:
        page = args.docs.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        args.docs.write_text(before + "\n".join([BEGIN, "", *text, END]) + after)


if __name__ == "__main__":
    main()
