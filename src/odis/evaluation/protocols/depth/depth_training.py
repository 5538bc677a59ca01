"""Training the heads of `nyu-depth-linear` and measuring them.

Letters: B images, H, W a view in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from odis.data.views import normalize_pixels
from odis.errors import DataError
from odis.evaluation.protocols.depth.depth_head import (
    EIGEN,
    DepthHead,
    depth_loss,
    first_beta,
    image_rmse,
    learning_rate,
    patch_depth,
)
from odis.evaluation.protocols.depth.depth_views import DepthView, padded, resized
from odis.evaluation.protocols.images.patches import normalized_tokens
from odis.evaluation.protocols.images.store import files_key
from odis.evaluation.protocols.images.stream import read_batches, read_picture
from odis.evaluation.protocols.images.views import pixels_of
from odis.evaluation.protocols.layouts.nyu import SIZE, DepthImages, read_depth
from odis.evaluation.protocols.projection import Work, seconds_shown
from odis.evaluation.protocols.training.iterated_heads import (
    IteratedHeads,
    image_at,
    new_heads,
    state_file,
    train_iterations,
)
from odis.evaluation.runner import EvaluationRun
from odis.inference import Encoder
from odis.types import Skipped

if TYPE_CHECKING:
    from odis.evaluation.protocols.depth.nyu_depth_linear import NyuDepthSettings

Shown = tuple[int, np.ndarray, np.ndarray]
"""Number of an image, its pixels uint8 (3, H, W), and metres float32 (H, W)."""


class DepthPictures(Dataset["Shown | Skipped"]):
    """Images and depth maps, as they are, or as random views at some places of the series.

    Args:
        images: The part.
        turn: Turn photographs as their EXIF says.
        view: The random view; None shows all of each image once.
        places: Places of the series of permutations (`image_at`).
        seed: Of the series and of what the view draws at a place.
    """

    def __init__(
        self,
        images: DepthImages,
        *,
        turn: bool,
        view: DepthView | None = None,
        places: range = range(0),
        seed: int = 0,
    ) -> None:
        self.images, self.turn, self.view, self.places, self.seed = images, turn, view, places, seed

    def __len__(self) -> int:
        return len(self.images) if self.view is None else len(self.places)

    def __getitem__(self, i: int) -> Shown | Skipped:
        place = i if self.view is None else self.places[i]
        number = i if self.view is None else image_at(place, len(self.images), self.seed)
        path, of_depth = self.images.pairs[number]
        try:
            image, depth = read_picture(path, turn=self.turn), read_depth(of_depth)
            if image.size != SIZE:
                raise DataError(f"is {image.width} x {image.height} pixels, must be 640 x 480")
        except DataError as error:
            return Skipped(path, str(error).removeprefix(f"{path}: "))
        if self.view is None:
            return number, pixels_of(image), depth
        rng = np.random.default_rng([self.seed, 4, place])
        return number, *self.view(image, depth, rng)


def depth_features(encoder: Encoder, pixels: Tensor) -> Tensor:
    """Patches (B, D, h, w) of pixels uint8 (B, 3, H, W), zero-padded around to whole patches once they are
    normalised.
    """
    images = normalize_pixels(pixels.to(encoder.device), encoder.mean, encoder.std)
    patches, grid = normalized_tokens(encoder, padded(images, encoder.patch_size)[0])
    maps: Tensor = patches.transpose(1, 2).unflatten(2, grid)
    return maps


def begin(
    encoder: Encoder, train: DepthImages, settings: NyuDepthSettings
) -> tuple[IteratedHeads, Path | None]:
    """Heads that have learned nothing, and where they are kept, if anywhere."""
    probe = torch.zeros(1, 3, encoder.patch_size, encoder.patch_size, dtype=torch.uint8)
    width = depth_features(encoder, probe).shape[1]
    heads = new_heads(settings, lambda: DepthHead(width), encoder.device, beta2=0.99)
    files = files_key(file for pair in train.pairs for file in pair)
    return heads, state_file(settings, encoder, "nyu-depth-linear", ("max_test",), files=files)


def works(
    encoder: Encoder, train: DepthImages, test: DepthImages, settings: NyuDepthSettings
) -> Iterator[Work]:
    """What there is to do for a model, measured."""
    heads, saved = begin(encoder, train, settings)
    if saved is not None:
        heads.resume(saved)
    left = settings.iterations - heads.iteration
    views = train_views(train, settings, range(max(1, left) * settings.batch))
    probe, _ = begin(encoder, train, settings)
    learn = partial(train_step, encoder, probe, settings)
    seconds = seconds_shown(views, learn, encoder, settings.read, most=settings.batch)
    yield Work("train views, heads", left * settings.batch, seconds)

    def measure(items: Sequence[Shown]) -> None:
        for item in items:
            image_errors(encoder, probe, item)

    pictures = DepthPictures(test, turn=not settings.as_published)
    yield Work("test images", len(test), seconds_shown(pictures, measure, encoder, settings.read))


def train_heads(
    run: EvaluationRun, encoder: Encoder, train: DepthImages, settings: NyuDepthSettings
) -> IteratedHeads:
    """All heads of one model, trained on the same views; goes on where `--cache` has them.

    Raises:
        DataError: With `--strict`, for the first image that cannot be read; none of a batch can.
    """
    heads, saved = begin(encoder, train, settings)
    if saved is not None:
        heads.resume(saved)
    places = range(heads.iteration * settings.batch, settings.iterations * settings.batch)
    what = f"{encoder.source or 'model'}, training"
    missed = train_iterations(
        run,
        heads,
        train_views(train, settings, places),
        settings,
        what,
        step=partial(train_step, encoder, heads, settings),
        saved=saved,
    )
    run.sides["train"] = {
        "index": train.path,
        "provenance": "depth maps",
        "classes": 0,
        "images": len(train),
        "unpaired": train.unpaired,
        "unread_views": missed,
    }
    return heads


def train_views(train: DepthImages, settings: NyuDepthSettings, places: range) -> DepthPictures:
    """The random views at some places of the series."""
    return DepthPictures(
        train, turn=not settings.as_published, view=DepthView(), places=places, seed=settings.seed
    )


def train_step(
    encoder: Encoder, heads: IteratedHeads, settings: NyuDepthSettings, batch: Sequence[Shown]
) -> None:
    """One step of all heads on the same views."""
    t, shown = heads.iteration, batch[0][2].shape[:2]
    features = depth_features(encoder, torch.from_numpy(np.stack([pixels for _, pixels, _ in batch])))
    truth = torch.from_numpy(np.stack([metres for _, _, metres in batch])).to(encoder.device)
    share = learning_rate(t, settings.iterations, settings.warm)
    beta1 = first_beta(t, settings.iterations, settings.warm, settings.as_published)
    for head in heads.heads:
        depth = resized(head.module.train()(features), shown, encoder.patch_size, shown)
        loss = depth_loss(depth, truth, variance=t >= settings.without_variance)
        head.step(loss, lr=head.lr * share, beta1=beta1, clip=settings.clip)


def errors_on(
    run: EvaluationRun, encoder: Encoder, heads: IteratedHeads, test: DepthImages, settings: NyuDepthSettings
) -> tuple[list[int], np.ndarray]:
    """Which images could be read, and the error of each head on each in metres: float64 (heads, n)."""
    numbers, errors = [], []
    pictures = DepthPictures(test, turn=not settings.as_published)
    for batch in read_batches(run, pictures, f"{encoder.source or 'model'}, test"):
        for _, item in batch:
            numbers.append(item[0])
            errors.append(image_errors(encoder, heads, item))
    run.sides["test"] = {
        "index": test.path,
        "provenance": "depth maps",
        "classes": 0,
        "images": len(numbers),
        "skipped": len(test) - len(numbers),
    }
    return numbers, np.array(errors, dtype=np.float64).reshape(-1, len(heads.heads)).T


@torch.no_grad()
def image_errors(encoder: Encoder, heads: IteratedHeads, item: Shown) -> list[float]:
    """The error of each head on an image in metres: the mean of what it says of it and of its mirror
    image.
    """
    _, pixels, truth = item
    shown, found = (SIZE[1], SIZE[0]), []
    features = depth_features(encoder, torch.from_numpy(np.stack([pixels, pixels[:, :, ::-1]])))
    for head in heads.heads:
        maps = resized(head.module.eval()(features), shown, encoder.patch_size, shown)
        depth = (maps[0] + maps[1].flip(1)) / 2
        found.append(image_rmse(depth.cpu().numpy(), truth))
    return found


def mean_depth(run: EvaluationRun, train: DepthImages) -> float:
    """The mean of all known depths in metres, NaN if there is none; files that cannot be read are passed
    over.
    """
    total, count = 0.0, 0
    for number, (_, path) in enumerate(train.pairs, start=1):
        with suppress(DataError):
            depth = read_depth(path)
            total, count = total + float(depth.sum(dtype=np.float64)), count + int((depth > 0).sum())
        if run.progress is not None:
            run.progress("depth maps of the train part", number, len(train))
    return total / count if count else math.nan


def knows_depth(test: DepthImages) -> bool:
    """Whether any image has a known depth where it is scored."""
    for _, path in test.pairs:
        with suppress(DataError):
            if (read_depth(path)[EIGEN] > 0).any():
                return True
    return False


def plain_errors(test: DepthImages, numbers: Sequence[int], value: float, patch: int) -> np.ndarray:
    """Errors in metres of one depth everywhere, and of the true depth as whole patches hold it: (2, n)."""
    found = []
    shown = (SIZE[1], SIZE[0])
    for number in numbers:
        truth = read_depth(test.pairs[number][1])
        rows, columns = (-(-side // patch) for side in shown)
        around = np.zeros((rows * patch, columns * patch), np.float32)
        top, left = (around.shape[0] - shown[0]) // 2, (around.shape[1] - shown[1]) // 2
        around[top : top + shown[0], left : left + shown[1]] = truth
        coarse = torch.from_numpy(patch_depth(around, (rows, columns)))[None]
        again = resized(coarse, shown, patch, shown)[0].numpy()
        found.append((image_rmse(np.full(truth.shape, value), truth), image_rmse(again, truth)))
    return np.array(found, dtype=np.float64).reshape(-1, 2).T
