"""ImageNet CLS-LOC as it is published (ILSVRC 2012, and Kaggle's copy of it), with its boxes: a wnid is a
class.

`Data/CLS-LOC/train/WNID/WNID_*.JPEG`, `Data/CLS-LOC/val/ILSVRC2012_val_*.JPEG`, both below ROOT or below
`ROOT/ILSVRC`; or `train` and `val` in ROOT itself. The images of `val` may also be in a folder for each
class, as many scripts sort them: its annotations are then in folders, too, or all in one. Boxes are in
`Annotations/CLS-LOC/train/WNID/*.xml` and `Annotations/CLS-LOC/val/*.xml`, and in Kaggle's
`ROOT/LOC_train_solution.csv` and `ROOT/LOC_val_solution.csv`; an image that has an XML file takes its boxes
from there, any other from the CSV. They are inclusive pixel coordinates counted from 0, in both: x0 = xmin,
x1 = xmax + 1.

**Whole image for images without boxes.** 544,546 of the 1,281,167 training images have boxes. Every other
image, and one none of whose boxes has a label, gets one object more: the whole image, labelled with its
class. Without it an index would have no place for that label. Such objects are kept objects in every count;
the index's provenance is `annotated`, or `whole-image` if there is no annotation at all.

The class of an image in a folder is that folder, that of any other the class of its first object. Class
names are the wnids, sorted, without the English names of `LOC_synset_mapping.txt`: indexes are matched by the
names of their classes.

Known faults of the published XML are allowed for. `filename` is not read (it is `%s` in some). A box of an
image in a folder whose class is no wnid (`Scottish_deerhound`) is of its folder's class. Boxes refer to the
size that the annotator saw, which is `size` in the XML: where the image has the same shape in another size,
they are scaled to it. The CSV states no size.

Folders are listed one at a time. The CSV stays on disk: 17 bytes a line (a hash, a position, a mark) are held
to find an image in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from odis.errors import DataError
from odis.objects.clean import Mended, Skip, SkippedObject, keep_usable, reason, usable_size
from odis.objects.images import header_sizes
from odis.objects.listing import IMAGE_SUFFIXES, list_files
from odis.objects.sources.imagenet_csv import SolutionTable
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, Unit, names_of_split
from odis.objects.sources.text import short
from odis.objects.sources.voc_xml import Item, items, parse, stated_size
from odis.types import ImageObjects, Object, Skipped

_WNID = re.compile(r"n\d{8}", re.ASCII)

_NO_CLASS = {
    "train": "ImageNet has a folder for each in it",
    "val": "no annotation of it names a wnid, n and eight digits",
}

_NO_IMAGE = "is annotated, but there is no such image"

_SAME_SHAPE = (
    0.01  # by how much the aspect ratio of the image that was annotated may differ: it was rounded to pixels
)


def read(root: Path, split: str | None, skip: Skip, *, trust: bool = False) -> AnnotationReader:
    """Every image of a split with its objects, in the order of its folders and names, whatever order the CSV
    has.

    Annotations of classes that have no folder in `train` are passed over, so that some classes of ImageNet
    can be read with the annotations of all. An annotation in a class that is there, but without its image, is
    reported.

    Args:
        root: Folder that holds `Data`, or Kaggle's that holds `ILSVRC` and the CSV files.
        split: `train` (if none is given) or `val`.
        skip: Called with every image and box that cannot be used, and every annotation whose image is
            missing.
        trust: Take the sizes that XML files state, without opening those images; boxes are then scaled to no
            other size.

    Raises:
        DataError: The split is missing, nothing names the classes of `val`, or a CSV is not Kaggle's.
    """
    wanted = names_of_split(split or "train")
    prefix = "ILSVRC/" if os.path.isdir(root / "ILSVRC" / "Data") else ""
    in_data = os.path.isdir(root / prefix / "Data" / "CLS-LOC")
    images = root / prefix / "Data" / "CLS-LOC" if in_data else root
    there = [name for name in ("train", "val") if os.path.isdir(images / name)]
    split = next((name for name in wanted if name in there), "")
    if not split:
        raise DataError(
            f"{images}: no split {short(wanted[0])}; there are {', '.join(there) or 'none of train, val'}; "
            f"odis index folder reads folders of classes under any name"
        )
    folder = f"{prefix}Data/CLS-LOC/{split}" if in_data else split
    xml = root / prefix / "Annotations" / "CLS-LOC" / split
    path = root / f"LOC_{split}_solution.csv"
    table = SolutionTable(path, skip) if os.path.isfile(path) else None
    folders = sorted(name for name, is_folder in _entries(images / split) if is_folder)
    if split == "train" or folders:
        classes = folders
    elif os.path.isdir(xml) or table:
        classes = sorted(_wnids(xml, table))
    else:
        raise DataError(
            f"{images / split}: nothing names the classes of its images; neither {xml} nor {path} is there"
        )
    if not classes:
        raise DataError(f"{images / split}: no class; {_NO_CLASS[split]}")
    labels = {wnid: k for k, wnid in enumerate(classes)}
    rows = _ImageNetRows(root, folder, xml, table, labels, bool(folders), skip, trust)
    provenance = "annotated" if os.path.isdir(xml) or table else "whole-image"
    return AnnotationReader(rows.units(), root, provenance, classes)


FORMAT = AnnotationFormat(
    name="imagenet",
    title="ImageNet CLS-LOC: boxes, else the whole image",
    layout="Data/CLS-LOC/SPLIT/ (or SPLIT/), Annotations/CLS-LOC/SPLIT/, or Kaggle's LOC_SPLIT_solution.csv",
    splits="train (default), val",
    read=read,
    states_sizes=True,
)


@dataclass(frozen=True, slots=True)
class _ImageNetRows:
    root: Path
    folder: str  # images of the split, below root
    xml: Path  # annotations of the split; need not exist
    table: SolutionTable | None
    labels: dict[str, int]  # wnid -> position among the classes
    in_folders: bool  # whether each class has a folder of images
    skip: Skip
    trust: bool

    def units(self) -> Iterator[Unit]:
        try:
            if self.in_folders:
                for name in _loose_images(self.root / self.folder):
                    self.skip(Skipped(str(self.root / self.folder / name), "is in no folder of a class"))
                together, seen = _annotations(self.xml), set[str]()
                for wnid, label in self.labels.items():
                    folder, xml = f"{self.folder}/{wnid}", self.xml / wnid
                    if os.path.isdir(xml) or not together:
                        yield from self._folder(folder, xml, label)
                    else:  # as they are published for val, whose images a script has sorted
                        yield from self._images(folder, self.xml, together, label, seen)
                self._annotated(self.folder, self.xml, together - seen, of_labels=True)
            else:
                yield from self._folder(self.folder, self.xml, None)
            if self.table:
                self._without_image(self.table)
        finally:
            if self.table:
                self.table.close()

    def _folder(self, folder: str, xml: Path, label: int | None) -> Iterator[Unit]:
        annotations, seen = _annotations(xml), set[str]()
        yield from self._images(folder, xml, annotations, label, seen)
        self._annotated(folder, xml, annotations - seen, of_labels=False)

    def _images(
        self, folder: str, xml: Path, annotations: set[str], label: int | None, seen: set[str]
    ) -> Iterator[Unit]:
        """The units of the images in a folder; their names are added to `seen`."""
        listing = list_files(self.root / folder)
        listing.report(self.skip)
        for name in listing.images:
            key = name.rpartition("/")[2].rpartition(".")[0]
            if key in seen:
                self.skip(
                    Skipped(str(self.root / folder / name), f"another image here is called {short(key)}")
                )
                continue
            seen.add(key)
            if self.table:
                self.table.use(key)
            yield partial(
                self._row, f"{folder}/{name}", key, xml / f"{key}.xml" if key in annotations else None, label
            )

    def _annotated(self, folder: str, xml: Path, keys: set[str], *, of_labels: bool) -> None:
        """Name annotations that have no image; with `of_labels`, those of no class that is there are passed
        over.
        """
        for key in sorted(keys):
            path = xml / f"{key}.xml"
            found = self._listed(key)
            if self.table:
                self.table.use(key)
            with suppress(DataError):  # that there is no image is what counts
                found = items(parse(path), path) or found
            if of_labels and not any(item.name in self.labels for item in found):
                continue
            self._leave_out(str(self.root / folder / f"{key}.JPEG"), _NO_IMAGE, found)

    def _row(self, image: str, key: str, xml: Path | None, own: int | None) -> ImageObjects | None:
        path = f"{self.root}{os.sep}{image}"
        found, stated = self._listed(key), None
        if xml is not None:
            try:
                annotation = parse(xml)
                found = items(annotation, xml) or found
                stated = stated_size(annotation)
            except DataError as error:
                self._leave_out(str(xml), reason(error, xml), found)
                return None
        labels = [self._label(item.name, own) for item in found]
        whole = own if own is not None else next((label for label in labels if label is not None), None)
        if whole is None:
            self._leave_out(path, "no annotation names its class", found)
            return None
        placed = self._size(path, stated, [item.what for item in found])
        if placed is None:
            return None
        (width, height), (sx, sy) = placed
        objects = []
        for item, label in zip(found, labels):
            if item.problem:
                self.skip(SkippedObject(item.what, item.problem))
                continue
            if label is None:
                self.skip(
                    Mended(
                        item.what,
                        f"has class {short(item.name)}, which is none of this split: kept without label",
                    )
                )
            xmin, ymin, xmax, ymax = item.box
            objects.append(
                (item.what, Object((xmin * sx, ymin * sy, (xmax + 1) * sx, (ymax + 1) * sy), label=label))
            )
        kept = keep_usable(objects, (width, height), len(self.labels), self.skip)
        if all(item.label is None for item in kept):  # which is so if there is none
            kept = (*kept, Object((0.0, 0.0, float(width), float(height)), label=whole))
        return ImageObjects(image, width, height, kept)

    def _listed(self, key: str) -> list[Item]:
        return self.table.find(key) if self.table else []

    def _label(self, name: str, own: int | None) -> int | None:
        """The class of an object; `own` is that of its image, if a folder says so."""
        return self.labels.get(name, None if _WNID.fullmatch(name) else own)

    def _size(
        self, path: str, stated: tuple[int, int] | None, objects: list[str]
    ) -> tuple[tuple[int, int], tuple[float, float]] | None:
        """`(width, height)` of an image, and by how much its boxes are to be scaled; None if it cannot be
        used.
        """
        held: list[Skipped] = []
        size = usable_size(path, held.append, annotated=stated, objects=objects, trust=self.trust)
        if size is not None:
            return size, (1.0, 1.0)
        try:
            sizes = header_sizes(path) if stated else []
        except DataError:
            sizes = []
        for width, height in sizes:
            if stated and abs(stated[0] * height - stated[1] * width) <= _SAME_SHAPE * stated[0] * height:
                return (width, height), (width / stated[0], height / stated[1])
        for skipped in held:
            self.skip(skipped)
        return None

    def _without_image(self, table: SolutionTable) -> None:
        for key, found in table.unused():
            if not self.in_folders:
                self._leave_out(str(self.root / self.folder / f"{key}.JPEG"), _NO_IMAGE, found)
                continue
            named = [key.rpartition("_")[0], *(item.name for item in found)]
            wnid = next((name for name in named if name in self.labels), None)
            if wnid is not None:
                self._leave_out(str(self.root / self.folder / wnid / f"{key}.JPEG"), _NO_IMAGE, found)

    def _leave_out(self, image: str, why: str, found: list[Item]) -> None:
        self.skip(Skipped(image, why))
        for item in found:
            self.skip(SkippedObject(item.what, "its image cannot be used"))


def _wnids(xml: Path, table: SolutionTable | None) -> set[str]:
    """Classes that the annotations of a split name. What cannot be read is passed over here: it is reported
    when its row is due.
    """
    found: set[str] = set()
    for key in _annotations(xml):
        path = xml / f"{key}.xml"
        try:
            found.update(item.name for item in items(parse(path), path))
        except DataError:
            continue
    for _, objects in table.lines() if table else ():
        found.update(item.name for item in objects)
    return {name for name in found if _WNID.fullmatch(name)}


def _annotations(folder: Path) -> set[str]:
    """Names of the XML files in a folder, without their ending; none if there is no folder."""
    return (
        {name[:-4] for name, is_folder in _entries(folder) if not is_folder and name.endswith(".xml")}
        if os.path.isdir(folder)
        else set()
    )


def _loose_images(folder: Path) -> list[str]:
    return sorted(
        name
        for name, is_folder in _entries(folder)
        if not is_folder and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
    )


def _entries(folder: Path) -> Iterator[tuple[str, bool]]:
    """Names in a folder and whether each is a folder, hidden ones left out."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                entry.name.encode()
                yield entry.name, entry.is_dir()
    except UnicodeEncodeError as error:  # the system hands undecodable bytes over as lone surrogates
        raise DataError(f"{folder}: the name {error.object!a} in it is not UTF-8; rename it") from error
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error
