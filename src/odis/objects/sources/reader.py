"""What a format of annotations is, and what reads a data set in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from odis.types import ImageObjects

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""The splits, and what they are also called: Roboflow's folder of `val` is `valid`."""


def names_of_split(split: str) -> tuple[str, ...]:
    """What a split may be called; the name itself, if it is none of `SPLITS`."""
    return next((names for names in SPLITS.values() if split.lower() in names), (split,))


Unit = Callable[[], ImageObjects | None]
"""Makes the row of one image; None if it is left out. Units may be called in any order."""


@dataclass(frozen=True, slots=True)
class AnnotationReader:
    """Reads one split of a data set.

    Listing the units costs the annotations that say which images there are. Calling one does the rest: it
    opens the image's header, checks the objects (`clean.py`) and encodes masks. So images can be shared out
    between processes, or passed over, without being opened.
    """

    units: Iterator[Unit]  # one for each image, in the order of the rows
    root: Path  # image paths in the rows are relative to it
    provenance: str  # `annotated`, `whole-image`, `detected:SAM`
    classes: list[str]

    @property
    def rows(self) -> Iterator[ImageObjects]:
        """The rows of the units that have not been taken yet, one after the other."""
        for unit in self.units:
            row = unit()
            if row is not None:
                yield row


@dataclass(frozen=True, slots=True)
class AnnotationFormat:
    """A published layout of annotations: how the command line names and describes it, and what reads it.

    `read(root, split, skip) -> AnnotationReader`; it calls `skip` with whatever is left out, as it is met.
    With `states_sizes` it also takes `trust`: take the image sizes in the annotations, and open no image.
    With `takes_places` it also takes `images` and `annotations`: a folder and a file or folder to use instead
    of those the layout names, each a path that begins at the root or an absolute one. With `takes_file` the
    command takes the file of annotations in place of its folder, too. With `has_masks` it takes `masks`: read
    the masks that lie beside the boxes.
    """

    name: str
    title: str
    layout: str  # what is in the root
    splits: str  # what `split` may be
    read: Callable[..., AnnotationReader]
    states_sizes: bool = False
    takes_places: bool = False
    takes_file: bool = False
    has_masks: bool = False
