"""A file in COCO's form, read a window at a time, as the rows of its images.

What it says is kept on disk in blocks of images (`json_arrays.py`, `annotation_join.py`): memory does not
grow with it, but for some bytes an image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from odis.errors import DataError
from odis.objects.clean import Skip, SkippedObject, Unread
from odis.objects.sources.annotation_join import ANNOTATION, AnnotationJoin, are_integers
from odis.objects.sources.coco_annotation import to_corners
from odis.objects.sources.coco_categories import read_classes
from odis.objects.sources.coco_entries import (
    Annotations,
    name_of,
    read_annotations,
    read_images,
    short,
)
from odis.objects.sources.coco_layout import Layout, annotation_file, image_folders, named_path
from odis.objects.sources.coco_rows import InstanceRows
from odis.objects.sources.json_arrays import read_arrays
from odis.objects.sources.places import ImagePlaces
from odis.objects.sources.reader import AnnotationReader
from odis.objects.sources.text import class_order
from odis.types import Skipped

_LISTS = ("images", "annotations", "categories")

_SAMPLE = 200  # images by which the folder is found

_ODD = re.compile(r"\\|//|(^|/)\.{1,2}(/|$)")  # in names that may be spelled in several ways

KEYPOINTS = "objects with keypoints (their box and mask are read)"

ALL_CROWDS = (
    "files in which every annotation is a crowd (iscrowd 1): no object is left (if these are single objects, "
    "set iscrowd to 0)"
)


def read_layout(
    layout: Layout,
    root: Path,
    split: str | None,
    skip: Skip,
    *,
    trust: bool = False,
    images: str | None = None,
    annotations: str | None = None,
    named_by: str = "file_name",
    shorten: Callable[[str], str] | None = None,
    parts: tuple[str, ...] = (),
) -> AnnotationReader:
    """Every image of a split with its objects; an image without annotations has none.

    Args:
        layout: The published one of the format.
        root: Folder of the data set.
        split: As in the names of the annotation files; needed where there are several.
        skip: Called with every image and object that cannot be used or only in part, and every crowd.
        trust: Take the sizes that the file states, without opening the images.
        images: Folder of the images, instead of the one that the layout or the names say.
        annotations: File or folder of the annotations, likewise.
        named_by: The key of an image's entry that says what it is called.
        shorten: The part of that which says where an image is in its folder.
        parts: Names of folders that do not say which image is meant.

    Raises:
        DataError: There is no annotation file, it is not of COCO's form, or none of its images is there.
    """
    place = annotation_file(layout, root, split, annotations)
    path = place.path
    if images is None:
        base, folders = root, image_folders(layout, root, place)
        published = any(
            folder.format(place.split) in folders for folder in layout.folders if folder and place.split
        )
    else:
        base, published = named_path(root, images, "--images"), False
        folders = ["", *image_folders(layout, base, place)]
        if not base.is_dir():
            raise DataError(f"{base}: is no folder (--images {images})")
    advice = "" if published else f"odis index {layout.format} {root} --annotations {path} --images DIR"
    others: dict[str, str] = {}
    chunks = _complete(path, read_arrays(path, _LISTS, others), others)
    return read_entries(
        path,
        chunks,
        ImageSearch(base, folders, (place.split, *parts), shorten, advice),
        skip,
        named_by=named_by,
        trust=trust,
    )


@dataclass(frozen=True, slots=True)
class ImageSearch:
    """Where images are looked for by their names: see `ImagePlaces`.

    `advice` is the command that names another folder, for the error if none of the first images is there;
    without it that is no error, since each is named when its row is due.
    """

    base: Path
    folders: Sequence[str]
    parts: tuple[str, ...] = ()
    shorten: Callable[[str], str] | None = None
    advice: str = ""


def read_entries(
    path: Path,
    chunks: Iterable[tuple[str, list[Any]]],
    where: ImageSearch,
    skip: Skip,
    *,
    named_by: str = "file_name",
    noun: str = "annotation",
    trust: bool = False,
    by_name: bool = False,
) -> AnnotationReader:
    """Entries of COCO's form, from its own file or made of another tool's, as the rows of their images.

    Args:
        path: The file or folder that they are from, for messages.
        chunks: Parts of the lists `images`, `annotations` and `categories`, behind their names. All images
            come before the first annotation, or behind the last.
        where: Where the images are.
        skip: Called with every image and object that cannot be used or only in part, and every crowd.
        named_by: The key of an image's entry that says what it is called.
        noun: What an annotation is called in messages, in front of its id: `line`, `shape`. If it is not
            `annotation`, entries may have a `score`.
        trust: Take the sizes that the entries state, without opening the images.
        by_name: Put the classes in the order of their names, instead of their numbers'.

    Raises:
        DataError: None of the first images is there, and there is `advice`.
    """

    def orphan(record: np.void, more: tuple[Any, ...] | None, image: int | str) -> None:
        number = more[0] if more else int(record["number"])
        shown = image if isinstance(image, int) else short(image)
        skip(SkippedObject(f"{path}, {name_of(number, noun)}", f"its image {shown} is not listed"))

    joined = AnnotationJoin(path, orphan, _same)
    labels, classes = _load(path, chunks, named_by, joined, skip, noun)
    if by_name:
        ordered = sorted(classes, key=class_order)
        places_of = {name: k for k, name in enumerate(ordered)}
        labels = {number: places_of[classes[label]] for number, label in labels.items()}
        classes = ordered
    places = ImagePlaces(where.base, where.folders, where.parts, lambda: rows.names(), where.shorten)
    rows = InstanceRows(path, named_by, places, joined, labels, skip, trust, noun)
    sample = list(islice(rows.names(), _SAMPLE))
    rows.settled = places.settle(sample)
    if sample and rows.settled == "nowhere" and where.advice:
        looked = ", ".join(f"{folder}/" if folder else "the root" for folder in places.folders)
        raise DataError(
            f"{where.base}: none of the first images of {path} is there; {short(sample[0])} was looked for "
            f"in {looked}, and by its own name; say where they are: {where.advice}"
        )
    return AnnotationReader(rows.units(), where.base, "annotated", classes)


def _same(image: tuple[Any, ...]) -> str | None:
    """What the entries of one image have in common."""
    name: str | None = image[1]
    if name is None or ("/" not in name and "\\" not in name) or not _ODD.search(name):
        return name
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _complete(
    path: Path, chunks: Iterable[tuple[str, list[Any]]], others: dict[str, str]
) -> Iterator[tuple[str, list[Any]]]:
    """The chunks of a file of COCO's form, behind whose last all three lists must have come."""
    met = set()
    for name, entries in chunks:
        met.add(name)
        yield name, entries
    for name in _LISTS:
        if name in others:
            raise DataError(f"{path}: {name} is {others[name]}, must be a list of objects")
        if name not in met:
            none = f'; "{name}": [] says that there are none' if name == "categories" else ""
            raise DataError(
                f"{path}: has no list of {name}; a COCO instances file has images, annotations and categories"
                + none
            )


def _load(
    path: Path,
    chunks: Iterable[tuple[str, list[Any]]],
    named_by: str,
    joined: AnnotationJoin,
    skip: Skip,
    noun: str,
) -> tuple[dict[int | str, int], list[str]]:
    """Fill `joined` with images and annotations; the labels of the categories, and the classes."""
    counts: dict[str, int] = {}
    categories: list[Any] = []
    used: set[Any] = set()
    objects = keypoints = 0
    for name, entries in chunks:
        before = counts.get(name, 0)
        counts[name] = before + len(entries)
        if name == "images":
            images = read_images(
                entries, named_by, before, lambda what, why: skip(Skipped(f"{path}, {what}", why))
            )
            joined.add_images(images.ids, images.rows)
        elif name == "annotations":
            found = read_annotations(
                entries, before, lambda what, why: skip(SkippedObject(f"{path}, {what}", why))
            )
            used.update(found.categories)
            objects += len(found.crowds) - sum(found.crowds)
            keypoints += sum(1 for entry in found.entries if entry.get("keypoints"))
            joined.add_annotations(found.images, *_records(found, noun != "annotation"))
        else:
            categories += entries
    if counts.get("annotations") and not objects:
        skip(Unread(str(path), ALL_CROWDS))
    if keypoints:
        skip(Unread(str(path), KEYPOINTS, keypoints))
    joined.close()
    return read_classes(path, categories, used, skip)


def _records(found: Annotations, scored: bool) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
    """What is kept of annotations: records, and (number, category, bbox, segmentation) of those that do not
    fit into one; with a score behind them, if `scored`.
    """
    records = np.zeros(len(found.entries), ANNOTATION)
    bboxes, segmentations = ([entry.get(key) for entry in found.entries] for key in ("bbox", "segmentation"))
    for k, entry in enumerate(found.entries if not all(bboxes) else ()):
        if not bboxes[k] and not segmentations[k] and entry.get("keypoints"):
            segmentations[k] = {"keypoints": entry["keypoints"]}
    scores = [entry.get("score") for entry in found.entries] if scored else []
    records["crowd"] = found.crowds
    records["box"] = to_corners(bboxes)
    records["more"] = np.isnan(records["box"]).any(axis=1)
    if any(segmentations):
        records["more"] |= list(map(bool, segmentations))
    if any(score is not None for score in scores):
        records["more"] |= [score is not None for score in scores]
    for name, values in (("number", found.ids), ("category", found.categories)):
        numbers: list[Any] = list(values)
        if not are_integers(numbers):
            records["more"] |= [not are_integers([value]) for value in numbers]
            numbers = [value if are_integers([value]) else 0 for value in numbers]
        records[name] = numbers
    where = np.flatnonzero(records["more"]).tolist()
    more = [(found.ids[i], found.categories[i], bboxes[i], segmentations[i]) for i in where]
    return records, [(*one, scores[i]) for one, i in zip(more, where)] if scores else more
