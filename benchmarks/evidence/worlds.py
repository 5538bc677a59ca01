"""The data of the study: made from a seed, divided into what is trained on, what settings are chosen on, and
what is tested once.

A world is a folder of three object indexes. `train` is trained on, and its objects are the neighbours of the
k-NN. `choose` are images that no run is trained on; settings are chosen on them. Composed scenes to choose on
are of the same source pictures as `train`, but those of `photographs-50` and -wide. `test` is composed from
source pictures that are nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from grid import CANDIDATES, WIDE, WIDER, rates
from photographs import write_photograph_scenes

from odis.config.options import load_recipe
from odis.errors import DataError
from odis.evaluation.dense import open_labelled
from odis.evaluation.label_maps import LabelledImages
from odis.evaluation.protocols.layouts.segmentation import SegmentedImages, open_segmented
from odis.finding.corpus import find_objects
from odis.finding.discover.discoverer import Discoverer
from odis.inference import load
from odis.objects.edit.perturb import Noise, perturb_index
from odis.objects.index import ObjectIndex, write_index
from odis.objects.scenes.write import write_scenes
from odis.objects.sources import coco, tiny_imagenet, voc
from odis.objects.sources.reader import AnnotationReader
from odis.train.loop import pretrain
from odis.types import Skipped

HERE = Path(__file__).parent

PATCHES_8 = HERE / "patches-8.yaml"

DISCOVERY_RECIPE = "scenes-whole-image"

_LISTS = {"train": "train", "test": "val"}  # of label maps

_LENGTH = 30_000  # images of the short runs of photographs


@dataclass(frozen=True, slots=True)
class Roots:
    """Where data sets that are not made here lie, if they do.

    Args:
        photographs: Tiny-ImageNet in its published layout.
        voc: `VOCdevkit/VOC2012`.
        coco: COCO 2017 in its published layout.
        nuclei: Microscopy images in `images`, COCO's JSON with masks in `annotations`.
    """

    photographs: Path | None = None
    voc: Path | None = None
    coco: Path | None = None
    nuclei: Path | None = None


@dataclass(frozen=True)
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
        most_objects: Objects an image has at most, or nearly all images have: `all` of them in a view.
        images: Images that a run sees if its cell does not say; None for the epochs of `base`.
        maps: Root of label maps in VOC's layout, which measures of patches read; None fills objects' boxes.
        discover: Whether objects can be discovered by the recipe that was made for scenes of digits.
        choose_share: Length of the runs that settings are chosen by, over that of the runs that are reported.
        candidates: What every method chooses from (`grid.CANDIDATES`).
        photographed: Whether published protocols of patches are measured too.
        shrunk: Images to train on, over those of its full size.
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
    images: int | None = None
    maps: Path | None = None
    discover: bool = False
    choose_share: float = 0.5
    candidates: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: CANDIDATES)
    photographed: bool = False
    shrunk: float = 1.0

    def of_size(self, images: int) -> World:
        """The same with so many images to train on, and no more than that to choose and test on; runs are
        shorter by as much.
        """
        return replace(
            self,
            train=images,
            choose=min(self.choose, images),
            test=min(self.test, images),
            shrunk=self.shrunk * images / self.train,
        )

    def epochs(self, images: int) -> float:
        """Epochs in which a run sees so many images (of a world of its full size)."""
        return round(images * self.shrunk / self.train, 4)

    @cached_property
    def view(self) -> int:
        """Side in pixels of the global views of `base`."""
        return load_recipe(str(self.base), data="-").views.global_size

    def side_of(self, view: int) -> int:
        """Side at which whole images are shown to a network that was trained on views of another side."""
        return self.side * view // self.view

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

    def labelled(self, part: Literal["train", "test"], work: Path) -> LabelledImages:
        """The images of `train` or `test` with a class for every pixel, for measures of patches."""
        if self.maps is not None:
            return open_labelled(self.maps, _LISTS[part])
        # Strokes of digits are thinner than patches, so that by masks most of every patch is background and
        # nothing else is ever found.
        return LabelledImages.from_index(self.boxes(part, work), boxes=True)

    def segmented(self, part: Literal["train", "test"], work: Path) -> SegmentedImages:
        """The same as the protocols of segmentation take them."""
        if self.maps is not None:
            return open_segmented(self.maps, _LISTS[part], part="train" if part == "train" else "val")
        return SegmentedImages(self.labelled(part, work), "index")

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


def _photographs(root: Path, *, held_out: float = 0.0, **fixed: Any) -> Callable[..., None]:
    """Scenes of photographs. Those that settings are chosen on are made of the share `held_out` of the
    pictures of each class, which is in no training scene; of 0 they are made of the same pictures.
    """

    def write(folder: Path, index: Path, *, count: int, split: str, seed: int) -> None:
        share = (0.0, 1.0)
        if held_out and split == "train":
            share = (0.0, 1 - held_out) if seed == 0 else (1 - held_out, 1.0)
        write_photograph_scenes(
            folder, index, root=root, count=count, split=split, seed=seed, share=share, **fixed
        )

    return write


def _published(
    read: Callable[[str], AnnotationReader], held_out: int, *, undivided: bool = False
) -> Callable[..., None]:
    """A published data set: nothing is written but indexes. Its train part is divided by a draw that is the
    same every time: `held_out` images are what settings are chosen on, or in a set that is published
    `undivided` what is tested on.
    """

    def write(folder: Path, index: Path, *, count: int, split: str, seed: int) -> None:
        source = read(split)
        rows = list(source.rows)
        if split == "train" or undivided:
            drawn = np.random.default_rng(0).permutation(len(rows))
            drawn = drawn[held_out:] if seed == 0 else drawn[:held_out]
            rows = [rows[i] for i in np.sort(drawn[:count])]
        write_index(
            index, rows[:count], root=source.root, provenance=source.provenance, classes=source.classes
        )

    return write


def _named(skipped: Skipped) -> None:
    print(f"left out: {skipped.what}: {skipped.why}", flush=True)


def worlds(roots: Roots | None = None) -> Mapping[str, World]:
    """All data sets by name; of those that are not made here, the ones whose folder is given."""
    roots = roots or Roots()
    scenes = World(
        "scenes", "scenes of digits", HERE / "scenes.yaml", _scenes(), 6000, 500, 500, 96, 5, discover=True
    )
    found = {
        "scenes": scenes,
        # The same, with runs of its own: those of `scenes` were made before KoLeo took DINOv2's form.
        "digits": replace(scenes, name="digits"),
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
    if (root := roots.photographs) is not None:
        photographs = World(
            "photographs",
            "scenes of photographs",
            HERE / "photographs.yaml",
            _photographs(root),
            6000,
            500,
            500,
            128,
            4,
            photographed=True,
        )
        found["photographs"] = photographs
        found["photographs-50"] = replace(
            photographs,
            name="photographs-50",
            says="scenes of photographs of 50 classes",
            base=PATCHES_8,
            write=_photographs(root, held_out=0.1, classes=50),
            train=10_000,
            choose=1000,
            test=2500,
            images=_LENGTH,
            choose_share=1.0,
            candidates=rates((0.15, 0.5)),
        )
        # As many objects to train and to test on, each as large, in half as many wider scenes.
        found["photographs-wide"] = replace(
            found["photographs-50"],
            name="photographs-wide",
            says="wide scenes of photographs of 50 classes",
            write=_photographs(root, held_out=0.1, classes=50, size=192, objects=(4, 8)),
            train=5000,
            choose=500,
            test=1250,
            side=192,
            most_objects=8,
            choose_share=0.5,
            candidates=WIDE,
        )
        found["tiny-imagenet"] = World(
            "tiny-imagenet",
            "Tiny-ImageNet, 100 classes",
            HERE / "tiny-imagenet.yaml",
            _published(lambda split: tiny_imagenet.read(root, split, _named), held_out := 1000),
            21_000,
            held_out,
            5000,
            64,
            1,
            choose_share=0.25,
            candidates=WIDER,
        )
    if (devkit := roots.voc) is not None:
        found["voc"] = World(
            "voc",
            "photographs of Pascal VOC 2012",
            PATCHES_8,
            _published(lambda split: voc.read(devkit, split, _named), held_out := 300),
            2484,
            held_out,
            696,
            128,
            6,  # 96 % of its images have no more
            images=_LENGTH,
            maps=devkit,
            choose_share=1.0,
            candidates=rates((0.25, 1.0)),
            photographed=True,
        )
    return found


@dataclass(frozen=True, slots=True)
class Transfer:
    """A data set on which networks of another world are measured.

    Args:
        name: Of its folder.
        says: What it is, for tables.
        write: As `World.write`.
        train: Images whose objects and patches are neighbours.
        test: Images that are measured.
    """

    name: str
    says: str
    write: Callable[..., None]
    train: int
    test: int

    def index(self, part: Literal["train", "test"], work: Path) -> ObjectIndex:
        """`train` or `test`, made if it is not there."""
        path = work / self.name / f"{part}.parquet"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            count, split, seed = (self.train, "train", 0) if part == "train" else (self.test, "val", 2)
            self.write(path.with_suffix(""), path, count=count, split=split, seed=seed)
        return ObjectIndex.open(path)


def transfers(roots: Roots) -> Mapping[str, Transfer]:
    """The data sets to transfer to whose folders are given."""
    found = {}
    if (root := roots.coco) is not None:
        parts = _published(lambda split: coco.read(root, f"{split}2017", _named), 0)
        found["coco617"] = Transfer("coco617", "photographs of COCO 2017", parts, 223, 210)
    if (slides := roots.nuclei) is not None:
        parts = _published(lambda _: coco.read(slides, None, _named), 129, undivided=True)
        found["nuclei"] = Transfer("nuclei", "microscopy images of nuclei", parts, 300, 129)
    return found
