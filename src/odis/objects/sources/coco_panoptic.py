"""COCO's panoptic segmentations: `annotations/panoptic_SPLIT.json`, a PNG for each image in a folder of the
JSON's name beside it, and the images of COCO.

A pixel of the PNG is the id of its segment, red + 256 green + 65536 blue; 0 is no segment. The JSON says what
category each id is. Every segment is an object, things and stuff alike: `odis index coco` reads the things
alone, and `odis index filter --classes` leaves some out. Crowds are left out and counted.

Boxes are those of the pixels. A PNG is decoded when its row is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from odis.errors import DataError
from odis.objects.clean import ANY_LABEL, Crowd, Mended, Skip, SkippedObject, Unread, keep_usable, usable_size
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.sources.annotation_join import ANNOTATION, BLOCK, AnnotationJoin
from odis.objects.sources.coco_categories import read_classes
from odis.objects.sources.coco_entries import identifier, read_images, short
from odis.objects.sources.coco_layout import Layout, annotation_file, image_folders, named_path
from odis.objects.sources.drawn import LARGEST_PATCH, painted
from odis.objects.sources.json_arrays import read_arrays
from odis.objects.sources.places import ImagePlaces, Settled
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, Unit
from odis.objects.sources.voc_xml import leads_out
from odis.types import ImageObjects, Object, Skipped

_LISTS = ("images", "annotations", "categories")

_SAMPLE = 200  # images by which the folder is found


def read(
    root: Path,
    split: str | None,
    skip: Skip,
    *,
    trust: bool = False,
    images: str | None = None,
    annotations: str | None = None,
) -> AnnotationReader:
    """Every image of a split that has a PNG, with its segments; an image without is left out.

    Args:
        root: Folder that holds `annotations` and the images.
        split: As in the name of the file, `train2017`; needed where there are several.
        skip: Called with every image and segment that cannot be used, and every crowd.
        trust: Take the sizes of the PNG files, without opening the images.
        images: Folder of the images, if elsewhere.
        annotations: The JSON file, if elsewhere; the PNG files are in a folder of its name beside it.

    Raises:
        DataError: The split is missing or not named, or its file is not of panoptic form, or there is no
            folder of PNG files.
    """
    layout = Layout("coco-panoptic", "panoptic_", ("{}", "images/{}"))
    place = annotation_file(layout, root, split, annotations)
    base = root if images is None else named_path(root, images, "--images")
    folders = image_folders(layout, base, place)
    if images is not None:
        folders = ["", *folders]
    joined = AnnotationJoin(place.path, lambda *orphan: None)
    content = _Panoptic(place.path, _folder(root, place.path), joined, skip, trust)
    classes = content.load()
    content.places = ImagePlaces(base, folders, (place.split,), content.names)
    content.settled = content.places.settle(list(islice(content.names(), _SAMPLE)))
    return AnnotationReader(content.units(), base, "annotated", classes)


FORMAT = AnnotationFormat(
    name="coco-panoptic",
    title="COCO panoptic: a mask for every thing and stuff",
    layout="annotations/panoptic_SPLIT.json, panoptic_SPLIT/*.png beside it, images in SPLIT/",
    splits="train2017, val2017 (needed if there are several)",
    read=read,
    states_sizes=True,
    takes_places=True,
)


def _folder(root: Path, path: Path) -> Path:
    """The folder of PNG files.

    Raises:
        DataError: There is none.
    """
    wanted = [path.with_suffix(""), root / path.stem, path.parent / "panoptic", root / "panoptic"]
    found = next((folder for folder in wanted if os.path.isdir(folder)), None)
    if found is None:
        raise DataError(
            f"{wanted[0]}: no such folder; it holds the PNG files of {path.name} (unpack {path.stem}.zip)"
        )
    return found


@dataclass(slots=True)
class _Panoptic:
    path: Path
    folder: Path  # of the PNG files
    joined: AnnotationJoin
    skip: Skip
    trust: bool
    labels: dict[int | str, int] = field(default_factory=dict)
    places: ImagePlaces = field(init=False)
    settled: Settled = "plain"
    _block: tuple[int, Any] = (-1, None)

    def load(self) -> list[str]:
        """Read the JSON file; the classes."""
        others: dict[str, str] = {}
        categories: list[Any] = []
        used: set[Any] = set()
        counts = dict.fromkeys(_LISTS, -1)
        for name, entries in read_arrays(self.path, _LISTS, others):
            before = max(counts[name], 0)
            counts[name] = before + len(entries)
            if name == "images":
                found = read_images(entries, "file_name", before, self._refuse)
                self.joined.add_images(found.ids, found.rows)
            elif name == "annotations":
                self._annotations(entries, before, used)
            else:
                categories += entries
        missing = next((name for name in _LISTS if counts[name] < 0), None)
        if missing is not None:
            raise DataError(
                f"{self.path}: has no list of {missing}; a panoptic file has images, annotations and "
                f"categories"
            )
        self.joined.close()
        self.labels, classes = read_classes(self.path, categories, used, self.skip)
        return classes

    def _refuse(self, what: str, why: str) -> None:
        self.skip(Skipped(f"{self.path}, {what}", why))

    def _annotations(self, entries: list[Any], before: int, used: set[Any]) -> None:
        images, more = [], []
        for k, entry in enumerate(entries, start=before):
            listed = entry.get("segments_info") if isinstance(entry, dict) else None
            image = identifier(entry.get("image_id")) if isinstance(entry, dict) else None
            name = entry.get("file_name") if isinstance(entry, dict) else None
            if not isinstance(listed, list) or image is None or not isinstance(name, str):
                if k == 0 and isinstance(entry, dict) and "segments_info" not in entry:
                    raise DataError(
                        f"{self.path}: its annotations have no segments_info, so it is not panoptic; "
                        f"odis index coco reads instances"
                    )
                self._refuse(
                    f"entry {k} of annotations",
                    f"is {short(entry)}, must be an object with image_id, file_name and segments_info",
                )
                continue
            segments = [_segment(one) for one in listed]
            used.update(category for _, category, _ in segments)
            images.append(image)
            more.append((name, segments))
        records = np.zeros(len(images), ANNOTATION)
        records["more"] = True
        self.joined.add_annotations(images, records, more)

    def names(self) -> Iterator[str]:
        """What the images are called."""
        for k in range(-(-len(self.joined) // BLOCK)):
            yield from (name for _, name, *_ in self.joined.images(k) if name is not None)

    def units(self) -> Iterator[Unit]:
        """The units of all images."""
        again = set(self.joined.repeated())
        for i in range(len(self.joined)):
            if i in again:
                number, name, *_ = self._of_block(i)[0]
                what = f"{self.path}, image {short(number)}"
                self.skip(Skipped(what, f"{name}: this image number was listed before"))
            else:
                yield partial(self._row, i)

    def _of_block(self, i: int) -> tuple[tuple[Any, ...], list[Any]]:
        """An image, and its annotations."""
        k, place = divmod(i, BLOCK)
        if self._block[0] != k:
            self._block = k, self.joined.block(k)
        images, records, more = self._block[1]
        start, stop = np.searchsorted(records["place"], [place, place + 1])
        return images[place], more[start:stop]

    def _row(self, i: int) -> ImageObjects | None:
        (number, name, *_), annotations = self._of_block(i)
        if not annotations:
            self.skip(Skipped(f"{self.path}, image {short(number)}", "has no annotation, so no PNG"))
            return None
        png, segments = annotations[0]
        for other, listed in annotations[1:]:
            self.skip(Unread(f"{self.path}, {short(other)}", "further annotations of an image", len(listed)))
        path = self.folder / png
        called = [f"{path}, segment {short(one)}" for one, _, _ in segments]
        try:
            if name is None:
                raise DataError("has no file_name")
            if leads_out(png):
                raise DataError(f"its PNG has file_name {short(png)}, which is no name of a file")
            ids = _ids(path)
            plain = self.places.plain(name) if self.trust and self.settled == "plain" else None
            place = plain or self.places.place(name)
        except DataError as error:
            self.skip(Skipped(f"{self.path}, image {short(number)}", str(error)))
            for one, (_, _, crowd) in zip(called, segments):
                self.skip(
                    Crowd(one, "is a crowd") if crowd else SkippedObject(one, "its image cannot be used")
                )
            return None
        size = usable_size(
            self.places.root / place,
            self.skip,
            annotated=(ids.shape[1], ids.shape[0]),
            objects=[one for one, (_, _, crowd) in zip(called, segments) if not crowd],
            trust=self.trust,
        )
        if size is None:
            return None
        kept = keep_usable(
            self._objects(path, ids, segments), size, ANY_LABEL, self.skip, masks_are_sound=True
        )
        return ImageObjects(place, *size, kept)

    def _objects(self, path: Path, ids: np.ndarray, segments: list[Any]) -> Iterator[tuple[str, Object]]:
        there, inverse = np.unique(ids, return_inverse=True)
        numbered = inverse.reshape(ids.shape).astype(np.int32) + 1
        from scipy import ndimage  # not for the help of a command

        places = ndimage.find_objects(numbered)
        position = {int(value): k for k, value in enumerate(there) if value}
        taken: set[int] = set()
        for number, category, crowd in segments:
            what = f"{path}, segment {short(number)}"
            k = position.get(number) if isinstance(number, int) else None
            if crowd:
                taken.add(-1 if k is None else k)
                self.skip(Crowd(what, "is a crowd"))
                continue
            if k is None or k in taken:
                why = "has no pixel" if k is None else "was listed before"
                self.skip(SkippedObject(what, why))
                continue
            taken.add(k)
            label = self.labels.get(category) if category is not None else None
            if label is None:
                self.skip(Mended(what, f"category {short(category)} is not listed; it has no label"))
            down, across = places[k]
            patch = numbered[down, across] == k + 1
            mask, box = painted(patch, across.start, down.start, (ids.shape[1], ids.shape[0]))
            yield what, Object(box, mask, label)
        for value, k in position.items():
            if k not in taken:
                self.skip(Unread(f"{path}, segment {value}", "segments that are not listed"))


def _segment(one: Any) -> tuple[int | str | None, int | str | None, bool]:
    """Id, category and whether it is a crowd."""
    if not isinstance(one, dict):
        return None, None, False
    return identifier(one.get("id")), identifier(one.get("category_id")), one.get("iscrowd") in (1, True, "1")


def _ids(path: Path) -> np.ndarray:
    """The segment of each pixel, int32 (height, width).

    Raises:
        DataError: The PNG is missing, or of another kind.
    """
    try:
        with quiet_pillow(), Image.open(path) as image:
            if image.format != "PNG" or image.mode not in ("RGB", "RGBA"):
                raise DataError(f"{path}: is {image.format} with {image.mode} pixels, must be a PNG with RGB")
            if image.width * image.height > LARGEST_PATCH:
                raise DataError(f"{path}: is of {image.width} x {image.height} pixels")
            pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # decoders raise almost anything on bad bytes
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: cannot be decoded ({why})") from error
    return np.asarray(pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2])
