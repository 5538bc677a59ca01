"""CVAT's own XML, "CVAT for images 1.1" and "CVAT for video 1.1", of a task, a job or a project.

`annotations.xml` beside `images/`, as the archive is unpacked; a project's images are in `images/SUBSET/`.

Boxes, polygons, ellipses, painted masks (`rle`) and turned boxes become objects; a cuboid is the box around
its corners, a skeleton that around its visible points. Lines and points are no objects, and tags are labels
of a whole image: they are counted. Shapes of one label and `group_id` are one object (`drawn.py`).

In a file for video a track has a shape in every frame; one that is `outside` is not in the picture. Its
frames are numbers, and the archive calls them `frame_000012.PNG`. A task of single images that was exported
for video names none of them, and is refused.

Classes are the labels that the file lists, in its order, and then those of shapes that it does not list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.clean import Skip, SkippedObject, Unread
from odis.objects.sources.coco_entries import number, short, stated_size
from odis.objects.sources.coco_instances import ImageSearch, read_entries
from odis.objects.sources.coco_layout import folder_within, named_path
from odis.objects.sources.cvat_xml import CvatFile, CvatItem, CvatShape
from odis.objects.sources.drawn import (
    LARGEST_PATCH,
    NO_REGION,
    DrawnShape,
    box_of_points,
    ellipse,
    entries,
    painted,
    turn,
)
from odis.objects.sources.image_names import ImageNames, stem
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, names_of_split
from odis.objects.sources.voc_layout import subfolders

TAGS = "tags, which are labels of whole images"

_FRAME = re.compile(r"(?:.*/)?frame_(\d{6,9})", re.ASCII)

_CUBOID = [f"{axis}{corner}{k}" for k in (1, 2) for corner in ("tl", "bl", "tr", "br") for axis in "xy"]

_CHUNK = 4096  # objects that are handed on together


def read(
    root: Path,
    split: str | None,
    skip: Skip,
    *,
    trust: bool = False,
    images: str | None = None,
    annotations: str | None = None,
) -> AnnotationReader:
    """Every image of the file in its order, or every frame of the video; one without shapes has no object.

    The file is read once, at the beginning; what it says is kept on disk.

    Args:
        root: Folder that holds `annotations.xml` and `images`.
        split: A project's subset, or the folder or name of one of several files; needed where there are
            several.
        skip: Called with every image and shape that cannot be used.
        trust: Take the sizes that the file states, without opening the images.
        images: Folder of the images, if elsewhere.
        annotations: The XML file, or its folder, if elsewhere.

    Raises:
        DataError: There is no file of CVAT, or it cannot be read, or several splits and none is named; the
            frames of a video are not there, or are not called by their numbers.
    """
    path, subset = _find(root, split, annotations)
    base = root if images is None else named_path(root, images, "--images")
    if not base.is_dir():
        raise DataError(f"{base}: is no folder (--images {images})")
    near = folder_within(path, base)
    parts = tuple(dict.fromkeys((subset, *names_of_split(subset)))) if subset else ()
    wanted = [f"{near}/images/{part}" for part in parts]
    wanted += [f"{near}/images", near, "images", "."]
    folders = [folder.removeprefix("./") for folder in wanted if (base / folder).is_dir()]
    folders = ["" if folder == "." else folder for folder in folders]
    content = _Content(CvatFile(path), subset, ImageNames(base / (folders[0] if folders else "")), skip)
    advice = "" if images is not None else f"odis index cvat {root} --annotations {path} --images DIR"
    where = ImageSearch(base, folders, parts, advice=advice)
    return read_entries(path, content.chunks(), where, skip, noun="shape", trust=trust)


FORMAT = AnnotationFormat(
    name="cvat",
    title="CVAT's own XML, for images and for video: boxes, polygons, masks, tracks",
    layout="annotations.xml and images/",
    splits="a subset of a project, or one of several files (needed if there are several)",
    read=read,
    states_sizes=True,
    takes_places=True,
)


def _find(root: Path, split: str | None, annotations: str | None) -> tuple[Path, str | None]:
    """The file, and the subset of it that is asked for."""
    folder = root
    if annotations is not None:
        named = named_path(root, annotations, "--annotations")
        if not named.is_dir():
            return named, split
        folder = named
    if (folder / "annotations.xml").is_file():
        return folder / "annotations.xml", split
    found = [path for one in (folder, *subfolders(folder)) for path in _of_cvat(one)]
    if len(found) == 1:
        return found[0], None if split in _names(found[0]) else split
    chosen = [path for path in found if split in _names(path)]
    if len(chosen) == 1:
        return chosen[0], None
    if found:
        there = ", ".join(str(path.relative_to(folder)) for path in found)
        raise DataError(f"{folder}: several files of CVAT: {there}; name one with --annotations")
    raise DataError(
        f"{folder}: no annotations.xml of CVAT here or in a folder of it; name it: --annotations FILE"
    )


def _names(path: Path) -> tuple[str, ...]:
    return path.name, path.stem, path.parent.name


def _of_cvat(folder: Path) -> list[Path]:
    """The XML files in a folder that begin like CVAT's."""
    found = []
    for path in sorted(folder.glob("*.[xX][mM][lL]")):
        try:
            with path.open("rb") as file:
                head = file.read(4096)
        except OSError:
            continue
        if b"<annotations" in head.replace(b"\0", b""):
            found.append(path)
    return found


@dataclass(slots=True)
class _Content:
    """A file as entries of COCO's form."""

    file: CvatFile
    subset: str | None
    pictures: ImageNames
    skip: Skip
    labels: dict[str, int] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)
    subsets: dict[str, None] = field(default_factory=dict)
    frames: dict[int, list[DrawnShape]] = field(default_factory=dict)

    def chunks(self) -> Iterator[tuple[str, list[Any]]]:
        """Annotations, then images, then the categories."""
        held: list[dict[str, Any]] = []
        tracks = 0
        for k, item in enumerate(self.file.items(), start=1):
            if k == 1:  # behind the head: classes are in its order
                for name in self.file.meta.labels:
                    self._label(name)
            if not self._is_asked_for(item):
                continue
            if item.tag == "track":
                tracks += 1
                self._track(item, k)
                continue
            size = stated_size(item.values.get("width"), item.values.get("height"))
            name = item.values.get("name", "")
            called = f"{self.file.path}, image {short(name)}"
            held += self._image(name, size, list(self._shapes(item.shapes, called, size)))
            if len(held) >= _CHUNK:
                yield "annotations", held
                held = []
        self._check_subsets()
        if tracks or not self.images:
            for name, shapes in self._named_frames(tracks):
                held += self._image(name, self._frame_size(), shapes)
        yield "annotations", held
        yield "images", self.images
        yield "categories", [{"id": number, "name": name} for name, number in self.labels.items()]

    def _is_asked_for(self, item: CvatItem) -> bool:
        subset = item.values.get("subset")
        if subset is None:
            return True
        self.subsets[subset] = None
        return self.subset is None or subset in (self.subset, *names_of_split(self.subset))

    def _check_subsets(self) -> None:
        there = ", ".join(self.subsets)
        if self.subset is None:
            if len(self.subsets) > 1:
                raise DataError(f"{self.file.path}: a split must be named; there are {there}")
        elif self.subsets and not {self.subset, *names_of_split(self.subset)} & self.subsets.keys():
            raise DataError(f"{self.file.path}: no split {self.subset!r}; there are {there}")
        elif not self.subsets:
            raise DataError(f"{self.file.path}: has no subsets, so no split {self.subset!r}")

    def _label(self, name: str) -> int:
        return self.labels.setdefault(name, len(self.labels))

    def _image(self, name: str, size: tuple[int, int], shapes: list[DrawnShape]) -> Iterator[dict[str, Any]]:
        k = len(self.images)
        self.images.append({"id": k, "file_name": name, "width": size[0], "height": size[1]})
        for label, entry in entries(shapes, size if size[0] else None):
            yield {**entry, "image_id": k, "category_id": self._label(label)}

    def _shapes(self, shapes: list[CvatShape], called: str, size: tuple[int, int]) -> Iterator[DrawnShape]:
        for k, shape in enumerate(shapes, start=1):
            found = self._drawn(shape, k, shape.values, f"{called}, shape {k}", size)
            if found is not None:
                yield found

    def _drawn(
        self, shape: CvatShape, k: int, of: dict[str, str], what: str, size: tuple[int, int]
    ) -> DrawnShape | None:
        """A shape, whose label and group are those of its image or track; None if it is none, which is
        told.
        """
        if shape.tag in ("polyline", "points"):
            self.skip(Unread(what, NO_REGION))
            return None
        if shape.tag == "tag":
            self.skip(Unread(what, TAGS))
            return None
        try:
            if not of.get("label", "").strip():
                raise DataError("has no label")
            return to_shape(shape, k, of["label"].strip(), of.get("group_id") or None, size)
        except DataError as error:
            self.skip(SkippedObject(what, str(error)))
            return None

    def _track(self, track: CvatItem, k: int) -> None:
        for shape in track.shapes:
            if shape.values.get("outside") == "1":
                continue
            written = shape.values.get("frame", "")
            what = f"{self.file.path}, track {track.values.get('id', k)}, frame {written}"
            if not written.isdecimal() or len(written) > 9:
                self.skip(SkippedObject(what, f"has frame {short(written)}, must be a whole number"))
                continue
            found = self._drawn(shape, k, track.values, what, self._frame_size())
            if found is not None:
                self.frames.setdefault(int(written), []).append(found)

    def _frame_size(self) -> tuple[int, int]:
        return stated_size(*(self.file.meta.size or (None, None)))

    def _named_frames(self, tracks: int) -> Iterator[tuple[str, list[DrawnShape]]]:
        """The frames that there are and those with shapes, by number, under the names of their files."""
        there: dict[int, str] = {}
        for image in self.pictures.images:
            if match := _FRAME.fullmatch(stem(image)):
                there.setdefault(int(match[1]), image)
        if not there and (self.pictures.images or not tracks):
            raise DataError(
                f"{self.file.path}: is for video, whose frames are numbers, and no image in "
                f"{self.pictures.folder} is called like one (frame_000000.PNG); export the task as "
                f"'CVAT for images 1.1', which names its images, or with its frames"
                if tracks
                else f"{self.file.path}: has neither images nor tracks"
            )
        for frame in sorted(there.keys() | self.frames.keys()):
            yield there.get(frame, f"frame_{frame:06d}.PNG"), self.frames.get(frame, [])


def to_shape(shape: CvatShape, k: int, label: str, group: str | None, size: tuple[int, int]) -> DrawnShape:
    """A shape as its numbers say.

    Raises:
        DataError: A number is missing or none, or it encloses nothing that can be.
    """
    values = shape.values
    turned = _numbers(values, "rotation")[0] if values.get("rotation") else 0.0
    if shape.tag == "mask":
        pixels, box = _painted(values, size)
        return DrawnShape(k, label, box, pixels=pixels, group=group)
    if shape.tag == "box":
        x0, y0, x1, y1 = _numbers(values, "xtl", "ytl", "xbr", "ybr")
        if not turned:
            return DrawnShape(k, label, (x0, y0, x1, y1), group=group)
        points = turn([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], turned)
    elif shape.tag == "ellipse":
        cx, cy, rx, ry = _numbers(values, "cx", "cy", "rx", "ry")
        points = ellipse(cx, cy, rx, ry, turned)
    elif shape.tag == "cuboid":
        corners = _numbers(values, *_CUBOID)
        return DrawnShape(k, label, box_of_points(list(zip(corners[::2], corners[1::2]))), group=group)
    elif shape.tag == "skeleton":
        seen = [part for part in shape.parts if part.values.get("outside") != "1" and part.tag == "points"]
        if not seen:
            raise DataError("is a skeleton without a visible point")
        points = [point for part in seen for point in _points(part.values.get("points", ""))]
        return DrawnShape(k, label, box_of_points(points), group=group)
    else:
        points = _points(values.get("points", ""))
        if len(points) < 3:
            raise DataError(f"is a polygon of {counted(len(points), 'point')}, must be of 3 or more")
    flat = [value for point in points for value in point]
    return DrawnShape(k, label, box_of_points(points), outline=flat, group=group)


def _numbers(values: dict[str, str], *names: str) -> list[float]:
    found = []
    for name in names:
        value = number(values.get(name))
        if value is None or not abs(value) < 2**31:
            raise DataError(f"has {name} {short(values.get(name))}, must be a number of pixels")
        found.append(float(value))
    return found


def _points(text: str) -> list[tuple[float, float]]:
    found = []
    for pair in text.split(";"):
        values = [number(word) for word in pair.split(",")]
        if len(values) != 2 or any(value is None or not abs(value) < 2**31 for value in values):
            raise DataError(f"has points {short(text)}, must be x,y;x,y;...")
        found.append((float(values[0] or 0), float(values[1] or 0)))
    return found


def _painted(
    values: dict[str, str], size: tuple[int, int]
) -> tuple[bytes, tuple[float, float, float, float]]:
    """The pixels of a mask: run lengths of its box row by row, the first of what is not inside."""
    left, top, width, height = (int(value) for value in _numbers(values, "left", "top", "width", "height"))
    words = [word.strip() for word in values.get("rle", "").split(",")]
    if not all(word.isdecimal() and len(word) < 10 for word in words):
        raise DataError(f"has rle {short(values.get('rle', ''))}, must be whole numbers")
    runs = np.array(words, np.int64)
    total = int(runs.sum())
    if width < 1 or height < 1 or total != width * height or total > LARGEST_PATCH:
        raise DataError(f"run lengths make up {total:,} pixels, but the mask has {width} x {height}")
    if not size[0]:
        raise DataError("has a mask, and the file states no size of its image")
    patch = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
    return painted(patch, left, top, size)
