"""Where objects come from: one module a format, each with a `read` that turns it into rows of the object index.

`read(root, split, skip, **options) -> Source`. Rows come lazily, checked by `clean.py`; whatever is left out goes to `skip` as it
is met. A new format is a new module here and a line in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from odis.types import ImageObjects

SOURCES = {
    "coco": "odis.objects.sources.coco",
    "lvis": "odis.objects.sources.lvis",
    "objects365": "odis.objects.sources.objects365",
    "voc": "odis.objects.sources.voc",
    "imagenet": "odis.objects.sources.imagenet",
    "open-images": "odis.objects.sources.open_images",
    "yolo": "odis.objects.sources.yolo",
    "sa-1b": "odis.objects.sources.sa1b",
    "label-maps": "odis.objects.sources.label_maps",
    "tiny-imagenet": "odis.objects.sources.tiny_imagenet",
    "folder": "odis.objects.sources.folder",
    "scenes": "odis.objects.sources.scenes",
}
"""Name on the command line -> module, imported when it is asked for."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a format's reader returns: rows that come as they are asked for, and what the index says about them."""

    rows: Iterator[ImageObjects]
    root: Path
    provenance: str
    classes: list[str]
