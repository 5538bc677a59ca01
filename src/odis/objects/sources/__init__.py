"""Annotation formats, one module each. Adding one takes its module and its name in `MODULES`.

A module has a function `read` and a `FORMAT` that names and describes it (see `reader.py`).
"""

from collections.abc import Collection
from importlib import import_module

from odis.errors import ConfigError, DataError
from odis.objects.sources.reader import AnnotationFormat

MODULES = (
    "coco",
    "coco_panoptic",
    "lvis",
    "objects365",
    "voc",
    "imagenet",
    "open_images",
    "yolo",
    "sa1b",
    "label_maps",
    "tiny_imagenet",
    "labelme",
    "cvat",
    "imagefolder",
    "huggingface",
    "webdataset",
    "plain_table",
    "folder",
)
"""Modules of this package that read a format, in the order of `odis index --help`."""

_FORMATS: list[AnnotationFormat] = [import_module(f"{__name__}.{name}").FORMAT for name in MODULES]

FORMATS = {one.name: one for one in _FORMATS}
"""The formats by their names on the command line."""


def check_reading(source: str, *, trust: bool, places: Collection[str], masks: bool) -> None:
    """Refuse a format that is none, and what a format does not take.

    Args:
        source: Its name.
        trust: Whether sizes are to be taken from the annotations.
        places: What is named elsewhere: `images`, `annotations`.
        masks: Whether masks beside the boxes are to be read.

    Raises:
        ConfigError: Naming the formats that take it.
        DataError: There is no such format.
    """
    if source not in FORMATS:
        raise DataError(f"unknown annotation format {source!r}; there are {', '.join(FORMATS)}")
    form = FORMATS[source]
    if trust and not form.states_sizes:
        stating = [name for name, one in FORMATS.items() if one.states_sizes]
        raise ConfigError(f"trust: {source} states no sizes of images; {', '.join(stating)} do")
    if places and not form.takes_places:
        taking = [name for name, one in FORMATS.items() if one.takes_places]
        raise ConfigError(f"{next(iter(places))}: {source} has fixed places; {', '.join(taking)} take others")
    if masks and not form.has_masks:
        having = [name for name, one in FORMATS.items() if one.has_masks]
        raise ConfigError(f"masks: {source} has no masks beside its boxes; {', '.join(having)} has")
