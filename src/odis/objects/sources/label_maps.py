"""Label maps stored as PNG, a class for every pixel, cut into objects; in the layouts of VOC and ADE20K, and
as CVAT and labelme write them (`label_map_layout.py`).

Without instance maps an object is a connected region: pixels of one class that touch, corners included. Two
chairs that touch are one object, and one that a pole cuts in two is two. Regions under `MIN_REGION` pixels
are what a labeller's brush left behind, in ADE20K several an image: they are no objects and no faults, so
they are counted with the crowds.

With instance maps every instance is an object of whatever size, and its class is the one that most of its
pixels have. The folder decides for the whole data set, so that "object" means one thing in an index: an image
without its instance map is skipped.

**Names of classes** are those of the data set's own list, `labelmap.txt` or `class_names.txt` in its folder
or in that of the maps, and ADE20K's `objectInfo150.txt`. VOC's names are given only to maps that are shown to
be VOC's: no value of them is over 20, and either all images have VOC's names (2007_000032) or the palette is
VOC's and the XML files beside them name the classes that the values mean. Any other map has classes by
number. A value or colour that the list has not is an object without label.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects import rle
from odis.objects.clean import (
    Crowd,
    Mended,
    Skip,
    SkippedObject,
    Unread,
    keep_usable,
    reason,
    usable_size,
)
from odis.objects.sources.image_names import ImageNames
from odis.objects.sources.label_list import LabelList, find_list
from odis.objects.sources.label_map_files import (
    IGNORED,
    SUFFIXES,
    UNNAMED,
    class_codes,
    instance_numbers,
    values_of,
)
from odis.objects.sources.label_map_layout import MapLayout, find_maps
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, Unit
from odis.objects.sources.text import read_text
from odis.objects.sources.voc import CLASSES as VOC_CLASSES
from odis.objects.sources.voc_xml import items, parse
from odis.types import ImageObjects, Object, Skipped

MIN_REGION = 64
"""Fewest pixels of a connected region that is an object: 8 x 8, half a patch of a ViT/16 along each side."""

ADE_CLASSES = 150

_VOC_NAME = re.compile(r"20(07|08|09|10|11|12)_\d{6}", re.ASCII)

_LOOKED_AT = 20  # maps that show whether they are VOC's

_TOUCHING = np.ones((3, 3), dtype=bool)


def read(
    root: Path,
    split: str | None,
    skip: Skip,
    *,
    trust: bool = False,
    images: str | None = None,
    annotations: str | None = None,
) -> AnnotationReader:
    """Every image of a split with its objects, by class and place (regions) or by their number (instances).

    Args:
        root: Folder that holds `SegmentationClass`, or `images` and `annotations`.
        split: VOC: the name of a list in `ImageSets/Segmentation`. ADE20K: `train` or `val`. Needed where
            there are several.
        skip: Called with every image and object that cannot be used, or not as it is annotated; regions under
            `MIN_REGION` go to it as `Crowd`.
        trust: Take the sizes of the label maps, without opening the images.
        images: Folder of the images, if elsewhere.
        annotations: Folder of the label maps, if elsewhere.

    Raises:
        DataError: Neither layout; a split, folder or class list that is missing or cannot be read; no images.
    """
    layout = find_maps(root, split, images, annotations, skip)
    maps = ImageNames(layout.maps, SUFFIXES)
    named = find_list(root, layout.maps, layout.maps.parent)
    if named is not None:
        classes = named.names
    elif layout.of_ade:
        classes = ade_classes(root / "objectInfo150.txt")
    elif are_voc(root, [(name, layout.maps / _file(maps, name)) for name in layout.names]):
        classes = list(VOC_CLASSES)
    else:
        classes = [f"class {k}" for k in range(1, _highest(layout, maps) + 1)]
    if layout.instances is None and (named is None or not named.colours):
        _refuse_masks(layout, maps)
    rows = _MapRows(layout, maps, ImageNames(layout.images), classes, named, skip, trust)
    return AnnotationReader(rows.units(), layout.root, "annotated", classes)


FORMAT = AnnotationFormat(
    name="label-maps",
    title="Label maps (PNG) of VOC, ADE20K, CVAT or labelme: masks",
    layout="SegmentationClass/ with JPEGImages/ and ImageSets/Segmentation/, or annotations/ with images/",
    splits="a list of VOC; train or val of ADE20K (needed if there are several)",
    read=read,
    states_sizes=True,
    takes_places=True,
)


def are_voc(root: Path, maps: Sequence[tuple[str, Path]]) -> bool:
    """Whether maps without a list of classes are shown to be VOC's (see above).

    Args:
        root: Folder that holds `Annotations`, if there are any.
        maps: Name and path of each map.
    """
    by_name = all(_VOC_NAME.fullmatch(name) for name, _ in maps)
    agree = 0
    for name, file in maps[:_LOOKED_AT]:
        try:
            values, palette = values_of(file)
        except DataError:
            continue  # it is named when its row is due
        values -= {IGNORED}
        if values and max(values) > len(VOC_CLASSES):
            return False
        if by_name:
            continue
        path = root / "Annotations" / f"{name}.xml"
        if not palette or not os.path.isfile(path):
            return False
        try:
            stated = {item.name for item in items(parse(path), path)}
        except DataError:
            continue
        if not {VOC_CLASSES[value - 1] for value in values} <= stated:
            return False
        agree += bool(values)
    return by_name or agree > 0


def _highest(layout: MapLayout, maps: ImageNames) -> int:
    """The highest value of any map that is a class; all of them are read."""
    highest = 0
    for name in layout.names:
        try:
            values, _ = values_of(layout.maps / _file(maps, name))
        except DataError:
            continue
        highest = max(highest, *(values - {IGNORED}), 0)
    return highest


def _refuse_masks(layout: MapLayout, maps: ImageNames) -> None:
    """Refuse maps in which nothing but 0 and 255 is: they would be read as images without objects."""
    masks = 0
    for name in layout.names[:_LOOKED_AT]:
        try:
            values, _ = values_of(layout.maps / _file(maps, name))
        except DataError:
            continue
        if values - {IGNORED}:
            return
        masks += bool(values)
    if masks:
        raise DataError(
            f"{layout.maps}: its maps have the values 0 and 255 alone, and 255 is what VOC ignores; if it is "
            f"the object, a labelmap.txt says so with the lines background:0,0,0:: and NAME:255,255,255::"
        )


def _file(maps: ImageNames, name: str) -> str:
    """The map of a name, which need not exist."""
    return next(iter(maps.of(name)), f"{name}.png")


@dataclass(frozen=True, slots=True)
class _MapRows:
    layout: MapLayout
    maps: ImageNames
    images: ImageNames
    classes: list[str]
    named: LabelList | None
    skip: Skip
    trust: bool

    def units(self) -> Iterator[Unit]:
        """The units of all images, and images that no map is of."""
        self.images.report(self.skip, (".txt",))
        used: set[str] = set()
        taken = {image for name in self.layout.names for image in self.images.of(name)}
        for name in self.layout.names:
            alike = self.images.alike(name)
            found = self.images.of(name) or ([alike] if alike and alike not in taken else [])
            if found and found[0] in used:
                why = f"its image {found[0]} has another label map, which is read"
                self.skip(Skipped(str(self.layout.maps / _file(self.maps, name)), why))
                continue
            used.update(found)
            taken.update(found)
            for other in found[1:]:
                self.skip(Unread(str(self.images.folder / other), "images of a name that another has"))
            yield partial(self._row, name, found[0] if found else f"{name}.jpg")
        if self.layout.all_maps:
            for other in self.images.images:
                if other not in used and not self._is_map(other):
                    self.skip(Unread(str(self.images.folder / other), "images without a label map"))

    def _is_map(self, image: str) -> bool:
        """Whether a file below the folder of the images is a label map: the folders may be in each other."""
        path = self.images.folder / image
        folders = [self.layout.maps, *([self.layout.instances] if self.layout.instances else [])]
        return any(path.is_relative_to(folder) for folder in folders if folder != self.images.folder)

    def _row(self, name: str, image: str) -> ImageObjects | None:
        try:
            return self._of_map(name, image)
        except MemoryError:
            path = self.layout.maps / _file(self.maps, name)
            self.skip(Skipped(str(path), "does not fit into the memory that there is"))
            return None

    def _of_map(self, name: str, image: str) -> ImageObjects | None:
        classes, skip = self.classes, self.skip
        path = of_classes = self.layout.maps / _file(self.maps, name)
        instances = None
        try:
            found = class_codes(path, self.named, len(classes))
            if self.layout.instances is not None:
                path = self.layout.instances / f"{name}.png"
                instances = instance_numbers(path)
                if instances.shape != found.shape:
                    raise DataError(f"{path}: {_size(instances)}, but {of_classes} {_size(found)}")
        except DataError as error:
            skip(Skipped(str(path), reason(error, path)))
            return None
        told: list[Skipped] = []
        if instances is None:
            objects = list(_regions(found, of_classes, classes, told.append))
        else:
            objects = list(_instances(found, instances, str(path), told.append))
        size = usable_size(
            self.images.folder / image,
            skip,
            annotated=(found.shape[1], found.shape[0]),
            objects=[name for name, _ in objects],
            trust=self.trust,
        )
        for one in told:
            if size is not None or not isinstance(one, Mended):
                skip(one)
        if size is None:
            return None
        kept = keep_usable(objects, size, len(classes), skip, masks_are_sound=True)
        return ImageObjects(self.layout.image(image), *size, kept)


def _regions(found: np.ndarray, path: Path, classes: list[str], skip: Skip) -> Iterator[tuple[str, Object]]:
    """The connected regions of each class, in reading order, behind what they are called; last those of
    values that are no class, without label.
    """
    from scipy import ndimage  # not for the help of a command

    canvas = np.zeros(found.shape, dtype=np.uint8, order="F")
    for value, place in enumerate(ndimage.find_objects(found), start=1):
        if place is None:
            continue
        numbered, _ = ndimage.label(found[place] == value, structure=_TOUCHING)
        areas = np.bincount(numbered.ravel())
        for k, inner in enumerate(ndimage.find_objects(numbered), start=1):
            name = f"{path}, {_called(value, classes)} {k}"
            if areas[k] < MIN_REGION:
                skip(Crowd(name, f"has {areas[k]} pixels, fewer than {MIN_REGION}"))
                continue
            down, across = (
                slice(outer.start + s.start, outer.start + s.stop) for outer, s in zip(place, inner)
            )
            yield name, _object(canvas, (down, across), numbered[inner] == k, _label(value, name, skip))


def _instances(
    found: np.ndarray, instances: np.ndarray, path: str, skip: Skip
) -> Iterator[tuple[str, Object]]:
    """The instances, by their number, behind what they are called."""
    from scipy import ndimage

    canvas = np.zeros(found.shape, dtype=np.uint8, order="F")
    for value, place in enumerate(ndimage.find_objects(instances), start=1):
        if place is None:
            continue
        inside = instances[place] == value
        code, name = int(np.bincount(found[place][inside]).argmax()), f"{path}, instance {value}"
        if code == 0:
            skip(SkippedObject(name, "has no class: most of its pixels are background or ignored"))
        else:
            yield name, _object(canvas, place, inside, _label(code, name, skip))


def _label(code: int, name: str, skip: Skip) -> int | None:
    """The label of a class code; None, which is told, if it is of a value that is no class."""
    if code < UNNAMED:
        return code - 1
    skip(Mended(name, "has a value or colour that the list of classes has not: kept without label"))
    return None


def _called(code: int, classes: list[str]) -> str:
    return classes[code - 1] if code < UNNAMED else f"value {code - UNNAMED}"


def _object(canvas: np.ndarray, place: tuple[slice, slice], inside: np.ndarray, label: int | None) -> Object:
    """The object of the pixels `inside` a place. The canvas, as large as the image and empty, is used and
    left as it was.
    """
    down, across = place
    canvas[place] = inside
    mask = rle.encode(canvas)
    canvas[place] = 0
    return Object((float(across.start), float(down.start), float(across.stop), float(down.stop)), mask, label)


def ade_classes(path: Path) -> list[str]:
    """The names of ADE20K's classes, in the order of their values 1..150; numbers where there is no file.

    Args:
        path: `objectInfo150.txt`: a line of titles, among them Idx and Name, then a line a class, with tabs
            between.

    Raises:
        DataError: The file cannot be read, or does not name each class once.
    """
    numbers = range(1, ADE_CLASSES + 1)
    if not path.exists():
        return [f"class {number}" for number in numbers]
    titles, *lines = [
        [field.strip() for field in line.split("\t")] for line in _text_lines(path) if line.strip()
    ] or [[]]
    if "Idx" not in titles or "Name" not in titles:
        raise DataError(f"{path}: its first line must be titles with tabs between, among them Idx and Name")
    number_at, name_at = titles.index("Idx"), titles.index("Name")
    named = [
        (fields[number_at], fields[name_at])
        for fields in lines
        if len(fields) == len(titles) and fields[name_at]
    ]
    names = dict(named)
    missing = [number for number in numbers if str(number) not in names]
    if missing:
        raise DataError(
            f"{path}: does not name class {missing[0]}; a line has {counted(len(titles), 'field')}, with "
            f"tabs between: {', '.join(titles)}"
        )
    twice = [number for number, count in Counter(number for number, _ in named).items() if count > 1]
    if twice:
        raise DataError(f"{path}: names class {twice[0]} twice")
    return [names[str(number)] for number in numbers]


def _size(values: np.ndarray) -> str:
    return f"is {values.shape[1]} x {values.shape[0]} pixels"


def _text_lines(path: Path) -> list[str]:
    try:
        return read_text(path).text.split("\n")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
