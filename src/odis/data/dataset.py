"""Rows of an object index to samples: a row that cannot be used is named and the next one taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from odis.config.training import PretrainConfig
from odis.config.wording import counted
from odis.data.augment.draw import Photometrics
from odis.data.pixels.decode import Decoded, decode
from odis.data.pixels.reader import ImageReader
from odis.data.pixels.shrink import LARGE, needed_shrink
from odis.data.raw_batch import RawSample, make_raw_sample
from odis.data.views import Plan, draw_all, plan_views, render_views
from odis.errors import DataError
from odis.objects.clean import usable_objects
from odis.objects.index import ObjectIndex
from odis.objects.storage.address import is_remote
from odis.types import ImageObjects, Sample, Skipped


@dataclass(frozen=True, slots=True)
class _Planned:
    """A sample before its views are rendered."""

    image: Decoded
    plan: Plan
    drawn: list[Photometrics]
    row: int
    path: str
    skipped: list[Skipped]


class ViewDataset(Dataset[Sample]):
    """The views of each image, made anew every epoch from (seed, epoch, row).

    Args:
        index: Images and their objects.
        config: The settings of objects, views and prediction masks; `strict`, `loader` and `train.seed` are
            read too.
        patch_size: Side of a patch in pixels of a view.

    Raises:
        ConfigError: An entry of `loader.keep` is wrong, or its folder cannot be written to.
    """

    def __init__(self, index: ObjectIndex, config: PretrainConfig, patch_size: int) -> None:
        self.index, self.config, self.patch_size = index, config, patch_size
        self.reader = ImageReader(config.loader, config.views, len(index))
        self._objects: dict[int, ImageObjects] = {}  # of rows whose images are kept in memory
        # Rows whose objects are known to be usable. The index of a folder holds whole images, which are.
        self._sound = np.full(len(index), index.is_folder)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample of (epoch, row), or of the next row that can be used; `skipped` names those passed over.

        Raises:
            DataError: No row can be used; or, with `strict`, this one or one of its objects cannot.
        """
        it = self._planned(key)
        rendered = render_views(it.plan, it.image, self.config.views, it.drawn)
        return Sample(*rendered, index=it.row, path=it.path, skipped=it.skipped)

    def fetched(self, keys: Sequence[tuple[int, int]]) -> AbstractContextManager[None]:
        """Within the block the images of these samples come from their stores at the same time; those that
        `loader.keep` has are left out.
        """
        return self.reader.bytes.ahead(self._to_fetch(keys))

    def _to_fetch(self, keys: Iterable[tuple[int, int]]) -> Iterator[str]:
        for key in keys:
            path = self.index.image_path(key[1])
            if is_remote(path) and not (self.reader.keeps and self._is_kept(key, path)):
                yield path

    def _is_kept(self, key: tuple[int, int], path: str) -> bool:
        """Whether a cache has the image of a sample, as small as its views allow."""
        epoch, row = key
        try:
            objects = self._read_objects(row, path)[0]
            size, shrink = (objects.width, objects.height), 1
            if min(size) > 0 and math.prod(size) >= LARGE:
                plan = self._plan(np.random.default_rng([self.config.train.seed, epoch, row]), objects)
                shrink = needed_shrink(*size, plan.crops, plan.sizes)
            return self.reader.holds(row, path, size, shrink)
        except DataError:  # told when the sample is made
            return False

    def _plan(self, rng: np.random.Generator, objects: ImageObjects) -> Plan:
        config, size = self.config, (objects.width, objects.height)
        return plan_views(
            rng, objects, *size, config.objects, config.views, config.prediction, self.patch_size
        )

    def raw_sample(self, key: tuple[int, int]) -> RawSample:
        """What `__getitem__` would make the sample from: pixels of the image, for the device to render views
        of.

        Raises:
            DataError: As `__getitem__`.
        """
        it, views = self._planned(key), self.config.views
        return make_raw_sample(
            it.image, it.plan, it.drawn, views, index=it.row, path=it.path, skipped=it.skipped
        )

    def _planned(self, key: tuple[int, int]) -> _Planned:
        """The geometry and photometrics of a sample, and its image."""
        config, (epoch, first) = self.config, key
        skipped: list[Skipped] = []
        for row in ((first + k) % len(self) for k in range(len(self))):
            path = self.index.image_path(row)
            rng = np.random.default_rng([config.train.seed, epoch, first])
            try:
                objects, unusable = self._read_objects(row, path)
                size = objects.width, objects.height
                if min(size) < 1:
                    decode(path, size)  # no image is as small as that, so this says what is wrong
                plan = self._plan(rng, objects)
                image = self.reader.read(row, path, size, needed_shrink(*size, plan.crops, plan.sizes))
            except DataError as error:
                if config.strict:
                    raise
                skipped.append(Skipped(path, str(error).removeprefix(f"{path}: ")))
                continue
            if self.reader.in_memory:
                self._objects[row] = objects
            return _Planned(image, plan, draw_all(rng, plan, config.views), row, path, skipped + unusable)
        raise DataError(
            f"{self.index.path}: none of its {counted(len(self), 'image')} can be used; {skipped[0].what}: "
            f"{skipped[0].why}"
        )

    def _read_objects(self, row: int, path: str) -> tuple[ImageObjects, list[Skipped]]:
        """The usable objects of a row, and the others."""
        if row in self._objects:
            return self._objects[row], []
        objects = self.index[row]
        # Other programs write indices too, and a broken mask must not stop a run at hour nine.
        if self._sound[row]:
            return objects, []
        usable = usable_objects(objects, len(self.index.classes))
        unusable = usable.skipped(path)
        if unusable and self.config.strict:
            raise DataError(f"{unusable[0].what}: {unusable[0].why}")
        self._sound[row] = not unusable
        return usable.row, unusable
