"""Images with one class each, as a centre crop: what the protocols of classification share.

Letters: B images, Q objects of an image, P patches, D width.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import Dataset

from odis.config.query import QueryConfig
from odis.data.geometry.patches import object_shapes, objects_on_grid, patch_grid
from odis.errors import DataError, OdisError
from odis.evaluation.measurable import FoundLabels, require_measurable
from odis.evaluation.protocols.images.store import FeatureStore, Made, files_key, model_key
from odis.evaluation.protocols.images.stream import in_order, read_picture
from odis.evaluation.protocols.images.views import CenterCrop
from odis.evaluation.protocols.layouts.classified import ClassifiedImages
from odis.evaluation.protocols.projection import seconds_shown
from odis.evaluation.runner import EvaluationRun
from odis.evaluation.subset import draw_rows, overlap_note
from odis.inference import Encoder
from odis.inference.queries import Query, QueryBuilder, read_out
from odis.objects.clean import usable_objects
from odis.types import Skipped

if TYPE_CHECKING:
    from odis.types import ImageObjects


class CropSettings(Protocol):
    """What is asked of the settings of a protocol here."""

    @property
    def crop(self) -> int:
        """Side of the view in pixels."""

    @property
    def readout(self) -> Sequence[str]:
        """Some of `cls`, `obj`, `both`."""

    @property
    def as_published(self) -> bool:
        """Follow the reference to the letter."""

    @property
    def cache(self) -> str | None:
        """Folder to keep features in."""


_CHUNK = 2048  # images in a file of the cache: ImageNet has 1.3 million


def view_of(crop: int) -> CenterCrop:
    """256/224, or the same proportion at another size."""
    return CenterCrop(round(crop * 256 / 224), crop, "bicubic")


def drawn(images: ClassifiedImages, most: int | None, seed: int) -> ClassifiedImages:
    """All images, or `most` of them drawn by the seed."""
    rows = draw_rows(len(images), most, seed)
    return images if len(rows) == len(images) else images.select(rows)


def draw_parts(
    run: EvaluationRun, train: ClassifiedImages, test: ClassifiedImages
) -> tuple[ClassifiedImages, ClassifiedImages, np.ndarray]:
    """Both parts, drawn as the run's settings say, and `matched_labels` of the test part. Images that are in
    both are noted in the run.

    Raises:
        DataError: See `matched_labels`.
    """
    settings = run.settings
    train = drawn(train, settings.max_train, settings.seed)
    test = drawn(test, settings.max_test, settings.seed)
    labels = matched_labels(test, train)
    run.note(overlap_note(same_files(test, train)))
    return train, test, labels


def same_files(test: ClassifiedImages, train: ClassifiedImages) -> int:
    """How many test images are train images too, by the files that their paths lead to."""
    return len({os.path.realpath(p) for p in test.paths} & {os.path.realpath(p) for p in train.paths})


def matched_labels(test: ClassifiedImages, train: ClassifiedImages) -> np.ndarray:
    """FoundLabels of the test images in the classes of the train part, by name: int64 (n,).

    Raises:
        DataError: a class that the train part does not have, or what `require_measurable` refuses.
    """
    position = {name: k for k, name in enumerate(train.classes)}
    used = sorted(set(test.labels.tolist()))
    foreign = [test.classes[k] for k in used if test.classes[k] not in position]
    found = sorted(set(train.labels.tolist()))
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise DataError(
            f"{test.path}: has images of classes that {train.path} has not: {', '.join(foreign[:3])}{more}"
        )
    require_measurable(
        FoundLabels(train.path, train.classes, found, "images"),
        FoundLabels(test.path, test.classes, used, "images"),
    )
    table = np.array([position.get(name, -1) for name in test.classes], np.int64)
    labels: np.ndarray = table[test.labels]
    return labels


@dataclass(slots=True)
class FeatureBatch:
    """Features of B images."""

    numbers: Tensor  # int64 (B,), which images of the part
    readouts: dict[str, Tensor]  # float32 (B, D) of each readout, on the CPU


@dataclass(slots=True)
class _Asked:
    """One image as it is shown, and the masks of its objects."""

    pixels: np.ndarray  # uint8 (3, S, S)
    masks: np.ndarray  # bool (Q, P); (0, P) if no object is asked for, or the crop leaves none
    left_out: int = 0  # objects that the crop leaves no patch of


class AskedImages(Dataset["_Asked | Skipped"]):
    """Reads and crops images, and puts the objects of each on the patches of its view."""

    def __init__(
        self, images: ClassifiedImages, view: CenterCrop, builder: QueryBuilder | None, *, turn: bool
    ) -> None:
        self.images, self.view, self.builder, self.turn = images, view, builder, turn

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> _Asked | Skipped:
        path = self.images.paths[i]
        try:
            picture = read_picture(path, turn=self.turn)
            asked = _Asked(self.view(picture), np.empty((0, 0), dtype=bool))
            if self.builder is not None and self.images.index is not None:
                row = self.images.index[int(self.images.rows[i])]
                if picture.size != (row.width, row.height):
                    raise DataError(
                        f"is {picture.width} x {picture.height} pixels, but its objects are for "
                        f"{row.width} x {row.height}"
                    )
                asked.masks, asked.left_out = self._masks(row, self.builder)
            return asked
        except DataError as error:
            return Skipped(path, str(error).removeprefix(f"{path}: "))

    def _masks(self, row: ImageObjects, builder: QueryBuilder) -> tuple[np.ndarray, int]:
        """bool (Q, P) of the objects that the crop shows, and how many it does not."""
        assert self.images.index is not None
        objects = usable_objects(row, len(self.images.index.classes)).objects
        width, height = row.width, row.height
        shapes = object_shapes(
            np.array([one.box for one in objects]).reshape(-1, 4),
            [one.mask for one in objects],
            width,
            height,
        )
        # Where the view lies in the image, in its pixels; it may begin or end between two.
        whole = np.array([[0.0, 0.0, width, height]])
        x0, y0, x1, y1 = self.view.boxes(whole, (width, height))[0].tolist()
        per_x, per_y, side = width / (x1 - x0), height / (y1 - y0), self.view.crop
        shown = [-x0 * per_x, -y0 * per_y, (side - x0) * per_x, (side - y0) * per_y]
        grid = builder.square or patch_grid(self.view.crop, builder.patch)
        masks = objects_on_grid(
            shapes,
            np.array([shown]),
            np.array([False]),
            grid,
            builder.coverage,
            builder.margin,
            builder.mask_shape,
        )[0].reshape(len(objects), -1)
        seen = masks.any(axis=1)
        return masks[seen], int((~seen).sum())


class PartReader:
    """Shows the images of a part to one model, and reads it out.

    `obj` is the mean over the objects that the view shows; where it shows none, `[CLS]` stands for it. `cls`
    is of the whole image as one object, in `both` too, as the authors' code has it.

    Args:
        run: Is told what was read and skipped.
        encoder: The model.
        images: The part.
        side: `train` or `test`.
        settings: View, readouts and cache.

    Raises:
        OdisError: `obj` of images without an object index.
    """

    def __init__(
        self,
        run: EvaluationRun,
        encoder: Encoder,
        images: ClassifiedImages,
        side: str,
        settings: CropSettings,
    ) -> None:
        self.run, self.encoder, self.images, self.side, self.settings = run, encoder, images, side, settings
        self.objects = set(settings.readout) != {"cls"}
        if self.objects and images.index is None:
            raise OdisError(
                f"readout obj: {images.path} is no object index, so there are no boxes to ask about"
            )
        self._builder = None
        if self.objects:
            self._builder = encoder.query_builder(QueryConfig(("masked-attention",), size=settings.crop))

    def _asked(self, images: ClassifiedImages) -> AskedImages:
        turn = not self.settings.as_published
        return AskedImages(images, view_of(self.settings.crop), self._builder, turn=turn)

    def store(self) -> FeatureStore:
        """Where features are kept, if anywhere."""
        cache, images, settings = self.settings.cache, self.images, self.settings
        if cache is None:
            return FeatureStore("", {})
        key = {
            "protocol": "knn-imagenet",
            "files": files_key([*images.paths, *([images.path] if self.objects else [])]),
            "view": [settings.crop, settings.as_published, sorted(settings.readout)],
            "rows": images.rows.tolist() if self.objects else [],
        }
        return FeatureStore(cache, key | model_key(self.encoder), chunk=_CHUNK)

    def seconds(self) -> float:
        """Seconds that an image takes to be read and shown."""
        return seconds_shown(
            self._asked(self.images),
            lambda items: list(self._read(items)),
            self.encoder,
            self.run.settings.read,
        )

    def features(self) -> Iterator[FeatureBatch]:
        """Features in every readout, batch by batch and in order; each image is read once. `run.sides` counts
        what was read.

        Raises:
            OdisError: Features that are not finite.
            DataError: with `--strict`, for the first image that cannot be read.
        """
        run, images, waiting = self.run, self.images, list[tuple[int, Made]]()
        shown, unseen, bare = 0, 0, 0

        def make(numbers: Sequence[int]) -> Iterator[tuple[int, Made | Skipped]]:
            chosen = images if len(numbers) == len(images) else images.select(numbers)
            return in_order(run, self._asked(chosen), numbers, self._read)

        what = f"{self.encoder.source or 'model'}, {self.side}"
        for number, item in self.store().stream(len(images), make):
            if isinstance(item, Skipped):
                run.skip(item)
            else:
                waiting.append((number, item))
                shown += 1
                unseen += int(item["left_out"][0])
                bare += self.objects and not int(item["seen"][0])
            if waiting and (len(waiting) == run.settings.read.batch_size or number == len(images) - 1):
                yield _stacked(waiting, self.settings.readout)
                waiting = []
            if run.progress is not None:
                run.progress(what, number + 1, len(images))
        counts = {"images": shown, "skipped": len(images) - shown, "unlabelled": images.unlabelled}
        described = {"index": images.path, "provenance": images.provenance, "classes": len(images.classes)}
        run.sides[self.side] = described | counts
        if self.objects:
            run.sides[self.side] |= {"objects_outside_the_crop": unseen, "images_without_an_object": bare}

    def _read(self, asked: Sequence[_Asked]) -> Iterator[Made]:
        tokens = self.encoder.tokens(np.stack([one.pixels for one in asked]))
        if tokens.image is None:
            raise OdisError(f"{self.encoder.source or 'this model'} has no [CLS], which the protocol reads")
        cls = tokens.image.float()
        found = {"cls": cls}
        if self._builder is not None:
            obj = _object_means(self.encoder, self._builder, asked, cls)
            found |= {"obj": obj, "both": read_out(obj, cls, "both")}
        features = {name: normalize(found[name], dim=1).cpu() for name in self.settings.readout}
        if not all(bool(one.isfinite().all()) for one in features.values()):
            raise OdisError(
                f"{self.side} features hold values that are not finite: the model's weights or its precision "
                f"are at fault"
            )
        for b, one in enumerate(asked):
            made = {name: of_all[b].numpy() for name, of_all in features.items()}
            yield made | {"left_out": np.array([one.left_out]), "seen": np.array([len(one.masks)])}


def _stacked(made: Sequence[tuple[int, Made]], readouts: Sequence[str]) -> FeatureBatch:
    features = {name: torch.from_numpy(np.stack([one[name] for _, one in made])) for name in readouts}
    return FeatureBatch(torch.tensor([number for number, _ in made]), features)


def _object_means(encoder: Encoder, builder: QueryBuilder, asked: Sequence[_Asked], bare: Tensor) -> Tensor:
    """(B, D): the mean feature of each image's objects; that of `bare` where there is none."""

    def queries() -> Iterator[tuple[int, Query]]:
        for b, one in enumerate(asked):
            if builder.one_each:
                for mask in one.masks:
                    yield b, Query(one.pixels, mask[None])
            elif len(one.masks):
                yield b, Query(one.pixels, one.masks)

    sums, counts = torch.zeros_like(bare), torch.zeros(len(asked), 1, device=bare.device)
    for batch, objects, _ in encoder.run_queries(queries(), builder, len(asked)):
        for (b, query), tokens in zip(batch, objects.float()):
            sums[b] += tokens[: len(query.masks)].sum(dim=0)
            counts[b] += len(query.masks)
    return torch.where(counts > 0, sums / counts.clamp(min=1), bare)
