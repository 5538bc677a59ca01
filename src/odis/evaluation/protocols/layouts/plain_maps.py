"""Label maps of one's own, and of smaller data sets such as CamVid: where they lie, and their classes.

Images and maps of a split lie in `SPLIT` and `SPLITannot` (CamVid), `images/SPLIT` and `labels/SPLIT`,
`SPLIT/images` and `SPLIT/labels`, or all in `images` and `labels`, with a list `SPLIT.txt` or without. For
`labels` the folder may be called `masks`, `annotations` or `gt`. A map has its image's name, or that and an
ending such as `_mask`.

Classes are those of `class_names.txt` (a name a line, from value 0), of `labelmap.txt` (`name:r,g,b::` a
line, as CVAT writes it; maps may hold the colours), of CamVid, or else the values that occur.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from odis.errors import DataError
from odis.evaluation.class_list import ClassNames, read_class_list
from odis.evaluation.label_layouts import numbered, values_of_maps
from odis.evaluation.label_maps import LabelledImages

CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    "unlabelled",
)  # fmt: skip
"""CamVid's eleven classes, as SegNet's authors released them; the last is no class."""

_LABEL_FOLDERS = ("labels", "masks", "annotations", "gt")
_IMAGES, _MAPS = (
    (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"),
    (".png", ".bmp", ".tif", ".tiff"),
)
_ENDINGS = ("", "_mask", "_label", "_labels", "_gt", "_L", "_labelIds")


@dataclass(frozen=True, slots=True)
class MapFolders:
    """Where the images and maps of a split are.

    Args:
        images: Folder of the images.
        maps: Folder of their maps.
        listed: A list of the images that take part; None for all.
    """

    images: Path
    maps: Path
    listed: Path | None = None


def find_maps(root: Path, split: str, *, whole: bool) -> MapFolders | None:
    """Images and maps of a split below a folder; None if there are none.

    Args:
        root: The folder.
        split: Name of the split.
        whole: Take a data set without splits as a whole.
    """
    pairs = [(split, f"{split}{ending}") for ending in ("annot", "_annot", "_labels", "_masks")]
    pairs += [(f"images/{split}", f"{name}/{split}") for name in _LABEL_FOLDERS]
    pairs += [(f"{split}/images", f"{split}/{name}") for name in _LABEL_FOLDERS]
    for images, maps in pairs:
        if (root / images).is_dir() and (root / maps).is_dir():
            return MapFolders(root / images, root / maps)
    flat = [("images", name) for name in _LABEL_FOLDERS]
    flat += [("JPEGImages", name) for name in ("SegmentationClassPNG", "SegmentationClass")]
    for images, maps in flat:
        if (root / images).is_dir() and (root / maps).is_dir():
            listed = next(
                (f for f in (root / f"{split}.txt", root / "splits" / f"{split}.txt") if f.is_file()), None
            )
            if listed is not None or whole:
                return MapFolders(root / images, root / maps, listed)
    return None


def open_plain(
    root: Path, folders: MapFolders, ignore: Sequence[int], names: Sequence[str] = ()
) -> LabelledImages:
    """The images of two folders that belong together, and their classes.

    Args:
        root: Where a list of classes may be.
        folders: See `find_maps`.
        ignore: Values that are no class, besides 255.
        names: Of the images that take part; by default all.

    Raises:
        DataError: No images, or no map that can be read.
    """
    images = {
        os.path.splitext(name)[0]: name
        for name in sorted(os.listdir(folders.images))
        if name.lower().endswith(_IMAGES) and not name.startswith(".")
    }
    chosen = list(names) if names else list(images)
    if not chosen:
        raise DataError(f"{folders.images}: holds no images")
    maps = {name: True for name in os.listdir(folders.maps) if name.lower().endswith(_MAPS)}
    files = [
        (str(folders.images / images.get(name, f"{name}.jpg")), str(folders.maps / _map_of(name, maps)))
        for name in chosen
    ]
    found = read_class_list(root, folders.maps, folders.maps.parent)
    if found is not None:
        return found.open(root, files, ignore)
    values = values_of_maps(root, files)
    if "camvid" in str(root.absolute()).lower() and max(values) < len(CAMVID):
        return ClassNames(list(CAMVID), []).open(root, files, ignore)
    return numbered(root, files, max(values), ignore)


def _map_of(name: str, maps: dict[str, bool]) -> str:
    return next((f"{name}{e}{m}" for e in _ENDINGS for m in _MAPS if f"{name}{e}{m}" in maps), f"{name}.png")
