"""The study of post-training: a "public" network that is made here, what it is trained on further, and how.

The public network has seen Tiny-ImageNet by iBOT. Each cell starts from its backbone alone, as one that
starts from timm's weights does: heads are new in every method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from grid import Cell
from worlds import PATCHES_8, Roots, World, worlds

from odis.evaluation.label_maps import LabelledImages
from odis.objects.index import write_index
from odis.objects.sources import coco
from odis.types import ImageObjects, Skipped

PUBLIC = Cell("public", "ibot", {"views.global_scale": [0.25, 1.0]}, images=300_000)
"""What every cell starts from."""

LENGTH = 50_000
"""Images that post-training sees."""

TRIAL = 15_000
"""Images of the runs that the learning rate is chosen by."""

BASE_RATE = 8.0e-3
"""`optim.base_lr` at which the public network is trained."""

RATES: dict[str, float] = {
    "rate-1": BASE_RATE,
    "rate-1-4": BASE_RATE / 4,
    "rate-1-16": BASE_RATE / 16,
}
"""What every method chooses from: the rate, as a share of the public network's."""

METHODS: dict[str, str] = {"ibot": "ibot", "read-only": "odis-read-only-all", "beside": "odis-beside"}
"""Continued iBOT, objects by read-only tokens, objects by the authors' kind of token; as `grid.METHODS` names
them.
"""

DECAY = {"optim.layer_decay": 0.9, "optim.patch_embed_factor": 0.2}
ANCHOR = {"loss.gram_weight": 2.0}

KEEPING: dict[str, dict[str, Any]] = {
    "decay": DECAY,
    "anchor": ANCHOR,
    "decay-anchor": DECAY | ANCHOR,
}
"""Means against forgetting, each on top of a method at the rate that was chosen without them."""

WHOLE = "whole-patches"

MASKS: dict[str, dict[str, Any]] = {WHOLE: {"views.mask_coverage": 1.0}}
"""Narrower masks, with read-only tokens, at the rate that was chosen without them: an object has the patches
that it covers whole.
"""

SEEDS = (0, 1, 2)
"""Of the cells that claims are about; the others have the first."""


@dataclass(frozen=True, slots=True)
class Target:
    """A data set that the public network is made better on.

    Args:
        world: Its images, divided into three parts. Its candidates are rates.
        chosen_by: The measure on held-out images that the rate is chosen by: `knn`, or `dense_knn` where all
            objects are of one class.
        kept: Of which methods `KEEPING` is measured.
        masks: Whether patches are labelled by objects' masks.
    """

    world: World
    chosen_by: str
    kept: dict[str, tuple[str, ...]]
    masks: bool = False

    @property
    def name(self) -> str:
        """Of its folder of figures."""
        return f"post-{self.world.name}"

    def cells(self) -> Iterator[tuple[Cell, int]]:
        """What is trained, with its seed: first one seed of all methods, then means against forgetting, then
        the other seeds.
        """
        compared = [*map(self.cell, METHODS), *(self.cell("read-only", name) for name in MASKS)]
        yield from ((cell, SEEDS[0]) for cell in compared)
        for method, means in self.kept.items():
            yield from ((self.cell(method, name), SEEDS[0]) for name in means)
        for seed in SEEDS[1:]:
            yield from ((cell, seed) for cell in compared)

    def cell(self, method: str, more: str | None = None) -> Cell:
        """A method of `METHODS`, perhaps with one of `KEEPING` or `MASKS`."""
        name = method if more is None else f"{method}.{more}"
        return Cell(name, METHODS[method], (KEEPING | MASKS)[more] if more else {}, images=LENGTH)

    def labelled(self, part: str, work: Path) -> LabelledImages:
        """The images of a part with a class for every pixel; of `choose` by boxes where labels are maps."""
        if self.masks or part == "choose":
            return LabelledImages.from_index(self.world.index(part, work), boxes=True)
        return self.world.labelled("train" if part == "train" else "test", work)


def known(roots: Roots) -> World:
    """What the public network is trained on."""
    world = worlds(roots)["tiny-imagenet"]
    return replace(world, base=PATCHES_8, candidates={PUBLIC.name: {}})


def targets(roots: Roots) -> dict[str, Target]:
    """The data sets whose folders are given, by the name of their world."""
    found: dict[str, Target] = {}
    everything = tuple(KEEPING)
    if roots.voc is not None:
        voc = replace(worlds(roots)["voc"], candidates=_rates([0.25, 1.0]))
        kept = {"read-only": everything, "beside": ("decay-anchor",), "ibot": ("decay-anchor",)}
        found["voc"] = Target(voc, "knn", kept)
    if (root := roots.nuclei) is not None:
        # A nucleus of 20 of 160 px is as large in such a view as an object of Pascal VOC in one of a whole
        # photograph.
        nuclei = World(
            "nuclei",
            "microscopy images of nuclei",
            PATCHES_8,
            divided(root, (240, 60, 129)),
            240,
            60,
            129,
            160,
            6,
            candidates=_rates([0.08, 0.25]),
        )
        found["nuclei"] = Target(nuclei, "dense_knn", {"read-only": everything}, masks=True)
    return found


def _rates(scale: list[float]) -> dict[str, dict[str, Any]]:
    return {name: {"optim.base_lr": rate, "views.global_scale": scale} for name, rate in RATES.items()}


def divided(root: Path, counts: tuple[int, int, int]) -> Callable[..., None]:
    """A data set that is published undivided, in three parts by a draw that is the same every time: train,
    choose, test, as `World.write` writes them.
    """

    def write(folder: Path, index: Path, *, count: int, split: str, seed: int) -> None:
        source = coco.read(root, None, _named)
        rows: list[ImageObjects] = list(source.rows)
        drawn = np.random.default_rng(0).permutation(len(rows))
        ends = np.cumsum(counts)[:-1]
        part = np.split(drawn[: sum(counts)], ends)[seed]  # seeds of parts are 0, 1, 2: `World.index`
        chosen = [rows[i] for i in np.sort(part)[:count]]
        write_index(index, chosen, root=source.root, provenance=source.provenance, classes=source.classes)

    return write


def _named(skipped: Skipped) -> None:
    print(f"left out: {skipped.what}: {skipped.why}", flush=True)
