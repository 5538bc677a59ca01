"""Training the heads of `ade20k-linear` and measuring them by sliding windows.

Letters: B images, S side of a view, C classes, n images measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from odis.data.views import normalize_pixels
from odis.errors import DataError
from odis.evaluation.label_maps import IGNORE, patch_label_shares
from odis.evaluation.protocols.images.patches import normalized_tokens
from odis.evaluation.protocols.images.store import files_key
from odis.evaluation.protocols.images.stream import read_batches
from odis.evaluation.protocols.images.views import pixels_of
from odis.evaluation.protocols.layouts.segmentation import SegmentedImages
from odis.evaluation.protocols.projection import Work, seconds_shown
from odis.evaluation.protocols.segmentation.ade_views import RandomWindow, short_side
from odis.evaluation.protocols.segmentation.channel_head import ChannelHead, learning_rate, pixel_loss
from odis.evaluation.protocols.segmentation.window_scores import best_class, stitched, windows
from odis.evaluation.protocols.training.iterated_heads import (
    IteratedHeads,
    image_at,
    new_heads,
    state_file,
    train_iterations,
)
from odis.evaluation.runner import EvaluationRun
from odis.evaluation.scores import confusion, iou_score, overlaps
from odis.inference import Encoder
from odis.types import Skipped

if TYPE_CHECKING:
    from odis.evaluation.protocols.segmentation.ade20k_linear import Ade20kSettings


@dataclass(frozen=True, slots=True)
class SegmentedRows:
    """Rows of a part, and the class in the train part that each of its labels stands for (-1: none)."""

    images: SegmentedImages
    rows: Sequence[int]
    positions: np.ndarray

    def read(self, row: int) -> tuple[Image.Image, np.ndarray, list[Skipped]]:
        """The image, its labels as classes of the train part, int32, and the objects that were left out.

        Raises:
            DataError: The image or its label map cannot be read, or shows a class that the train part lacks.
        """
        image, labels, skipped = self.images.images.read(row)
        known = labels != IGNORE
        found = np.full(labels.shape, IGNORE, np.int32)
        found[known] = self.positions[labels[known]]
        if (found[known] < 0).any():
            foreign = self.images.images.classes[int(labels[known][found[known] < 0][0])]
            raise DataError(f"shows {foreign!r}, a class that the train part does not list")
        return image, found, skipped


@dataclass(slots=True)
class Shown:
    """An image as it is shown."""

    number: int  # its place in the rows
    pixels: np.ndarray  # uint8 (3, h, w)
    shown: np.ndarray  # int32 (h, w), labels of these pixels
    labels: np.ndarray  # int32 (H, W), labels at their own size; the same as `shown` while training
    skipped: list[Skipped]  # objects that were left out of the labels


class Shows(Dataset["Shown | Skipped"]):
    """Images as random windows at some places of the series of permutations, or each once with its shorter
    side at S.
    """

    def __init__(
        self, part: SegmentedRows, side: int, *, places: range | None = None, seed: int = 0, view: bool = True
    ) -> None:
        self.part, self.side, self.places, self.seed, self.view = part, side, places, seed, view

    def __len__(self) -> int:
        return len(self.part.rows) if self.places is None else len(self.places)

    def __getitem__(self, i: int) -> Shown | Skipped:
        place = i if self.places is None else self.places[i]
        number = i if self.places is None else image_at(place, len(self.part.rows), self.seed)
        row = self.part.rows[number]
        path = self.part.images.images.image_path(row)
        try:
            image, labels, skipped = self.part.read(row)
        except DataError as error:
            return Skipped(path, str(error).removeprefix(f"{path}: "))
        if self.places is None:
            resized, shown = short_side(image, labels, self.side)
            return Shown(number, pixels_of(resized), shown, labels, skipped)
        rng = np.random.default_rng([self.seed, 4, place])
        pixels, shown = RandomWindow(self.side)(image, labels, rng)
        return Shown(number, pixels, shown, shown, skipped)


def window_features(encoder: Encoder, views: Sequence[np.ndarray], side: int) -> Tensor:
    """Patches (B, D, h, w) of views uint8 (3, h, w) of at most S, padded below and to the right with zeros
    once they are normalised.
    """
    images = []
    for pixels in views:
        one = torch.from_numpy(np.ascontiguousarray(pixels))[None].to(encoder.device)
        normal = normalize_pixels(one, encoder.mean, encoder.std)
        images.append(pad(normal, (0, side - normal.shape[3], 0, side - normal.shape[2])))
    patches, grid = normalized_tokens(encoder, torch.cat(images))
    maps: Tensor = patches.transpose(1, 2).unflatten(2, grid)
    return maps


def padded_labels(labels: np.ndarray, side: int) -> np.ndarray:
    """Labels (h, w) in a view of S, what is missing ignored."""
    rows, columns = labels.shape
    return np.pad(labels, ((0, side - rows), (0, side - columns)), constant_values=IGNORE)


def works(
    encoder: Encoder,
    parts: tuple[SegmentedRows, SegmentedRows],
    side: int,
    stride: int,
    settings: Ade20kSettings,
) -> Iterator[Work]:
    """What there is to do for a model, measured."""
    train, test = parts
    heads, saved = begin(encoder, train, side, settings)
    if saved is not None:
        heads.resume(saved)
    left = settings.iterations - heads.iteration
    views = Shows(train, side, places=range(max(1, left) * settings.batch), seed=settings.seed)
    probe, _ = begin(encoder, train, side, settings)
    learn = partial(train_step, encoder, probe, side, settings)
    seconds = seconds_shown(views, learn, encoder, settings.read, most=settings.batch)
    yield Work("train views, heads", left * settings.batch, seconds)
    scorers = head_scorers(encoder, probe, side, settings.read.batch_size)
    classes = len(train.images.images.classes)

    def count(items: Sequence[Shown]) -> None:
        for item in items:
            image_counts(item, side, stride, scorers, classes)

    measured = 1 + (left // settings.measure_every if settings.as_published else 0)
    images = len(test.rows) * measured
    yield Work("test images", images, seconds_shown(Shows(test, side), count, encoder, settings.read))


def begin(
    encoder: Encoder, train: SegmentedRows, side: int, settings: Ade20kSettings
) -> tuple[IteratedHeads, Path | None]:
    """Heads that have learned nothing, and where they are kept, if anywhere."""
    images = train.images.images
    classes = len(images.classes)
    width = window_features(encoder, [np.zeros((3, side, side), np.uint8)], side).shape[1]
    heads = new_heads(
        settings, lambda: ChannelHead(width, classes, settings.dropout), encoder.device, beta2=0.999
    )
    files = files_key(images.image_path(row) for row in train.rows)
    names = list(images.classes)
    return heads, state_file(settings, encoder, "ade20k-linear", files=files, classes=names, side=side)


def train_heads(
    run: EvaluationRun,
    encoder: Encoder,
    train: SegmentedRows,
    side: int,
    settings: Ade20kSettings,
    measure: Callable[[IteratedHeads], list[float]] | None,
) -> IteratedHeads:
    """All heads of one model, trained on the same views; goes on where `--cache` has them.

    Args:
        run: Is told what was read.
        encoder: The model.
        train: The part.
        side: S.
        settings: How.
        measure: Measures all heads every `settings.measure_every` steps, into their history; None for never.
    """
    heads, saved = begin(encoder, train, side, settings)
    if saved is not None:
        heads.resume(saved)
    places = range(heads.iteration * settings.batch, settings.iterations * settings.batch)

    def step(batch: Sequence[Shown]) -> None:
        for one in batch:
            run.skip(*one.skipped)
        train_step(encoder, heads, side, settings, batch)

    def after(now: int) -> None:
        if measure is not None and (now % settings.measure_every == 0 or now == settings.iterations):
            heads.history.append(measure(heads))

    missed = train_iterations(
        run,
        heads,
        Shows(train, side, places=places, seed=settings.seed),
        settings,
        f"{encoder.source or 'model'}, training",
        step=step,
        after=after,
        saved=saved,
    )
    run.sides["train"] = {
        "index": train.images.images.path,
        "provenance": train.images.images.provenance,
        "images": len(train.rows),
        "classes": len(train.images.images.classes),
        "unread_views": missed,
    }
    return heads


def _draw(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def _device_of(encoder: Encoder) -> list[int]:
    return [encoder.device.index or 0] if encoder.device.type == "cuda" else []


def train_step(
    encoder: Encoder, heads: IteratedHeads, side: int, settings: Ade20kSettings, batch: Sequence[Shown]
) -> None:
    """One step of all heads on the same views."""
    features = window_features(encoder, [one.pixels for one in batch], side)
    stacked = np.stack([padded_labels(one.shown, side) for one in batch])
    labels = torch.from_numpy(stacked).long().to(encoder.device)
    share = learning_rate(heads.iteration, settings.iterations, settings.warm_up)
    for k, head in enumerate(heads.heads):
        # Channels are dropped by step and head alone: a resumed run drops the same.
        with torch.random.fork_rng(devices=_device_of(encoder)):
            torch.manual_seed(_draw(settings.seed, heads.iteration, k))
            scores = head.module.train()(features)
        loss = pixel_loss(scores, labels, whole=settings.as_published)
        head.step(loss, lr=head.lr * share, beta1=0.9)


Scorers = Callable[[Shown, list[np.ndarray]], "list[list[Tensor]]"]
"""Of each head, scores (C, h, w) of each window, from an image and the pixels of its windows."""


def label_counts(
    run: EvaluationRun,
    test: SegmentedRows,
    side: int,
    stride: int,
    what: str,
    scorers: Scorers,
    heads: int,
    classes: int,
) -> tuple[list[int], np.ndarray]:
    """Which images could be read, and for each of the heads the pixels of each class in both, predicted and
    labelled, of each image at its own size: int64 (heads, n, 3, C).
    """
    numbers: list[int] = []
    counts: list[list[np.ndarray]] = []
    for batch in read_batches(run, Shows(test, side), what):
        for _, item in batch:
            run.skip(*item.skipped)
            numbers.append(item.number)
            counts.append(image_counts(item, side, stride, scorers, classes))
    run.sides["test"] = {
        "index": test.images.images.path,
        "provenance": test.images.images.provenance,
        "images": len(numbers),
        "skipped": len(test.rows) - len(numbers),
        "classes": classes,
    }
    whole = np.array(counts, dtype=np.int64).reshape(len(numbers), heads, 3, classes)
    return numbers, whole.transpose(1, 0, 2, 3)


@torch.no_grad()
def image_counts(item: Shown, side: int, stride: int, scorers: Scorers, classes: int) -> list[np.ndarray]:
    """For each head the pixels of each class in both, predicted and labelled, of an image: int64 (3, C)."""
    size = item.shown.shape
    corners = windows(size[0], size[1], side, stride)
    views = [item.pixels[:, top : top + side, left : left + side] for top, left in corners]
    found = []
    for scores in scorers(item, views):
        label = best_class(stitched(scores, corners, (size[0], size[1]), side), item.labels.shape[:2])
        truth = torch.from_numpy(item.labels).to(label.device)
        found.append(overlaps(confusion(label, truth, classes, ignore=IGNORE)))
    return found


def head_scorers(encoder: Encoder, heads: IteratedHeads, side: int, batch: int) -> Scorers:
    """Scores of windows by every head; each window is shown to the model once."""

    def of(_: Shown, views: list[np.ndarray]) -> list[list[Tensor]]:
        parts = [window_features(encoder, views[k : k + batch], side) for k in range(0, len(views), batch)]
        features = torch.cat(parts)
        return [list(head.module.eval()(features)) for head in heads.heads]

    return of


def ceiling_scorers(patch: int, side: int, stride: int, classes: int, device: torch.device) -> Scorers:
    """Scores of windows that are the shares of the true classes in each patch."""
    grid = (side // patch, side // patch)

    def of(item: Shown, views: list[np.ndarray]) -> list[list[Tensor]]:
        found = []
        for top, left in windows(item.shown.shape[0], item.shown.shape[1], side, stride):
            labels = item.shown[top : top + side, left : left + side]
            shares = torch.from_numpy(patch_label_shares(labels, grid, classes)).to(device)
            found.append(shares.T.reshape(classes, *grid))
        return [found]

    return of


def percent_iou(counts: np.ndarray) -> float:
    """Mean IoU in percent of counts (n, 3, C)."""
    return iou_score(counts, resamples=1)[0].value


def frequent_class_counts(counts: np.ndarray) -> np.ndarray:
    """Counts (n, 3, C) of the answer that every labelled pixel has the class that most pixels have."""
    labelled = counts[:, 2]
    most = int(labelled.sum(axis=0).argmax())
    found = np.zeros_like(counts)
    found[:, 2] = labelled
    found[:, 1, most] = labelled.sum(axis=1)
    found[:, 0, most] = labelled[:, most]
    return found
