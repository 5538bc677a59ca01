"""The images and objects that the report shows and searches, drawn by a seed and the same for all runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from odis.errors import DataError
from odis.objects.clean import usable_objects
from odis.objects.index import ObjectIndex
from odis.objects.pixels import ShownImage, load_picture
from odis.report.runs import Run
from odis.types import ImageObjects, Object

OBJECTS = 2  # queried in an image: its largest
SEARCHED = 500  # objects to search for the nearest, or a few more


@dataclass(frozen=True, slots=True)
class SampleImage:
    """An image of the report and its queried objects."""

    row: int
    shown: ShownImage
    item: ImageObjects
    numbers: list[int]  # places of the objects in the row

    @property
    def image(self) -> Image.Image:
        """To look at: 8-bit RGB."""
        return self.shown.image

    @property
    def objects(self) -> list[Object]:
        """The queried objects."""
        return [self.item.objects[number] for number in self.numbers]

    @property
    def name(self) -> str:
        """The image's file name."""
        return Path(self.item.image).name


@dataclass(frozen=True, slots=True)
class ReportSample:
    """What is shown of an index."""

    index: ObjectIndex
    shown: list[SampleImage]
    searched: list[int]  # rows, the shown ones among them


def open_data(runs: Sequence[Run], data: str | None) -> tuple[ObjectIndex | None, str]:
    """The index to take images from and a description of it, or None and a description of what is missing.

    Args:
        runs: Their `val`, else their `data`, is taken: the first that is still here.
        data: An index or folder to take instead.

    Raises:
        DataError: `data` cannot be opened.
    """
    if data is not None:
        return ObjectIndex.open(data), "given with --data"
    missing = []
    for run in runs:
        for name in ("val", "data"):
            path = run.setting(f"config.{name}")
            if not isinstance(path, str) or not path:
                continue
            try:
                return ObjectIndex.open(path), f"{name} of {run.label}"
            except DataError as error:
                missing.append(str(error))
    why = f" ({'; '.join(dict.fromkeys(missing))})" if missing else ""
    return None, f"The images of these runs are not here any more{why}. Give others with --data."


def draw_sample(index: ObjectIndex, images: int, seed: int) -> ReportSample:
    """Usable images with their largest objects, and the rows to search.

    Args:
        index: Where they are taken from.
        images: How many, if there are so many.
        seed: Which.
    """
    order = np.random.default_rng(seed).permutation(len(index)).tolist()
    shown: list[SampleImage] = []
    searched: list[int] = []
    objects = 0
    for row in order:
        if len(shown) == images and objects >= SEARCHED:
            break
        try:
            item = index[row]
            usable = _usable(item, len(index.classes))
            if usable and len(shown) < images:
                image = load_picture(index.image_path(row), (item.width, item.height))
                shown.append(SampleImage(row, image, item, usable[:OBJECTS]))
        except DataError:  # `odis index` and `odis pretrain` report it; here the next image takes its place
            continue
        if usable:
            searched.append(row)
            objects += len(usable)
    return ReportSample(index, shown, searched)


def _usable(item: ImageObjects, classes: int) -> list[int]:
    """Usable objects of a row, the largest first."""
    usable, area = usable_objects(item, classes), {}
    for k, one in zip(usable.numbers, usable.objects):
        x0, y0, x1, y1 = one.box
        area[k] = (min(x1, item.width) - max(x0, 0)) * (min(y1, item.height) - max(y0, 0))
    return sorted(area, key=lambda k: (-area[k], k))
