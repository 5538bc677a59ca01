"""Label maps stored as PNG, a class for every pixel, cut into objects. Two published layouts, told apart by
their folders:

- VOC: `JPEGImages/NAME.jpg`, `SegmentationClass/NAME.png` (0 background, 1..20 classes, 255 ignored),
  `ImageSets/Segmentation/SPLIT.txt` and, if instances are annotated too, `SegmentationObject/NAME.png` (0
  background, 255 ignored, any other value an instance).
- ADE20K (SceneParsing, ADEChallengeData2016): `images/training/NAME.jpg`, `annotations/training/NAME.png` (0
  other, 1..150 classes), the same below `validation`, and `objectInfo150.txt` with the names of the classes.

Without instance maps an object is a connected region: pixels of one class that touch, corners included. Two
chairs that touch are one object, and one that a pole cuts in two is two. Regions under `MIN_REGION` pixels
are what a labeller's brush left behind, in ADE20K several an image: they are no objects and no faults, so
they are counted with the crowds.

With instance maps every instance is an object of whatever size, and its class is the one that most of its
pixels have. The folder decides for the whole data set, so that "object" means one thing in an index: an image
without its instance map is skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from odis.errors import DataError
from odis.objects import rle
from odis.objects.clean import Crowd, Skip, SkippedObject, keep_usable, reason, usable_size
from odis.objects.images import quiet_pillow
from odis.objects.listing import list_files
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader
from odis.objects.sources.voc import CLASSES as VOC_CLASSES
from odis.objects.sources.voc_xml import leads_out
from odis.types import ImageObjects, Object, Skipped

MIN_REGION = 64
"""Fewest pixels of a connected region that is an object: 8 x 8, half a patch of a ViT/16 along each side."""


ADE_CLASSES = 150

IGNORED = 255
"""Value of pixels that VOC leaves out, between objects and where they are hard to tell."""

_ADE_SPLITS = {"train": "training", "training": "training", "val": "validation", "validation": "validation"}

_MAP_MODES = frozenset({"P", "L", "1", "I", "I;16"})

_TOUCHING = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, slots=True)
class _Entry:
    """The files of one image; `image` is its path below the root."""

    image: str
    classes: Path
    instances: Path | None


def read(root: Path, split: str | None, skip: Skip, *, trust: bool = False) -> AnnotationReader:
    """Every image of a split with its objects, by class and place (regions) or by their number (instances).

    Args:
        root: Folder that holds `SegmentationClass`, or `images` and `annotations`.
        split: VOC: the name of a list in `ImageSets/Segmentation`. ADE20K: `train` or `val`.
        skip: Called with every image and object that cannot be used; regions under `MIN_REGION` go to it as
            `Crowd`.
        trust: Take the sizes of the label maps, without opening the images.

    Raises:
        DataError: Neither layout; a split, folder or class list that is missing or cannot be read; no images.
    """
    if (root / "SegmentationClass").is_dir():
        return _read_voc(root, split, skip, trust)
    if (root / "annotations").is_dir() and (root / "images").is_dir():
        return _read_ade(root, split, skip, trust)
    raise DataError(
        f"{root}: holds no label maps in a known layout: VOC (JPEGImages, SegmentationClass, "
        f"ImageSets/Segmentation) "
        "or ADE20K (images/training, annotations/training, and validation)"
    )


FORMAT = AnnotationFormat(
    name="label-maps",
    title="Label maps (PNG) of VOC or ADE20K: masks",
    layout="SegmentationClass/ with JPEGImages/ and ImageSets/Segmentation/, or annotations/ with images/",
    splits="a list of VOC; train or val of ADE20K (required)",
    read=read,
    states_sizes=True,
)


def _read_voc(root: Path, split: str | None, skip: Skip, trust: bool) -> AnnotationReader:
    lists = root / "ImageSets" / "Segmentation"
    there = sorted(path.stem for path in lists.glob("*.txt"))
    if split is None or split not in there:
        wanted = f"no split {split!r}" if split else "a split must be named"
        found = ", ".join(there) or "none (no ImageSets/Segmentation/SPLIT.txt)"
        raise DataError(f"{root}: {wanted}; there are {found}")
    _folder(root / "JPEGImages", "VOC")
    chosen = lists / f"{split}.txt"
    lines = [(number, name) for number, line in enumerate(_lines(chosen), start=1) if (name := line.strip())]
    if not lines:
        raise DataError(f"{chosen}: lists no images")
    instances = (root / "SegmentationObject").is_dir()

    def entries() -> Iterator[_Entry]:
        listed: set[str] = set()
        for number, name in lines:
            if leads_out(name):
                skip(Skipped(f"{chosen}, line {number}", f"{name!r} is not a name below JPEGImages"))
            elif name in listed:
                skip(Skipped(f"{chosen}, line {number}", f"{name} was listed before"))
            else:
                listed.add(name)
                objects = root / "SegmentationObject" / f"{name}.png" if instances else None
                yield _Entry(f"JPEGImages/{name}.jpg", root / "SegmentationClass" / f"{name}.png", objects)

    classes = list(VOC_CLASSES)
    rows = _MapRows(root, classes, frozenset({0, IGNORED}), "0 to 20 and 255 (VOC)", skip, trust)
    return AnnotationReader((partial(rows.row, entry) for entry in entries()), root, "annotated", classes)


def _read_ade(root: Path, split: str | None, skip: Skip, trust: bool) -> AnnotationReader:
    if split is None or split not in _ADE_SPLITS:
        wanted = f"no split {split!r}" if split else "a split must be named"
        raise DataError(f"{root}: {wanted}; ADE20K's layout has train and val")
    part = _ADE_SPLITS[split]
    images, maps = _folder(root / "images" / part, "ADE20K"), _folder(root / "annotations" / part, "ADE20K")
    classes = ade_classes(root / "objectInfo150.txt")
    listing = list_files(images)
    found = listing.images
    if not found:
        raise DataError(f"{images}: holds no images")
    listing.report(skip)
    mapped = {_stem(name) for name in list_files(maps).images if name.endswith(".png")}
    found += [
        f"{stem}.jpg" for stem in mapped - {_stem(name) for name in found}
    ]  # their image is missing: it is named as such
    entries = (_Entry(f"images/{part}/{name}", maps / f"{_stem(name)}.png", None) for name in sorted(found))
    rows = _MapRows(root, classes, frozenset({0}), "0 to 150 (ADE20K)", skip, trust)
    return AnnotationReader((partial(rows.row, entry) for entry in entries), root, "annotated", classes)


@dataclass(frozen=True, slots=True)
class _MapRows:
    root: Path
    classes: list[str]
    ignored: frozenset[int]  # values that are no class
    values: str  # that maps may have, in words
    skip: Skip
    trust: bool

    def row(self, entry: _Entry) -> ImageObjects | None:
        """The row of an image, None if it is left out."""
        classes, skip = self.classes, self.skip
        allowed = np.zeros(256, dtype=bool)
        allowed[[*self.ignored, *range(1, len(classes) + 1)]] = True
        path, instances = entry.classes, None
        try:
            stored = read_map(path, allowed, self.values)
            if entry.instances is not None:
                path = entry.instances
                instances = read_map(path, np.ones(256, dtype=bool), "0 to 255")
                if instances.shape != stored.shape:
                    raise DataError(f"{path}: {_size(instances)}, but {entry.classes} {_size(stored)}")
        except DataError as error:
            skip(Skipped(str(path), reason(error, path)))
            return None
        found = np.where(stored <= len(classes), stored, 0)  # 0 where there is no class
        if instances is None:
            named = list(_regions(found, entry.classes, classes, skip))
        else:
            named = list(_instances(found, instances, str(entry.instances), skip))
        annotated, names = (found.shape[1], found.shape[0]), [name for name, _ in named]
        size = usable_size(
            self.root / entry.image, skip, annotated=annotated, objects=names, trust=self.trust
        )
        if size is None:
            return None
        return ImageObjects(
            entry.image, *size, keep_usable(named, size, len(classes), skip, masks_are_sound=True)
        )


def _regions(found: np.ndarray, path: Path, classes: list[str], skip: Skip) -> Iterator[tuple[str, Object]]:
    """The connected regions of each class, in reading order, behind what they are called."""
    from scipy import ndimage  # not for the help of a command

    canvas = np.zeros(found.shape, dtype=np.uint8, order="F")
    for value, place in enumerate(ndimage.find_objects(found), start=1):
        if place is None:
            continue
        numbered, _ = ndimage.label(found[place] == value, structure=_TOUCHING)
        areas = np.bincount(numbered.ravel())
        for k, inner in enumerate(ndimage.find_objects(numbered), start=1):
            name = f"{path}, {classes[value - 1]} {k}"
            if areas[k] < MIN_REGION:
                skip(Crowd(name, f"has {areas[k]} pixels, fewer than {MIN_REGION}"))
                continue
            down, across = (
                slice(outer.start + s.start, outer.start + s.stop) for outer, s in zip(place, inner)
            )
            yield name, _object(canvas, (down, across), numbered[inner] == k, value - 1)


def _instances(
    found: np.ndarray, instances: np.ndarray, path: str, skip: Skip
) -> Iterator[tuple[str, Object]]:
    """The instances, by their number, behind what they are called."""
    from scipy import ndimage

    canvas = np.zeros(found.shape, dtype=np.uint8, order="F")
    for value, place in enumerate(
        ndimage.find_objects(np.where(instances == IGNORED, 0, instances)), start=1
    ):
        if place is None:
            continue
        inside = instances[place] == value
        label = int(np.bincount(found[place][inside]).argmax()) - 1
        if label < 0:
            skip(
                SkippedObject(
                    f"{path}, instance {value}", "has no class: most of its pixels are background or ignored"
                )
            )
        else:
            yield f"{path}, instance {value}", _object(canvas, place, inside, label)


def _object(canvas: np.ndarray, place: tuple[slice, slice], inside: np.ndarray, label: int) -> Object:
    """The object of the pixels `inside` a place. The canvas, as large as the image and empty, is used and
    left as it was.
    """
    down, across = place
    canvas[place] = inside
    mask = rle.encode(canvas)
    canvas[place] = 0
    return Object((float(across.start), float(down.start), float(across.stop), float(down.stop)), mask, label)


def read_map(path: Path, allowed: np.ndarray, values: str) -> np.ndarray:
    """The values of a label map, int32 (height, width).

    Args:
        path: The PNG file.
        allowed: bool (256,), which values it may have.
        values: The same in words.

    Raises:
        DataError: Naming the file: it is missing, cannot be decoded, has colours or a value that is not
            allowed.
    """
    try:
        with quiet_pillow(), Image.open(path) as image:
            if image.mode not in _MAP_MODES:
                raise DataError(
                    f"{path}: has {image.mode} pixels; a label map has one value a pixel, as palette or grey"
                )
            # 1-bit pixels would become bool; as grey they are the 0 and 255 that the file means.
            stored = np.asarray(image.convert("L") if image.mode == "1" else image).astype(np.int32)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # decoders raise almost anything on bad bytes
        raise DataError(
            f"{path}: cannot be decoded ({(str(error) or type(error).__name__).splitlines()[0]})"
        ) from error
    refused = (stored < 0) | (stored >= len(allowed))
    refused |= ~allowed[np.where(refused, 0, stored)]
    if refused.any():
        raise DataError(f"{path}: has the value {stored[refused][0]}; its values may be {values}")
    return stored


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
        [field.strip() for field in line.split("\t")] for line in _lines(path) if line.strip()
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
            f"{path}: does not name class {missing[0]}; a line has {len(titles)} fields, with tabs "
            f"between: {', '.join(titles)}"
        )
    twice = [number for number, count in Counter(number for number, _ in named).items() if count > 1]
    if twice:
        raise DataError(f"{path}: names class {twice[0]} twice")
    return [names[str(number)] for number in numbers]


def _folder(path: Path, layout: str) -> Path:
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; {layout}'s layout has one")
    return path


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _size(values: np.ndarray) -> str:
    return f"is {values.shape[1]} x {values.shape[0]} pixels"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text") from error
