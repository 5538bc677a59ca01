"""Where label maps are, and their images: VOC, ADE20K, and what CVAT and labelme write in VOC's layout.

- VOC, CVAT, labelme: `JPEGImages/NAME.jpg`, `SegmentationClass/NAME.png`, `ImageSets/Segmentation/SPLIT.txt`
  (without lists, all maps) and, if instances are annotated too, `SegmentationObject/NAME.png`.
- ADE20K: `images/training/NAME.jpg`, `annotations/training/NAME.png`, the same below `validation`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from odis.errors import DataError
from odis.objects.clean import Skip
from odis.objects.sources.image_names import ImageNames, stem
from odis.objects.sources.label_map_files import SUFFIXES
from odis.objects.sources.reader import SPLITS, names_of_split
from odis.objects.sources.text import short
from odis.objects.sources.voc_layout import list_folder, listed_names, split_lists, subfolders
from odis.objects.sources.voc_xml import leads_out

_CLASS_FOLDERS = ("SegmentationClass", "SegmentationClassPNG")

INSTANCE_FOLDERS = ("SegmentationObject", "SegmentationObjectPNG")

_IMAGE_FOLDERS = ("JPEGImages", "images", "Images")

_LAYOUTS = (
    "VOC (JPEGImages, SegmentationClass, ImageSets/Segmentation) or ADE20K (images/training, "
    "annotations/training, and validation)"
)


@dataclass(frozen=True, slots=True)
class MapLayout:
    """Where a split is. `names` are those of its maps, without ending, in order."""

    root: Path  # that rows are relative to
    images: Path
    maps: Path
    instances: Path | None
    names: list[str]
    all_maps: bool  # the names are those of all maps, not of a list
    of_ade: bool = False

    def image(self, name: str) -> str:
        """The path of an image below `images`, relative to the root."""
        inside = os.path.relpath(self.images, self.root).replace(os.sep, "/")
        return name if inside == "." else f"{inside}/{name}"


def find_maps(
    root: Path, split: str | None, images: str | None, annotations: str | None, skip: Skip
) -> MapLayout:
    """Find a split.

    Args:
        root: The data set's folder.
        split: A list of VOC, or a folder; None where there are none, or only one.
        images: Folder of the images, if named.
        annotations: Folder of the label maps, if named.
        skip: Called with every line of a list that names no image.

    Raises:
        DataError: No layout, or a split or folder that is missing or not named; no images.
    """
    pictures, named = _named(root, images, "images"), _named(root, annotations, "annotations")
    voc = next((root / name for name in _CLASS_FOLDERS if has_maps(root / name)), None)
    if named is None and voc is None and not os.path.isdir(root / "annotations"):
        raise DataError(
            f"{root}: holds no label maps in a known layout: {_LAYOUTS}; --images DIR --annotations DIR "
            f"name the folders of images and label maps"
        )
    folder = pictures or next((root / name for name in _IMAGE_FOLDERS if os.path.isdir(root / name)), None)
    if folder is None:
        raise DataError(f"{root / 'JPEGImages'}: no such folder; --images DIR names that of the images")
    inside = os.path.relpath(folder, root).split(os.sep, 1)[0]
    top = folder if inside == ".." else root
    lists = split_lists(root, "Segmentation")
    maps = named or voc or root / "annotations"
    instances = next((root / name for name in INSTANCE_FOLDERS if has_maps(root / name)), None)
    if maps.name not in _CLASS_FOLDERS:
        instances = None
    if maps.name in _CLASS_FOLDERS and lists and (split is None or split in lists):
        if split is None and len(lists) > 1:
            raise DataError(f"{root}: a split must be named; there are {', '.join(lists)}")
        chosen = list_folder(root, "Segmentation") / f"{split or lists[0]}.txt"
        return MapLayout(top, folder, maps, instances, listed_names(chosen, folder, skip), False)
    part = _part(root, split, maps, lists)
    own = folder / part if os.path.isdir(folder / part) else folder
    names = ImageNames(maps / part, SUFFIXES).images
    of_ade = voc is None and named is None
    found = {stem(name) for name in names}
    if of_ade:
        pictured = [stem(name) for name in ImageNames(own).images]
        if not pictured:
            raise DataError(f"{own}: holds no images")
        found.update(pictured)
    if not found:
        raise DataError(f"{maps / part}: holds no label maps (PNG)")
    below = instances / part if instances is not None and part else instances
    return MapLayout(top, own, maps / part, below, sorted(found), True, of_ade)


def _part(root: Path, split: str | None, maps: Path, lists: list[str]) -> str:
    """The folder of a split in those of the maps and images; empty if there are no splits."""
    there = [path.name for path in subfolders(maps)]
    known = [name for name in there if any(name.lower() in names for names in SPLITS.values())]
    if split is None:
        if len(known) > 1 and len(known) == len(there):
            raise DataError(f"{root}: a split must be named; there are {', '.join(known)}")
        return ""
    for name in (split, *names_of_split(split)):
        if not leads_out(name) and name in there:
            return name
    found = ", ".join(lists or known)
    if found:
        raise DataError(f"{root}: no split {short(split)}; there are {found}")
    raise DataError(
        f"{root}: no split {short(split)}: no ImageSets/Segmentation/{split}.txt, and no "
        f"{maps.name}/{split}/; without --split all of {maps} is read"
    )


def _named(root: Path, place: str | None, option: str) -> Path | None:
    if place is None:
        return None
    path = Path(os.path.normpath(root / place))
    if not os.path.isdir(path):
        what = "images" if option == "images" else "label maps"
        raise DataError(f"{path}: no such folder; --{option} names the folder of the {what}")
    return path


def has_maps(folder: Path) -> bool:
    """Whether a folder holds label maps, or folders that may."""
    return os.path.isdir(folder) and any(
        os.path.splitext(name)[1].lower() in SUFFIXES or os.path.isdir(folder / name)
        for name in os.listdir(folder)
    )
