"""YOLO as Ultralytics documents it: `data.yaml`, folders or lists of images, and one text file of objects an
image.

`data.yaml` (or the only other .yaml in the folder) has `names` (a list, or a mapping from 0, 1, 2, ... to
names) and `train`, `val`, `test`: each a folder, a .txt list of images, or several of these. It may have
`path`, where those begin, and `nc`. Nothing in it is run or downloaded, and no path may lead out of the data
set's folder.

The objects of images/a/b.jpg are in labels/a/b.txt: the last folder `images` becomes `labels`, and without
one the file is beside the image. A line is `class x y width height` (the box's centre and size), perhaps with
a confidence behind it, or `class x1 y1 x2 y2 x3 y3 ...` (a polygon; so are the four corners of an oriented
box). All are shares of the image's width and height as a viewer shows it, so of the sides that EXIF
orientation gives it. A missing file and an empty one mean that there is no object.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pycocotools import mask as coco_mask

from odis.errors import DataError
from odis.objects.clean import Skip, SkippedObject, keep_usable, usable_size
from odis.objects.images import list_files
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, Unit
from odis.types import ImageObjects, Object, Skipped

_SPLITS = ("train", "val", "test")

_DEEPEST = 20

_SLACK = 0.01  # of the image: how far over its edge rounding and careless drawing may put a point


def read(root: Path, split: str | None, skip: Skip) -> AnnotationReader:
    """Every image of a split with its objects, in the order of the folders and lists that name it.

    The names of one folder are held at a time, lists are read line by line; a hash of 8 bytes an image (90 in
    Python) tells which were there before.
    A confidence becomes the score; the provenance is `annotated` also where scores say that a detector wrote
    the files.

    Args:
        root: Folder that holds `data.yaml`, the images and their labels.
        split: `train` (if none is given), `val` or `test`.
        skip: Called with every image and object that cannot be used. The lines of a label file that is not
            text are not counted.

    Raises:
        DataError: `data.yaml` is missing, ambiguous or wrong, or a folder or list it names is missing, empty
            or elsewhere.
    """
    path = _find(root)
    content = _load(path)
    classes = _classes(path, content)
    split = split or "train"
    there = [name for name in _SPLITS if content.get(name)]
    if split not in there:
        raise DataError(
            f"{path}: no split {split!r}; there are {', '.join(there) or 'none of train, val, test'}"
        )
    base = root
    if content.get("path") is not None:
        base = root / _place(path, "path", content["path"], root, root)
        if not base.is_dir():
            raise DataError(
                f"{path}: path leads to {base}, which is no folder; leave it out if the images are beside "
                f"{path.name}"
            )
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    places = [_place(path, split, entry, root, base) for entry in entries]
    for place in map(root.joinpath, places):
        if not place.is_dir() and not (place.suffix.lower() == ".txt" and place.is_file()):
            raise DataError(
                f"{place}: no such folder, or list of images (.txt); {path.name} names it for {split}"
            )

    def units() -> Iterator[Unit]:
        seen: set[int] = set()
        for place in places:
            for image in _images(root, base, place, skip):
                key = hash(image)
                if key in seen:
                    skip(Skipped(str(root / image), "was listed before"))
                    continue
                seen.add(key)
                yield partial(_row, root, image, len(classes), skip)

    return AnnotationReader(units(), root, "annotated", classes)


FORMAT = AnnotationFormat(
    name="yolo",
    title="YOLO text files (Ultralytics): boxes or polygons",
    layout="data.yaml, and the images/ and labels/ that it names",
    splits="train (default), val, test",
    read=read,
)


def _find(root: Path) -> Path:
    if (root / "data.yaml").is_file():
        return root / "data.yaml"
    found = sorted(
        p
        for p in root.iterdir()
        if p.suffix in (".yaml", ".yml") and not p.name.startswith(".") and p.is_file()
    )
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "no other .yaml file"
        raise DataError(f"{root}: no data.yaml, and {names}; there must be data.yaml, or one .yaml file")
    return found[0]


def _load(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        _refuse_bombs(path, text)
        node, content = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except DataError:
        raise
    except Exception as error:  # a tag such as !!int makes the loader raise almost anything
        raise DataError(f"{path}: is not YAML that can be read ({_reason(error)})") from error
    if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
        raise DataError(f"{path}: must be a mapping with names and train, val or test")
    names = [
        value for key, value in node.value if key.value == "names" and isinstance(value, yaml.MappingNode)
    ]
    if len(node.value) != len(content) or any(
        len(n.value) != len(content["names"]) for n in names
    ):  # YAML keeps the last one
        raise DataError(f"{path}: has a key twice")
    if "kpt_shape" in content:
        raise DataError(f"{path}: is for poses (kpt_shape); boxes, polygons and oriented boxes can be read")
    return content


def _refuse_bombs(path: Path, text: str) -> None:
    """Refuse what makes the loader take any time or memory, before it builds anything."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise DataError(
                f"{path}: has an alias (*name), which can make a file of any size; write the value itself"
            )
        if depth > _DEEPEST:
            raise DataError(f"{path}: has more than {_DEEPEST} lists or mappings in each other")


def _reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or str(error) or type(error).__name__
    return (f"line {mark.line + 1}: " if mark else "") + str(text).splitlines()[0]


def _classes(path: Path, content: dict[Any, Any]) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        if any(type(k) is not int for k in names) or sorted(names) != list(range(len(names))):
            raise DataError(f"{path}: names must have the numbers 0, 1, 2, ... without a gap")
        names = [names[k] for k in sorted(names)]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: has no names; they must be a list, or a mapping from 0, 1, 2, ... to names")
    first: dict[str, int] = {}
    for k, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise DataError(
                f"{path}: the name of class {k} is {_short(name)}, which is no text; put it in quotes"
            )
        if first.setdefault(name, k) != k:
            raise DataError(f"{path}: classes {first[name]} and {k} have the same name {_short(name)}")
    if content.get("nc") not in (None, len(names)):
        raise DataError(f"{path}: nc is {_short(content['nc'])}, but there are {len(names)} names")
    return names


def _place(path: Path, key: str, value: Any, root: Path, base: Path) -> str:
    """Where an entry of the YAML file leads, relative to the root."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{path}: {key} is {_short(value)}, must be a path (or, for a split, a list of them)")
    try:
        return _inside(root, base, value)
    except DataError as error:
        within = re.sub(r"^(\.\./)+", "", value)  # as some exporters write it
        hint = f"; {within} is there, write that" if within != value and (base / within).exists() else ""
        raise DataError(f"{path}: {key} is {_short(value)}, which {error}{hint}") from None


def _inside(root: Path, base: Path, text: str) -> str:
    """`text`, which begins at `base` if it is not absolute, relative to `root`; the error says why it may not
    be used.
    """
    if "\\" in text or re.match("[A-Za-z]:", text):
        raise DataError("has a backslash or a drive letter; the parts of a path are separated by /")
    if any(ord(character) < 32 for character in text):
        raise DataError("has control characters")
    inside = os.path.relpath(os.path.join(base, text), root).replace(os.sep, "/")
    if inside.split("/", 1)[0] == "..":
        raise DataError(f"leads out of {root}")
    return inside


def _images(root: Path, base: Path, place: str, skip: Skip) -> Iterator[str]:
    """The images of a folder or list, relative to the root."""
    path = root / place
    if path.is_dir():
        images = list_files(path).images
        if not images:
            raise DataError(f"{path}: no image in this folder or below")
        yield from (image if place == "." else f"{place}/{image}" for image in images)
        return
    empty = True
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    empty = False
                    image = _listed(root, base, path, number, line, skip)
                    if image is not None:
                        yield image
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if empty:
        raise DataError(f"{path}: lists no image")


def _listed(root: Path, base: Path, path: Path, number: int, line: bytes, skip: Skip) -> str | None:
    """The image in a line of a list; `./` at its beginning is the list's own folder."""
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        return _inside(root, path.parent if text.startswith("./") else base, text) if text else None
    except UnicodeDecodeError:
        skip(Skipped(f"{path}, line {number}", "is not UTF-8"))
    except DataError as error:
        skip(Skipped(f"{path}, line {number}", f"{_short(text)} {error}"))
    return None


def _row(root: Path, image: str, classes: int, skip: Skip) -> ImageObjects | None:
    try:
        lines = _lines(root / _label_file(image))
    except DataError as error:
        skip(Skipped(str(root / image), str(error)))
        return None
    size = usable_size(root / image, skip, objects=[name for name, _ in lines])
    if size is None:
        return None
    objects = []
    for name, line in lines:
        try:
            objects.append((name, _object(line, *size)))
        except DataError as error:
            skip(SkippedObject(name, str(error)))
    return ImageObjects(image, *size, keep_usable(objects, size, classes, skip))


def _label_file(image: str) -> str:
    *folders, name = image.split("/")
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return "/".join([*folders, f"{os.path.splitext(name)[0]}.txt"])


def _lines(path: Path) -> list[tuple[str, str]]:
    """Each line that is not blank, behind what it is called."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise DataError(f"its label file {path} is not UTF-8") from error
    except OSError as error:
        raise DataError(f"its label file {path} cannot be read ({error.strerror or error})") from error
    return [
        (f"{path}, line {number}", line)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]


def _object(line: str, width: int, height: int) -> Object:
    try:
        label, *values = map(_number, line.split())
    except ValueError as error:
        raise DataError(f"is {_short(line.strip())}, must be numbers with spaces between them") from error
    if not label.is_integer():
        raise DataError(f"has class {label:g}, must be a whole number")
    if len(values) not in (4, 5) and (len(values) < 6 or len(values) % 2):
        raise DataError(
            f"has {len(values) + 1} numbers, must have 5 (class and box), 6 (and confidence) or 7, 9, ... "
            f"(class and points)"
        )
    score = values.pop() if len(values) == 5 else None
    if score is not None and not 0 <= score <= 1:
        raise DataError(f"has confidence {score:g}, must be from 0 to 1")
    for value in values:
        if not -_SLACK <= value <= 1 + _SLACK:
            raise DataError(f"has {value:g}, must be a share of the image's width or height, from 0 to 1")
    if len(values) == 4:
        x, y, w, h = values
        return Object(
            ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height),
            None,
            int(label),
            score,
        )
    points = [value * (height if k % 2 else width) for k, value in enumerate(values)]
    box = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    return Object(box, coco_mask.merge(coco_mask.frPyObjects([points], height, width))["counts"], int(label))


def _number(text: str) -> float:
    if "_" in text:  # which Python takes for a separator of digits
        raise ValueError(text)
    return float(text)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
