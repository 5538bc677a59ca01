"""labelme's JSON files, one an image, as labelme writes them since 2016, and AnyLabeling and X-AnyLabeling
after it.

Polygons, circles, turned rectangles and painted masks become objects with a mask, rectangles boxes. Corners
are where the mouse was, in pixels of the image as a viewer shows it. Lines and points are no objects. Shapes
of one label and `group_id` are one object (`drawn.py`).

A file is of the image that its `imagePath` names, seen from the file; where there is none, of the image that
has the file's own name. `imageData`, a copy of the image in the file, is not looked at.

Classes are the labels in all files, sorted, but for `__ignore__` and `_background_`, with which labelme marks
what is no object.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from PIL import Image

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.clean import Crowd, Skip, SkippedObject, Unread
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.sources.coco_entries import number, short, stated_size
from odis.objects.sources.coco_instances import ImageSearch, read_entries
from odis.objects.sources.drawn import (
    LARGEST_PATCH,
    NO_REGION,
    DrawnShape,
    box_of_points,
    ellipse,
    entries,
    painted,
)
from odis.objects.sources.image_names import ImageNames, stem
from odis.objects.sources.one_file_each import Sidecars, find_sidecars
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader
from odis.types import Skipped

_MOST_BYTES = 2**29  # of a file; most of it is the copy of the image

_NO_OBJECTS = ("__ignore__", "_background_")

_LINES = ("line", "linestrip", "point", "points")

_OUTLINES = ("polygon", "oriented_rectangle", "rotation", "quadrilateral")

_CHUNK = 512  # files whose entries are handed on together


def read(
    root: Path,
    split: str | None,
    skip: Skip,
    *,
    trust: bool = False,
    images: str | None = None,
    annotations: str | None = None,
) -> AnnotationReader:
    """Every image with a file, in the order of the files' names; an image without shapes has no object.

    Every file is read once, at the beginning; what they say is kept on disk.

    Args:
        root: Folder that holds images and JSON files, beside each other or not.
        split: A folder in it, such as `train`; needed where its folders are splits.
        skip: Called with every image and shape that cannot be used.
        trust: Take the sizes that the files state, without opening the images.
        images: Folder of the images, if elsewhere.
        annotations: Folder of the JSON files, if elsewhere.

    Raises:
        DataError: A folder is missing, a split is not named, or there is no file of labelme.
    """
    found = find_sidecars(root, split, images, annotations, ".json", "JSON files")
    files = _Files(found, ImageNames(found.images), skip)
    folders = [folder for folder in (found.inside, found.notes_inside) if folder.split("/", 1)[0] != ".."]
    where = ImageSearch(found.root, ["" if folder == "." else folder for folder in folders])
    return read_entries(found.notes, files.chunks(), where, skip, noun="shape", trust=trust, by_name=True)


FORMAT = AnnotationFormat(
    name="labelme",
    title="labelme's JSON files (also AnyLabeling, X-AnyLabeling): polygons, masks, boxes",
    layout="a JSON file an image, beside it or in another folder",
    splits="a folder in ROOT (needed if its folders are splits)",
    read=read,
    states_sizes=True,
    takes_places=True,
)


@dataclass(slots=True)
class _Files:
    """All files, and what was met in them."""

    found: Sidecars
    pictures: ImageNames
    skip: Skip
    taken: set[str] = field(default_factory=set)  # images, relative to the root

    def chunks(self) -> Iterator[tuple[str, list[Any]]]:
        """Annotations, then images, then the categories."""
        annotations: list[Any] = []
        images: list[Any] = []
        of_labels: dict[str, int] = {}
        for k, name in enumerate(self.found.names):
            path = self.found.notes / name
            try:
                content = _load(path)
            except DataError as error:
                self.skip(Skipped(str(path), str(error)))
                continue
            if content is None:
                self.skip(Unread(str(path), "JSON files without shapes"))
                continue
            size = stated_size(content.get("imageWidth"), content.get("imageHeight"))
            image = self._image(name, content.get("imagePath"))
            images.append({"id": k, "file_name": image, "width": size[0], "height": size[1]})
            shapes = list(_shapes(path, content["shapes"], size if size[0] else None, self.skip))
            for label, entry in entries(shapes, size if size[0] else None):
                category = of_labels.setdefault(label, len(of_labels))
                annotations.append({**entry, "image_id": k, "category_id": category})
            if len(annotations) >= _CHUNK:
                yield "annotations", annotations
                annotations = []
        if not images:
            raise DataError(f"{self.found.notes}: none of the JSON files here or below is of labelme")
        yield "annotations", annotations
        yield "images", images
        yield "categories", [{"id": number, "name": label} for label, number in of_labels.items()]
        self._tell_others()

    def _image(self, name: str, path: Any) -> str:
        """The image that a file is of, relative to the root."""
        below = self.found.notes_inside
        folder = posixpath.join(below, posixpath.dirname(name))
        written = path.replace("\\", "/").strip() if isinstance(path, str) else ""
        inside = posixpath.normpath(posixpath.join(folder, written)) if written else ""
        leads = bool(inside) and inside.split("/", 1)[0] != ".." and not inside.startswith("/")
        if leads and "\0" not in inside and os.path.isfile(self.found.root / inside):
            image = inside
        elif own := self.pictures.of(name[: -len(".json")]):
            image = posixpath.normpath(posixpath.join(self.found.inside, own[0]))
        elif alike := self.pictures.alike(stem(written) if written else name[: -len(".json")]):
            image = posixpath.normpath(posixpath.join(self.found.inside, alike))
        else:
            image = written or f"{name[: -len('.json')]}.jpg"
        self.taken.add(image)
        return image

    def _tell_others(self) -> None:
        """Name the images that no file is of, and what else lies there."""
        self.pictures.report(self.skip, (".json", ".txt", ".yaml", ".yml"))
        for image in self.pictures.images:
            if posixpath.normpath(posixpath.join(self.found.inside, image)) not in self.taken:
                self.skip(Unread(str(self.found.images / image), "images without a JSON file"))


def _load(path: Path) -> dict[str, Any] | None:
    """What a file says; None if it is none of labelme.

    Raises:
        DataError: It cannot be read, or is not JSON.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(content) > _MOST_BYTES:
        raise DataError(f"is larger than {_MOST_BYTES:,} bytes")
    try:
        found = orjson.loads(content.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise DataError(f"is not JSON that can be read ({error})") from error
    return found if isinstance(found, dict) and isinstance(found.get("shapes"), list) else None


def _shapes(path: Path, listed: list[Any], size: tuple[int, int] | None, skip: Skip) -> Iterator[DrawnShape]:
    for k, one in enumerate(listed, start=1):
        what = f"{path}, shape {k}"
        if not isinstance(one, dict):
            skip(SkippedObject(what, f"is {short(one)}, must be an object with label and points"))
            continue
        label = one.get("label")
        if label in _NO_OBJECTS:
            skip(Crowd(what, f"is labelled {label}"))
            continue
        kind = one.get("shape_type") or "polygon"  # which files before 3.0 do not say
        if kind in _LINES:
            skip(Unread(what, NO_REGION))
            continue
        try:
            if not isinstance(label, str) or not label.strip():
                raise DataError(f"label is {short(label)}, must be text")
            yield _shape(k, label.strip(), kind, one, size)
        except DataError as error:
            skip(SkippedObject(what, str(error)))


def _shape(k: int, label: str, kind: Any, one: dict[str, Any], size: tuple[int, int] | None) -> DrawnShape:
    points = _points(one.get("points"))
    group = one.get("group_id")
    group = group if isinstance(group, int | str) else None
    score = one.get("score")
    if kind == "rectangle":
        if len(points) not in (2, 4):
            raise DataError(f"is a rectangle of {counted(len(points), 'point')}, must be of 2")
        return DrawnShape(k, label, box_of_points(points), group=group, score=score)
    if kind == "mask":
        pixels, box = _painted(one.get("mask"), points, size)
        return DrawnShape(k, label, box, pixels=pixels, group=group, score=score)
    if kind == "circle":
        if len(points) != 2:
            raise DataError(
                f"is a circle of {counted(len(points), 'point')}, must be of 2: its centre and one on it"
            )
        (cx, cy), (x, y) = points
        radius = math.hypot(x - cx, y - cy)
        points = ellipse(cx, cy, radius, radius)
    elif kind not in _OUTLINES:
        raise DataError(f"shape_type is {short(kind)}, which is not known")
    if len(points) < 3:
        raise DataError(f"is a polygon of {counted(len(points), 'point')}, must be of 3 or more")
    flat = [value for point in points for value in point]
    return DrawnShape(k, label, box_of_points(points), outline=flat, group=group, score=score)


def _points(value: Any) -> list[tuple[float, float]]:
    found = []
    for point in value if isinstance(value, list) else ():
        pair = [number(one) for one in point] if isinstance(point, list) else []
        if len(pair) != 2 or any(one is None or not abs(one) < 2**31 for one in pair):
            raise DataError(f"has the point {short(point)}, must be x and y in pixels")
        found.append((float(pair[0] or 0), float(pair[1] or 0)))
    if not found:
        raise DataError(f"points are {short(value)}, must be a list of x and y")
    return found


def _painted(
    text: Any, points: list[tuple[float, float]], size: tuple[int, int] | None
) -> tuple[bytes, tuple[float, float, float, float]]:
    """The pixels of a painted mask, a PNG in base64 of the part of the image that `points` bound."""
    if size is None:
        raise DataError("has a mask, and the file states no imageWidth and imageHeight")
    if not isinstance(text, str) or len(points) != 2:
        raise DataError("is a mask without pixels (mask: a PNG in base64) or without its two points")
    try:
        with quiet_pillow(), Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            if (
                image.width * image.height > LARGEST_PATCH
                or image.width > 2 * size[0]
                or image.height > 2 * size[1]
            ):
                raise DataError(f"mask is of {image.width} x {image.height} pixels, larger than its image")
            patch = np.asarray(image.convert("L"))
    except DataError:
        raise
    except (binascii.Error, ValueError) as error:
        raise DataError(f"mask is not base64 ({error})") from error
    except Exception as error:  # decoders raise almost anything on bad bytes
        raise DataError(
            f"mask cannot be decoded ({(str(error) or type(error).__name__).splitlines()[0]})"
        ) from error
    (x0, y0), _ = points
    return painted(patch, round(x0), round(y0), size)
