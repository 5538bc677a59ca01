"""One cell of the study: an ordinary run, measured in every way, and written down with all that its figures
depend on.
"""

from __future__ import annotations

import copy
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grid import ALL_OBJECTS, METHODS, REFERENCE, Cell, Labels
from measure import ASKED, Parts, measured, object_knn
from supervised import train_with_labels
from worlds import World

from odis.backbones.saved import save_model
from odis.benchmark.flops import count_flops
from odis.config.options import load_recipe
from odis.config.training import PretrainConfig
from odis.data.loader import make_loader
from odis.evaluation.results import write_results
from odis.inference import Encoder, load
from odis.machine.devices import resolve_device
from odis.machine.ranks import ranks
from odis.method.vit import ObjectViT
from odis.objects.index import ObjectIndex
from odis.train.loop import pretrain
from odis.train.metrics import collapse_warning
from odis.train.run_folder import read_config
from odis.train.start import build_run

CHOOSE_SEED = 1000


KEPT_SEED = 0
"""Of every cell the backbone of this seed is kept beside its figures."""

WARMUP = 0.06
"""Share of a run over which the rate rises, where its length is said in images."""


# over which the arithmetic of a step is averaged: how many patches are hidden and objects shown differs
_BATCHES = 4

_SIZES = (("train", "batch_size"), ("head", "prototypes"))  # settings that a description reads

_POINTS = 12  # of a run's meters that are kept


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are: data and runs in `work`, results in `results`."""

    work: Path
    results: Path

    def result(self, world: World, cell: str, seed: int) -> Path:
        """File of a cell's figures."""
        return self.results / world.name / f"{cell}-seed{seed}.json"

    def trial(self, world: World, method: str, candidate: str) -> Path:
        """File of the figures that one candidate of a method is judged by."""
        return self.results / world.name / "choose" / f"{method}.{candidate}.json"


def chosen(place: Place, world: World, method: str) -> tuple[str, str]:
    """The candidate and the way to ask that were best for a method on images held out of training; the first
    of equals. Of one candidate nothing is tried: the way to ask is empty, and found with the trained network.

    Raises:
        FileNotFoundError: A candidate was not tried yet.
    """
    if len(world.candidates) == 1:
        return next(iter(world.candidates)), ""
    best, choice = -1.0, ("", "")
    for candidate in world.candidates:
        scores = json.loads(place.trial(world, method, candidate).read_text())["scores"]["knn"]
        for asked in ASKED:
            if scores[asked]["value"] > best:
                best, choice = scores[asked]["value"], (candidate, asked)
    return choice


def config_of(world: World, cell: Cell, candidate: str, data: str, seed: int) -> PretrainConfig:
    """The settings of a run: base of the world, the candidate, the method, the cell; the later has the last
    word.
    """
    settings: dict[str, Any] = {**world.candidates[candidate], **METHODS[cell.method], **cell.settings}
    if settings.get("objects.per_image") == ALL_OBJECTS:
        settings["objects.per_image"] = world.most_objects
    length = cell.images or world.images
    if length is not None:
        epochs = world.epochs(length)
        settings = {"train.epochs": epochs, "optim.warmup_epochs": round(WARMUP * epochs, 4), **settings}
    settings |= {"train.seed": seed, "data": data}
    return load_recipe(
        str(world.base), **{name.replace(".", "__"): value for name, value in settings.items()}
    )


def flops_per_image(config: PretrainConfig, index: ObjectIndex) -> float:
    """Arithmetic of a training step for each image, both passes and the backward one: a mean over some
    batches.
    """
    with ranks(resolve_device(config.train.device, "train.device")) as here:
        run = build_run(config, here, images=len(index))
        loader = make_loader(
            index, config, patch_size=run.patch_size, start_step=0, steps=_BATCHES, rank=0, world_size=1
        )
        return (
            statistics.mean(count_flops(run, batch.to(here.device)) for batch in loader)
            / config.train.batch_size
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a cell is about to do: its settings, what they were chosen as (`asked` is empty where nothing was
    tried), and the arithmetic of a step for each image.
    """

    config: PretrainConfig
    candidate: str
    asked: str
    flops_per_image: float


def plan(place: Place, world: World, cell: Cell, seed: int) -> Plan:
    """The settings of a cell; with `Cell.compute`, as long as that share of the reference's arithmetic
    lasts.
    """
    candidate, asked = chosen(place, world, cell.method)
    index = world.training_index(cell.objects, place.work)
    config = config_of(world, cell, candidate, index.path, seed)
    per_image = flops_per_image(config, index)
    if cell.compute is not None:
        reference = config_of(
            world, Cell(REFERENCE, REFERENCE), chosen(place, world, REFERENCE)[0], index.path, seed
        )
        ratio = flops_per_image(reference, index) / per_image
        config.train.epochs = round(cell.compute * ratio * reference.train.epochs, 4)
    return Plan(config, candidate, asked, per_image)


def run_cell(place: Place, world: World, cell: Cell, seed: int) -> None:
    """Train, measure on the test part, and write the figures; a call after an interruption goes on."""
    if cell.labels:
        config = config_of(
            world, cell, next(iter(world.candidates)), world.index("train", place.work).path, seed
        )
        figures = trained(place, world, cell.name, config, seed, labels=cell.labels)
        encoder = figures.pop("encoder")
        figures |= {"candidate": "-", "asked": asked_best(place, world, encoder), "objects": cell.objects}
    else:
        planned = plan(place, world, cell, seed)
        figures = trained(place, world, cell.name, planned.config, seed)
        encoder = figures.pop("encoder")
        asked = planned.asked or asked_best(place, world, encoder)
        figures |= {"candidate": planned.candidate, "asked": asked, "objects": cell.objects}
        figures |= {
            "flops_per_image": planned.flops_per_image,
            "flops": planned.flops_per_image * figures["images_seen"],
        }
    path = place.result(world, cell.name, seed)
    figures["scores"] = measured(encoder, parts(place, world, encoder))
    if seed == KEPT_SEED:
        keep_backbone(encoder, path.with_suffix(".safetensors"))
    write_results(path, {"world": world.name, "cell": cell.name, "seed": seed, **figures})


def parts(place: Place, world: World, encoder: Encoder) -> Parts:
    """What a network of a world is measured on, once."""
    work = place.work
    segmented = (
        (world.segmented("train", work), world.segmented("test", work)) if world.photographed else None
    )
    return Parts(
        world.index("train", work),
        world.index("test", work),
        (world.labelled("train", work), world.labelled("test", work)),
        segmented,
        world.side_of(encoder.image_size),
    )


def asked_best(place: Place, world: World, encoder: Encoder) -> str:
    """The way to ask that is best on the images that settings are chosen on, for a network without
    candidates.
    """
    train, choose = world.index("train", place.work), world.index("choose", place.work)
    scores = object_knn(encoder, train, choose, world.side_of(encoder.image_size))
    return max(ASKED, key=lambda asked: scores[asked]["value"])


def keep_backbone(encoder: Encoder, path: Path) -> None:
    """Write a network in 16 bits, for measures on data that is not here; `odis.load` opens it."""
    assert isinstance(encoder.model, ObjectViT)
    save_model(path, copy.deepcopy(encoder.model).half(), encoder.card)


def run_trial(place: Place, world: World, method: str, candidate: str) -> None:
    """A short run of one candidate, measured on the images that settings are chosen on."""
    train = world.index("train", place.work)
    config = config_of(world, Cell(method, method), candidate, train.path, CHOOSE_SEED)
    config.train.epochs *= world.choose_share
    figures = trained(place, world, f"choose.{method}.{candidate}", config, CHOOSE_SEED)
    encoder = figures.pop("encoder")
    side = world.side_of(encoder.image_size)
    scores = {"knn": object_knn(encoder, train, world.index("choose", place.work), side)}
    path = place.trial(world, method, candidate)
    write_results(
        path, {"world": world.name, "cell": method, "candidate": candidate, "scores": scores, **figures}
    )


def trained(
    place: Place,
    world: World,
    name: str,
    config: PretrainConfig,
    seed: int,
    *,
    labels: Labels | None = None,
) -> dict[str, Any]:
    """The run of a config, made or gone on with: its encoder, and what its folder says of it."""
    run = world.folder(place.work) / "runs" / f"{name}-seed{seed}"
    if labels:
        train_with_labels(config, run, labels)
    else:
        pretrain(config, run, recipe=name)
    figures = described(run)
    figures["run"] = str(run.relative_to(place.work))
    figures["config"]["data"] = str(Path(config.data).relative_to(place.work))
    return {"encoder": load(run, device=config.train.device, precision=config.train.precision), **figures}


def described(run: Path) -> dict[str, Any]:
    """What the folder of a finished run says of it."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "images_per_second" in line]
    record = read_config(run)
    batch, prototypes = (record["config"][part][name] for part, name in _SIZES)
    seconds = sum(
        (line["step"] - before) * batch / line["images_per_second"]
        for before, line in zip(_befores(lines), lines)
    )
    shown = lines[:: max(1, len(lines) // _POINTS)]
    meters = (
        "step",
        "loss",
        "loss_object",
        "loss_patch",
        "teacher_entropy",
        "mean_entropy",
        "feature_spread",
    )
    return {
        "run": run.name,
        "steps": lines[-1]["step"],
        "images_seen": lines[-1]["step"] * batch,
        "seconds": seconds,
        "images_per_second": lines[-1]["step"] * batch / seconds,
        "data_wait": statistics.mean(line["data_wait"] for line in lines),
        "peak_memory_gib": max(line["memory_gib"] for line in lines),
        "collapse": collapse_warning(lines[-1], prototypes),
        "meters": [
            {name: line.get(name) for name in meters}
            for line in shown + ([] if shown[-1] is lines[-1] else lines[-1:])
        ],
        "config": record["config"] | {"data": Path(record["config"]["data"]).name},
        "resolved": record["resolved"],
        "versions": record["versions"],
        "git": record["git"],
    }


def _befores(lines: list[dict[str, Any]]) -> list[int]:
    return [0, *(line["step"] for line in lines[:-1])]
