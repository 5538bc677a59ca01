"""Training and measuring the linear heads of `linear-imagenet`, resumable at each epoch.

Letters: n images, G heads of one kind of features, D width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms as tv

from odis.config.wording import counted
from odis.errors import DataError, OdisError
from odis.evaluation.protocols.classification.classify import view_of
from odis.evaluation.protocols.classification.linear_heads import LinearHeads
from odis.evaluation.protocols.classification.linear_settings import LinearImagenetSettings, Schedule
from odis.evaluation.protocols.images.store import files_key, key_digest, model_key
from odis.evaluation.protocols.images.stream import Pictures, read_picture, read_steps, show_pictures
from odis.evaluation.protocols.images.views import pixels_of
from odis.evaluation.protocols.layouts.classified import ClassifiedImages
from odis.evaluation.protocols.projection import Work, seconds_each, seconds_shown
from odis.evaluation.protocols.training.kept_state import read_tensors, write_tensors
from odis.evaluation.runner import EvaluationRun
from odis.evaluation.scores import Score, accuracy_score
from odis.inference import Encoder
from odis.types import Skipped


class TrainViews(Dataset["tuple[np.ndarray, int] | Skipped"]):
    """Random resized crops and flips of train images, as torchvision draws them, from (seed, epoch, image).

    Args:
        images: The train part.
        order: Which images, in this order.
        epoch: Counted from 0.
        settings: Seed, crop, interpolation, whether images are turned.
    """

    def __init__(
        self, images: ClassifiedImages, order: np.ndarray, epoch: int, settings: LinearImagenetSettings
    ) -> None:
        self.images, self.order, self.epoch = images, order, epoch
        self.seed, self.turn = settings.seed, not settings.as_published
        mode = tv.InterpolationMode(settings.schedule.interpolation)
        self.view = tv.Compose(
            [tv.RandomResizedCrop(settings.crop, interpolation=mode), tv.RandomHorizontalFlip()]
        )

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> tuple[np.ndarray, int] | Skipped:
        number = int(self.order[place])
        path = self.images.paths[number]
        try:
            picture = read_picture(path, turn=self.turn)
        except DataError as error:
            return Skipped(path, str(error).removeprefix(f"{path}: "))
        draw = int(np.random.SeedSequence([self.seed, self.epoch, place, number]).generate_state(1)[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw)
            shown: Image.Image = self.view(picture)
        return pixels_of(shown), number


def features_of(encoder: Encoder, pixels: np.ndarray, kinds: Sequence[str]) -> dict[str, Tensor]:
    """float32 (B, D) of each kind; see `linear_settings.KINDS`.

    Raises:
        OdisError: they are not finite.
    """
    blocks = max(int(kind[0]) for kind in kinds)
    tokens = encoder.block_tokens(pixels, blocks)
    classes = [cls.float() for cls, _ in tokens]
    mean = tokens[-1][1].float().mean(dim=1)
    found = {}
    for kind in kinds:
        parts = classes[-int(kind[0]) :] + ([mean] if kind.endswith("mean") else [])
        found[kind] = torch.cat(parts, dim=1)
        if not bool(found[kind].isfinite().all()):
            raise OdisError(
                "features hold values that are not finite: the weights or the precision are at fault"
            )
    return found


def epoch_order(numbers: np.ndarray, epoch: int, schedule: Schedule, batch: int, seed: int) -> np.ndarray:
    """The images of an epoch in order, int64: all once, or `epoch_steps` batches of an endless series of
    permutations.
    """
    if schedule.epoch_steps is None:
        once: np.ndarray = numbers[np.random.default_rng([seed, epoch]).permutation(len(numbers))]
        return once
    count = schedule.epoch_steps * batch
    first, last = epoch * count, (epoch + 1) * count
    passes = range(first // len(numbers), -(-last // len(numbers)))
    series = np.concatenate([np.random.default_rng([seed, p]).permutation(len(numbers)) for p in passes])
    start = first - passes[0] * len(numbers)
    order: np.ndarray = numbers[series[start : start + count]]
    return order


def learning_share(schedule: Schedule, epoch: int, step: int, steps: int) -> float:
    """Share of the learning rate: a cosine to 0, by epochs or by steps."""
    done = (
        (epoch * steps + step) / (schedule.epochs * steps) if schedule.every_step else epoch / schedule.epochs
    )
    return 0.5 * (1 + math.cos(math.pi * done))


def new_heads(
    widths: Mapping[str, int], encoder: Encoder, classes: int, settings: LinearImagenetSettings
) -> dict[str, LinearHeads]:
    """A grid of heads for each kind of features, by its width."""
    lrs = [lr * settings.batch / 256 for lr in settings.schedule.lrs]
    return {
        kind: LinearHeads(width, lrs, classes, encoder.device, settings.seed)
        for kind, width in widths.items()
    }


def works(
    encoder: Encoder, train: ClassifiedImages, test: ClassifiedImages, settings: LinearImagenetSettings
) -> Iterator[Work]:
    """What there is to do for a model, measured."""
    kinds, schedule = settings.kinds(encoder.width("whole-image")), settings.schedule
    learning, choosing = _split(len(train), settings)
    read, device = settings.read, encoder.device
    pictures = Pictures(test.paths, view_of(settings.crop), turn=not settings.as_published)
    seconds = seconds_shown(pictures, lambda some: features_of(encoder, np.stack(some), kinds), encoder, read)
    yield Work("test images", len(test) + len(choosing), seconds)
    blank = np.zeros((1, 3, settings.crop, settings.crop), np.uint8)
    features = features_of(encoder, blank, kinds)
    heads = new_heads(
        {kind: of.shape[1] for kind, of in features.items()}, encoder, len(train.classes), settings
    )
    course = _State(settings, encoder, train, test).load(heads)
    left = schedule.epochs - len(course.history)
    order = epoch_order(learning, 0, schedule, settings.batch, settings.seed)
    views = TrainViews(train, order, 0, settings)

    def show(some: Sequence[tuple[np.ndarray, int]]) -> None:
        features_of(encoder, np.stack([pixels for pixels, _ in some]), kinds)

    yield Work("train views", left * len(order), seconds_shown(views, show, encoder, read))

    def step(n: int) -> None:
        for kind, of_kind in heads.items():
            some = features[kind].expand(n, -1)
            of_kind.step(some, torch.zeros(n, dtype=torch.int64, device=device), 0.0)

    yield Work("the heads", left * len(order), seconds_each(step, settings.batch, device))

    def predict(n: int) -> None:
        for kind, of_kind in heads.items():
            of_kind.predict(features[kind].expand(n, -1))

    yield Work("scores", (left + 1) * len(test), seconds_each(predict, settings.batch, device))


def measure_model(
    run: EvaluationRun,
    encoder: Encoder,
    train: ClassifiedImages,
    test: ClassifiedImages,
    labels: np.ndarray,
    settings: LinearImagenetSettings,
) -> tuple[dict[str, Score], dict[str, Any]]:
    """Scores of one model, and which heads they are of; see `linear_imagenet.evaluate_linear_imagenet`."""
    kinds, schedule = settings.kinds(encoder.width("whole-image")), settings.schedule
    learning, choosing = _split(len(train), settings)
    seen, unseen = _embedded(run, encoder, test, "test", kinds, settings)
    answers = torch.from_numpy(labels)[seen]
    kept, held = (
        _embedded(run, encoder, train.select(choosing), "held out", kinds, settings)
        if len(choosing)
        else (torch.empty(0, dtype=torch.int64), {})
    )
    held_answers = torch.from_numpy(train.labels[choosing])[kept]
    widths = {kind: of_kind.shape[1] for kind, of_kind in unseen.items()}
    heads = new_heads(widths, encoder, len(train.classes), settings)
    state = _State(settings, encoder, train, test)
    course = state.load(heads)
    for epoch in range(len(course.history), schedule.epochs):
        _train_epoch(run, encoder, heads, train, learning, epoch, settings)
        course.add({kind: heads[kind].predict(unseen[kind]) == answers[:, None] for kind in kinds})
        state.keep(heads, course)
    run.sides["train"] = {
        "index": train.path,
        "provenance": train.provenance,
        "images": len(learning),
        "held_out": len(choosing),
        "classes": len(train.classes),
    }
    return _scores(heads, course, unseen, answers, seen, held, held_answers, settings)


@dataclass(slots=True)
class Course:
    """What the heads reached after each epoch.

    Attributes:
        history: Accuracies in percent on the test part, of each head, by epoch and kind.
        best_right: bool (n,), what the best head of the best epoch has right.
    """

    history: list[dict[str, list[float]]] = field(default_factory=list)
    best_right: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))

    def add(self, right: dict[str, Tensor]) -> None:
        """An epoch: what its heads have right, bool (n, G) of each kind."""
        before = max((max(map(max, of_epoch.values())) for of_epoch in self.history), default=-1.0)
        self.history.append({kind: [_percent(head) for head in heads.T] for kind, heads in right.items()})
        kind, g = _best(self.history[-1])
        if self.history[-1][kind][g] > before:
            self.best_right = right[kind][:, g].clone()


def _percent(right: Tensor) -> float:
    return 100 * float(right.double().mean())


def _split(count: int, settings: LinearImagenetSettings) -> tuple[np.ndarray, np.ndarray]:
    """Images that heads learn from, and those that choose among them: none as published."""
    if settings.as_published:
        return np.arange(count), np.arange(0)
    held = max(1, round(settings.held_out * count))
    if held >= count:
        raise OdisError(
            f"{counted(count, 'train image is', 'train images are')} too few: some of them choose among what "
            f"the others train"
        )
    order = np.random.default_rng([settings.seed, 1]).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def _embedded(
    run: EvaluationRun,
    encoder: Encoder,
    images: ClassifiedImages,
    side: str,
    kinds: Sequence[str],
    settings: LinearImagenetSettings,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Numbers of the images that could be read, int64 (n,), and their features (n, D) of each kind, CPU."""
    numbers: list[int] = []
    parts: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    view, turn = view_of(settings.crop), not settings.as_published
    for batch in show_pictures(run, encoder, images.paths, view, side, turn=turn):
        numbers += batch.numbers
        for kind, found in features_of(encoder, batch.pixels, kinds).items():
            parts[kind].append(found.cpu())
    if not numbers:
        raise DataError(f"{images.path}: none of its images could be read")
    described = {"index": images.path, "provenance": images.provenance, "classes": len(images.classes)}
    run.sides[side] = described | run.sides[side]
    return torch.tensor(numbers), {kind: torch.cat(of_kind) for kind, of_kind in parts.items()}


def _train_epoch(
    run: EvaluationRun,
    encoder: Encoder,
    heads: dict[str, LinearHeads],
    train: ClassifiedImages,
    learning: np.ndarray,
    epoch: int,
    settings: LinearImagenetSettings,
) -> None:
    schedule, batch = settings.schedule, settings.batch
    order = epoch_order(learning, epoch, schedule, batch, settings.seed)
    steps = -(-len(order) // batch)
    what = f"{encoder.source or 'model'}, train"
    total = len(order) * schedule.epochs
    views = TrainViews(train, order, epoch, settings)
    for step, shown in enumerate(read_steps(run, views, batch)):
        if not shown:
            continue
        share = learning_share(schedule, epoch, step, steps)
        pixels, numbers = [one for one, _ in shown], [number for _, number in shown]
        parts = [
            features_of(encoder, np.stack(some), tuple(heads))
            for some in _chunks(pixels, settings.read.batch_size)
        ]
        targets = torch.from_numpy(train.labels[numbers]).to(encoder.device)
        for kind, of_kind in heads.items():
            of_kind.step(torch.cat([part[kind] for part in parts]), targets, share)
        if run.progress is not None:
            run.progress(what, epoch * len(order) + min((step + 1) * batch, len(order)), total)


def _chunks(items: list[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _scores(
    heads: dict[str, LinearHeads],
    course: Course,
    unseen: dict[str, Tensor],
    answers: Tensor,
    images: Tensor,
    held: dict[str, Tensor],
    held_answers: Tensor,
    settings: LinearImagenetSettings,
) -> tuple[dict[str, Score], dict[str, Any]]:
    history, lrs = course.history, settings.schedule.lrs
    scores: dict[str, Score] = {}
    chosen: dict[str, Any] = {}

    def head(kind: str, g: int) -> dict[str, Any]:
        return {"features": kind, "lr": lrs[g]}

    def measured(kind: str, g: int) -> Score:
        right = heads[kind].predict(unseen[kind])[:, g] == answers
        return accuracy_score(right, images, seed=settings.seed)

    if held:
        on_held = {kind: heads[kind].predict(held[kind]) == held_answers[:, None] for kind in heads}
        kind, g = max(
            ((k, g) for k in heads for g in range(len(lrs))),
            key=lambda at: float(on_held[at[0]][:, at[1]].sum()),
        )
        scores["top-1"] = measured(kind, g)
        chosen["top-1"] = head(kind, g) | {"held_out": round(_percent(on_held[kind][:, g]), 3)}
    kind, g = _best(history[-1])
    scores["last epoch, best head"] = measured(kind, g)
    chosen["last epoch, best head"] = head(kind, g)
    epoch = max(range(len(history)), key=lambda e: max(map(max, history[e].values())))
    kind, g = _best(history[epoch])
    scores["best epoch and head"] = accuracy_score(course.best_right, images, seed=settings.seed)
    chosen["best epoch and head"] = head(kind, g) | {"epoch": epoch + 1, "of": len(history)}
    return scores, chosen


def _best(of_kinds: dict[str, list[float]]) -> tuple[str, int]:
    every = [(kind, g) for kind, values in of_kinds.items() for g in range(len(values))]
    return max(every, key=lambda at: of_kinds[at[0]][at[1]])


class _State:
    """Heads and the scores of all epochs so far, in a file of `--cache` that belongs to this model, data and
    settings; nothing without a folder.
    """

    def __init__(
        self,
        settings: LinearImagenetSettings,
        encoder: Encoder,
        train: ClassifiedImages,
        test: ClassifiedImages,
    ) -> None:
        self._path: Path | None = None
        if settings.cache is None:
            return
        key = {
            "settings": settings.as_dict(),
            "model": model_key(encoder),
            "files": [files_key(part.paths) for part in (train, test)],
            "labels": [part.labels.tolist() for part in (train, test)],
        }
        self._path = Path(settings.cache) / f"linear-imagenet-{key_digest(key)}.safetensors"

    def load(self, heads: dict[str, LinearHeads]) -> Course:
        """Put the heads where they were, and give what they had reached; see `kept_state.read_tensors`."""
        found = None if self._path is None else read_tensors(self._path)
        if found is None:
            return Course()
        for kind, of_kind in heads.items():
            of_kind.load({name: found[f"{kind}.{name}"] for name in of_kind.state()})
        history = json.loads(bytes(found["history"].tolist()))
        return Course(history, found["best_right"].bool())

    def keep(self, heads: dict[str, LinearHeads], course: Course) -> None:
        """After an epoch."""
        if self._path is None:
            return
        tensors = {f"{kind}.{n}": t for kind, of_kind in heads.items() for n, t in of_kind.state().items()}
        tensors["best_right"] = course.best_right.to(torch.uint8)
        tensors["history"] = torch.tensor(list(json.dumps(course.history).encode()), dtype=torch.uint8)
        write_tensors(self._path, tensors)
