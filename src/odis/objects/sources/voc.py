"""Pascal VOC's XML, one file an image (`voc_xml.py`): as it was published, and as Roboflow, CVAT and labelImg
write it (`voc_layout.py`).

An annotation is of the image that has its name, whatever the ending. Only where there is none it is of the
one that its `filename` names, unless that has an annotation of its own.

Boxes are inclusive pixel coordinates counted from 1, whole or not: x0 = xmin - 1, x1 = xmax. Objects marked
`difficult` or `truncated` are kept as any other; body parts (`part`) are not objects. Masks
(`SegmentationObject`) are read if they are asked for: only some images have them (`voc_masks.py`).

Labels are positions in the data set's `labelmap.txt` or `class_names.txt`, if it has one; in VOC's twenty
classes, if a list in `ImageSets` names the images and they have no other class; else in the split's own
names, sorted. Which it is takes a first pass over the annotations that keeps nothing but the names of
classes, and of the images that are not named like their annotation. Besides them, the names of the split's
images are held; an annotation is read again when its row is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from odis.errors import DataError
from odis.objects.clean import (
    Mended,
    Skip,
    SkippedObject,
    Unread,
    keep_usable,
    reason,
    usable_size,
)
from odis.objects.images import header_sizes
from odis.objects.sources.frames import frame_of, in_doubt
from odis.objects.sources.image_names import ImageNames, stem
from odis.objects.sources.label_list import find_list_file, read_list
from odis.objects.sources.label_map_layout import INSTANCE_FOLDERS, has_maps
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, Unit
from odis.objects.sources.text import short
from odis.objects.sources.voc_layout import VocLayout, find_layout, xml_below
from odis.objects.sources.voc_masks import masks_of
from odis.objects.sources.voc_xml import Item, filename, items, leads_out, parse, stated_size
from odis.types import Box, ImageObjects, Object, Skipped

CLASSES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
"""The classes of VOC 2007 to 2012, in their published order."""


def read(
    root: Path,
    split: str | None,
    skip: Skip,
    *,
    trust: bool = False,
    images: str | None = None,
    annotations: str | None = None,
    masks: bool = False,
) -> AnnotationReader:
    """Every image that the split lists, in its order, or every image with an annotation, by name; an image
    without objects has none.

    Args:
        root: Folder that holds `Annotations`, `JPEGImages` and `ImageSets`; or XML files beside images.
        split: `train`, `val`, `trainval`, `test`, or another list in `ImageSets/Main`, or the name of a
            folder; needed where there are several. The lists of one class (`cat_train`), which have a second
            column, are no splits.
        skip: Called with every image and object that cannot be used, or not as it is annotated.
        trust: Take the sizes that the annotations state, without opening the images.
        images: Folder of the images, if elsewhere.
        annotations: Folder of the XML files, if elsewhere.
        masks: Give objects the masks of `SegmentationObject`, where there are any.

    Raises:
        DataError: The split is not named, missing or empty, or there are no XML files; or masks are asked
            for, and there is no folder of them.
    """
    layout = find_layout(root, split, images, annotations, skip)
    maps = next((root / name for name in INSTANCE_FOLDERS if has_maps(root / name)), None) if masks else None
    if masks and maps is None:
        raise DataError(
            f"{root / INSTANCE_FOLDERS[0]}: no instance maps (PNG) here, and --masks asks for them"
        )
    rows = _VocRows(layout, ImageNames(layout.images), skip, trust, maps)
    found = rows.first_pass()
    classes = _classes(root, layout, found)
    rows.labels.update({name: k for k, name in enumerate(classes)})
    return AnnotationReader(rows.units(), layout.root, "annotated", classes)


FORMAT = AnnotationFormat(
    name="voc",
    title="Pascal VOC XML (also of Roboflow, CVAT, labelImg): boxes, and masks if asked for",
    layout="Annotations/*.xml, JPEGImages/*, ImageSets/Main/SPLIT.txt; or XML files beside images",
    splits="train, val, trainval, test (needed if there are several)",
    read=read,
    states_sizes=True,
    takes_places=True,
    has_masks=True,
)


def _classes(root: Path, layout: VocLayout, found: set[str]) -> list[str]:
    """The classes, of which `found` are named by annotations."""
    path = find_list_file(root)
    listed = read_list(path).names if path is not None else []
    if listed:
        return [*listed, *sorted(found - set(listed))]
    return list(CLASSES) if layout.listed is not None and found <= set(CLASSES) else sorted(found)


@dataclass(frozen=True, slots=True)
class _VocRows:
    layout: VocLayout
    images: ImageNames
    skip: Skip
    trust: bool
    maps: Path | None = None  # folder of the instance maps, if masks are asked for
    labels: dict[str, int] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)  # images that `filename` names, by annotation

    def path(self, name: str) -> Path:
        """The annotation of a name."""
        path = self.layout.annotations / f"{name}.xml"
        upper = self.layout.annotations / f"{name}.XML"
        return upper if not os.path.isfile(path) and os.path.isfile(upper) else path

    def first_pass(self) -> set[str]:
        """Classes that the annotations name; fills `elsewhere`. What cannot be read is passed over here: it
        is reported when its row is due.
        """
        found: set[str] = set()
        claimed = {image for name in self.layout.names for image in self.images.of(name)}
        own: set[str] | None = None  # file names of all annotations, without ending
        for name in self.layout.names:
            path = self.path(name)
            try:
                annotation = parse(path)
            except DataError:
                continue
            found.update(item.name for item in items(annotation, path) if item.name and not item.problem)
            if self.images.of(name):
                continue
            if own is None:
                own = {one.rpartition("/")[2] for one in xml_below(self.layout.annotations)}
            image = self._named(name, filename(annotation))
            if image is None or image in claimed:
                continue
            of = stem(image).rpartition("/")[2]
            if of == name.rpartition("/")[2] or of not in own:
                claimed.add(image)
                self.elsewhere[name] = image
        return found

    def _named(self, name: str, written: str) -> str | None:
        """The only image of this name in another folder, or else the one that `filename` names."""
        alike, text = self.images.alike(name), written.replace("\\", "/")
        if alike is None:
            for one in (text, text.rpartition("/")[2]):
                if one and not leads_out(one) and (found := self.images.called(one)) is not None:
                    return found
        return alike

    def units(self) -> Iterator[Unit]:
        """The units of all images, and images that no annotation is of."""
        self.images.report(self.skip, (".xml", ".txt"))
        used: set[str] = set()
        seen: set[str] = set()  # annotations
        for name in self.layout.names:
            found = self.images.of(name)
            image = found[0] if found else self.elsewhere.get(name)
            if name in seen or (image is not None and image in used):
                self._taken(name, str(image))
                continue
            seen.add(name)
            used.update(found)
            used.update([image] if image else [])
            yield partial(self._row, name, image, found)
        if self.layout.listed is None:
            for other in self.images.images:
                if other not in used:
                    self.skip(Unread(str(self.images.folder / other), "images without an XML file"))

    def _taken(self, name: str, image: str) -> None:
        """Name an annotation whose image another one has."""
        path = self.path(name)
        self.skip(Skipped(str(path), f"its image {image} has another XML file, which is read"))
        with suppress(DataError):
            for item in items(parse(path), path):
                self.skip(SkippedObject(item.what, "its image has another XML file"))

    def _row(self, name: str, image: str | None, found: list[str]) -> ImageObjects | None:
        path, skip = self.path(name), self.skip
        try:
            annotation = parse(path)
        except DataError as error:
            skip(Skipped(str(path), reason(error, path)))
            return None
        named = items(annotation, path)
        written = filename(annotation)
        if len(found) > 1:
            same = [one for one in found if one.rpartition("/")[2] == written]
            image = same[0] if same else image
            for other in found:
                if other != image:
                    skip(Unread(str(self.images.folder / other), "images of a name that another has"))
        if image is None:
            self._without_image(path, name, written, named)
            return None
        boxes = [_box(item) for item in named]
        size = self._size(self.images.folder / image, stated_size(annotation), boxes, named)
        if size is None:
            return None
        objects = []
        masks = self._masks(name, boxes, size)
        for item, box, mask in zip(named, boxes, masks):
            if item.problem:
                skip(SkippedObject(item.what, item.problem))
                continue
            label = self.labels.get(item.name)
            if label is None:  # a name can be new only if the file changed after the first pass
                why = (
                    f"has the class {short(item.name)}, which was not there before" if item.name else _NO_NAME
                )
                skip(Mended(item.what, f"{why}: kept without label"))
            objects.append((item.what, Object(box, mask, label)))
        kept = keep_usable(objects, size, len(self.labels), skip, masks_are_sound=True)
        return ImageObjects(f"{self.layout.folder}{image}", *size, kept)

    def _masks(self, name: str, boxes: list[Box], size: tuple[int, int]) -> list[bytes | None]:
        """The mask of each object, if masks are asked for and there are any."""
        if self.maps is None:
            return [None] * len(boxes)
        return masks_of(self.maps / f"{name}.png", boxes, size, self.skip)

    def _without_image(self, path: Path, name: str, written: str, named: list[Item]) -> None:
        folder = self.images.folder
        if leads_out(written) and written:
            skipped = Skipped(
                str(path), f"<filename> is {short(written)}, which is not the name of an image in {folder}"
            )
        else:
            other = self._named(name, written)
            taken = f"; {other}, which <filename> names, has another XML file" if other else ""
            skipped = Skipped(str(folder / f"{name}.jpg"), f"no such file, nor one of another ending{taken}")
        self.skip(skipped)
        for item in named:
            self.skip(SkippedObject(item.what, "its image cannot be used"))

    def _size(
        self, path: Path, stated: tuple[int, int] | None, boxes: list[Box], named: list[Item]
    ) -> tuple[int, int] | None:
        """`(width, height)` that the boxes are for; None if the image cannot be used."""
        called = [item.what for item in named]
        held: list[Skipped] = []
        if not in_doubt(stated, boxes):
            size = usable_size(
                path,
                held.append,
                annotated=stated,
                objects=called,
                trust=self.trust,
                boxes=lambda: boxes,
            )
            if size is not None:
                _pass_on(held, self.skip)
                return size
        try:
            found, odd = frame_of(stated, header_sizes(path), boxes)
        except DataError:
            found, odd = None, ""  # it is said why below
        if odd:
            self.skip(Mended(str(path), odd))
        return usable_size(path, self.skip, annotated=found or stated, objects=called)


def _pass_on(held: list[Skipped], skip: Skip) -> None:
    for skipped in held:
        skip(skipped)


_NO_NAME = "has no <name> that can be read"


def _box(item: Item) -> Box:
    xmin, ymin, xmax, ymax = item.box
    return xmin - 1, ymin - 1, xmax, ymax
