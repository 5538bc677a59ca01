"""The data of the study: made from a seed, divided into what is trained on, what settings are chosen on, and
what is tested once.

A world is a folder of three object indexes. `train` is trained on, and its objects are the neighbours of the
k-NN. `choose` are images that no run is trained on, composed from the same source pictures as `train`;
settings are chosen on them. `test` is composed from source pictures that are nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from grid import CANDIDATES, WIDER
from photographs import write_photograph_scenes

from odis.config.options import load_recipe
from odis.errors import DataError
from odis.finding.corpus import find_objects
from odis.finding.discover.discoverer import Discoverer
from odis.inference import load
from odis.objects.edit.perturb import Noise, perturb_index
from odis.objects.index import ObjectIndex, write_index
from odis.objects.scenes.write import write_scenes
from odis.objects.sources import tiny_imagenet
from odis.train.loop import pretrain

HERE = Path(__file__).parent

DISCOVERY_RECIPE = "scenes-whole-image"


@dataclass(frozen=True, slots=True)
class World:
    """One data set.

    Args:
        name: Of its folder.
        says: What it is, for tables.
        base: File of the settings that all methods share.
        write: Writes `count` images of a split and seed, and their index: `write(folder, index, count=,
            split=, seed=)`.
        train: Images trained on.
        choose: Images that settings are chosen on.
        test: Images tested on.
        side: Of an image in pixels: models are asked about whole images at this size, so that objects are as
            large as in training.
        most_objects: Objects an image has at most.
        discover: Whether objects can be discovered by the recipe that was made for scenes of digits.
        choose_share: Length of the runs that settings are chosen by, over that of the runs that are reported.
        candidates: What every method chooses from (`grid.CANDIDATES`).
    """

    name: str
    says: str
    base: Path
    write: Callable[..., None]
    train: int
    choose: int
    test: int
    side: int
    most_objects: int
    discover: bool = False
    choose_share: float = 0.5
    candidates: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: CANDIDATES)

    def of_size(self, images: int) -> World:
        """The same with so many images to train on, and no more than that to choose and test on."""
        return replace(self, train=images, choose=min(self.choose, images), test=min(self.test, images))

    def folder(self, work: Path) -> Path:
        """Where its data and runs are."""
        return work / self.name

    def index(self, part: str, work: Path) -> ObjectIndex:
        """`train`, `choose` or `test`, made if it is not there."""
        count, split, seed = {
            "train": (self.train, "train", 0),
            "choose": (self.choose, "train", 1),
            "test": (self.test, "val", 2),
        }[part]
        path = self.folder(work) / "data" / f"{part}.parquet"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.write(path.with_suffix(""), path, count=count, split=split, seed=seed)
        index = ObjectIndex.open(path)
        if len(index) != count:
            raise DataError(
                f"{path}: has {len(index)} images and not {count}; give another --work, or the --images "
                f"it was made with"
            )
        return index

    def training_index(self, objects: str, work: Path) -> ObjectIndex:
        """`train` with the objects of a cell (`grid.Cell.objects`), made if it is not there."""
        train = self.index("train", work)
        if objects == "annotated":
            return train
        path = Path(train.path).with_name(f"train-{objects.replace('=', '').replace(',', '-')}.parquet")
        if not path.exists():
            if objects == "discovered":
                self._discover(train, path, work)
            elif objects == "whole-image":
                rows = (replace(row, objects=()) for row in train)
                write_index(path, rows, root=train.root, provenance="whole-image", classes=train.classes)
            elif objects == "boxes":
                return self.boxes("train", work)
            else:
                amounts = {
                    name: float(value) for name, value in (pair.split("=") for pair in objects.split(","))
                }
                perturb_index(train, path, Noise(**amounts))
        return ObjectIndex.open(path)

    def boxes(self, part: str, work: Path) -> ObjectIndex:
        """`train`, `choose` or `test` with the boxes of its objects alone, made if it is not there."""
        index = self.index(part, work)
        path = Path(index.path).with_name(f"{part}-boxes.parquet")
        if not path.exists():
            rows = (
                replace(row, objects=tuple(replace(item, mask=None) for item in row.objects)) for row in index
            )
            write_index(path, rows, root=index.root, provenance=index.provenance, classes=index.classes)
        return ObjectIndex.open(path)

    def _discover(self, train: ObjectIndex, path: Path, work: Path) -> None:
        """What a network that was trained on whole images alone finds in them."""
        if not self.discover:
            raise ValueError(f"{self.name}: there is no recipe for discovery in it")
        config = load_recipe(DISCOVERY_RECIPE, data=train.path)
        run = self.folder(work) / "runs" / "discovery"
        pretrain(config, run, recipe=DISCOVERY_RECIPE)

        def build() -> Discoverer:
            found = load(run, device="cpu")
            return Discoverer(
                found.model,
                found.mean,
                found.std,
                config.discover,
                name="whole-image",
                image_size=found.image_size,
            )

        find_objects(
            train, path, build, settings={"recipe": DISCOVERY_RECIPE}, batch_size=config.discover.batch_size
        )


def _scenes(**fixed: Any) -> Callable[..., None]:
    def write(folder: Path, index: Path, *, count: int, split: str, seed: int) -> None:
        write_scenes(folder, index, count=count, split=split, seed=seed, **fixed)

    return write


def _photographs(root: Path, **fixed: Any) -> Callable[..., None]:
    def write(folder: Path, index: Path, *, count: int, split: str, seed: int) -> None:
        write_photograph_scenes(folder, index, root=root, count=count, split=split, seed=seed, **fixed)

    return write


def _tiny_imagenet(root: Path, held_out: int) -> Callable[..., None]:
    """Tiny-ImageNet itself: nothing is written but indexes. Its train part is divided by a draw that is the
    same every time.
    """

    def write(folder: Path, index: Path, *, count: int, split: str, seed: int) -> None:
        rows = list(tiny_imagenet.read(root, split, lambda _: None).rows)
        if split == "train":
            drawn = np.random.default_rng(0).permutation(len(rows))
            drawn = drawn[held_out:] if seed == 0 else drawn[:held_out]
            rows = [rows[i] for i in np.sort(drawn[:count])]
        classes = tiny_imagenet.read(root, split, lambda _: None).classes
        write_index(index, rows[:count], root=root, provenance="annotated", classes=classes)

    return write


def worlds(photographs: Path | None = None) -> Mapping[str, World]:
    """All data sets by name; those of photographs only if Tiny-ImageNet's folder is given."""
    scenes = World(
        "scenes", "scenes of digits", HERE / "scenes.yaml", _scenes(), 6000, 500, 500, 96, 5, discover=True
    )
    found = {
        "scenes": scenes,
        "scenes-context": replace(
            scenes,
            name="scenes-context",
            says="scenes of digits, telling context",
            write=_scenes(context=0.8),
            discover=False,
        ),
        "scenes-one": replace(
            scenes,
            name="scenes-one",
            says="one digit a scene",
            write=_scenes(digits=(1, 1)),
            most_objects=1,
            discover=False,
        ),
    }
    if photographs is not None:
        write = _photographs(photographs)
        found["photographs"] = World(
            "photographs", "scenes of photographs", HERE / "photographs.yaml", write, 6000, 500, 500, 128, 4
        )  # fmt: skip
        whole = _tiny_imagenet(photographs, held_out := 1000)
        base = HERE / "tiny-imagenet.yaml"
        found["tiny-imagenet"] = World(
            "tiny-imagenet",
            "Tiny-ImageNet, 100 classes",
            base,
            whole,
            21_000,
            held_out,
            5000,
            64,
            1,
            choose_share=0.25,
            candidates=WIDER,
        )
    return found
