"""Listed images without boxes: each is one object, with its label if it has one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from odis.errors import DataError
from odis.objects.clean import Skip, usable_size
from odis.objects.sources.coco_instances import ImageSearch
from odis.objects.sources.places import ImagePlaces
from odis.objects.sources.reader import AnnotationReader, Unit
from odis.objects.sources.text import class_order
from odis.types import ImageObjects, Object, Skipped


def read_whole_images(listed: dict[str, str | None], where: ImageSearch, skip: Skip) -> AnnotationReader:
    """The images as the list has them.

    Args:
        listed: What each image is called, and its label or None.
        where: Where the images are.
        skip: Called with each that cannot be used.
    """
    classes = sorted({label for label in listed.values() if label is not None}, key=class_order)
    labels = {name: k for k, name in enumerate(classes)}
    places = ImagePlaces(where.base, where.folders, where.parts, lambda: listed)
    places.settle(list(listed)[:200])
    taken: set[str] = set()

    def row(name: str, label: str | None) -> ImageObjects | None:
        try:
            place = places.place(name)
        except DataError as error:
            skip(Skipped(places.called(name), str(error)))
            return None
        size = usable_size(where.base / place, skip)
        if size is None:
            return None
        whole = (0.0, 0.0, float(size[0]), float(size[1]))
        return ImageObjects(place, *size, (Object(whole, label=None if label is None else labels[label]),))

    def units() -> Iterator[Unit]:
        for name, label in listed.items():
            if places.plain(name) in taken:
                skip(Skipped(places.called(name), "was listed before"))
                continue
            taken.add(places.plain(name) or name)
            yield partial(row, name, label)

    return AnnotationReader(units(), where.base, "whole-image", classes)
