"""Where objects come from: one module a format, each with a `read` that turns it into rows of the object
index.

`read(root, split, skip, **options) -> Source`. What comes is units, lazily: one for each image, in the order
of the rows. To list them costs the annotations that say which images there are; to call one does the rest -
opens the image's header, checks by `clean.py`, encodes masks - and makes the row. So images can be shared out
between processes, or passed over, without being opened. Whatever is left out goes to `skip` as it is met. A
new format is a new module here and a line in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    "scenes": "odis.objects.scenes.compose",
}
"""Name on the command line -> module, imported when it is asked for."""

STATES_SIZES = frozenset({"coco", "lvis", "objects365", "voc", "imagenet", "sa-1b", "label-maps"})
"""Formats whose annotations state the sizes of images: their `read` takes `trust`, not to open the images for
them.
"""

Unit = Callable[[], ImageObjects | None]
"""Makes the row of one image, or None if the image is left out, which `skip` has then been told. Units may be
called in any order.
"""


@dataclass(frozen=True, slots=True)
class Source:
    """What a format's reader returns: units that come as they are asked for, and what the index says about
    their rows.
    """

    units: Iterator[Unit]
    root: Path
    provenance: str
    classes: list[str]

    @property
    def rows(self) -> Iterator[ImageObjects]:
        """The rows of the units that have not been taken yet, one after the other."""
        for unit in self.units:
            row = unit()
            if row is not None:
                yield row
