"""Annotation formats, one module each. Adding one takes its module and its name in `MODULES`.

A module has a function `read` and a `FORMAT` that names and describes it (see `reader.py`).
"""

from importlib import import_module

from odis.objects.sources.reader import AnnotationFormat

MODULES = (
    "coco",
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
    "plain_table",
    "folder",
)
"""Modules of this package that read a format, in the order of `odis index --help`."""

_FORMATS: list[AnnotationFormat] = [import_module(f"{__name__}.{name}").FORMAT for name in MODULES]

FORMATS = {one.name: one for one in _FORMATS}
"""The formats by their names on the command line."""
