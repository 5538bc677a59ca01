"""Pascal VOC as it is published: `Annotations/NAME.xml`, `JPEGImages/NAME.jpg`, `ImageSets/Main/SPLIT.txt`
(one name a line).

Boxes are inclusive pixel coordinates counted from 1, whole or not: x0 = xmin - 1, x1 = xmax. Objects marked
`difficult` or `truncated` are kept as any other; body parts (`part`) are not objects. Masks
(`SegmentationObject`) are not read: only some images have them, and they do not say which mask is which box.

Labels are positions in VOC's twenty classes if the split names no other class, else in the split's own names,
sorted. Which it is takes a first pass over the annotations that keeps nothing but the names of classes.
Besides them, the names of the split's images are held; an annotation is read again when its row is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from odis.errors import DataError
from odis.objects.clean import Skip, SkippedObject, keep_usable, reason, usable_size
from odis.objects.sources.reader import AnnotationFormat, AnnotationReader, Unit
from odis.objects.sources.voc_xml import filename, items, leads_out, parse, short, stated_size
from odis.types import ImageObjects, Object, Skipped

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


def read(root: Path, split: str | None, skip: Skip, *, trust: bool = False) -> AnnotationReader:
    """Every image that the split lists, in its order, with its objects; an image without objects has none.

    An image is `JPEGImages/NAME.jpg`. Where there is no such file, it is the one that the annotation's
    `filename` names.

    Args:
        root: Folder that holds `Annotations`, `JPEGImages` and `ImageSets`.
        split: `train`, `val`, `trainval`, `test`, or another list in `ImageSets/Main`. The lists of one class
            (`cat_train`), which have a second column, are no splits.
        skip: Called with every image and object that cannot be used.
        trust: Take the sizes that the annotations state, without opening the images.

    Raises:
        DataError: The split is not named, missing, empty, or not a list of names.
    """
    lists = root / "ImageSets" / "Main"
    if split is None or not _is_list_name(lists, split):
        wanted = f"no split {short(split)}" if split else "a split must be named"
        raise DataError(f"{root}: {wanted}; there are {_splits(root)}")
    path = lists / f"{split}.txt"
    names = _names(path, root)
    found = _class_names(root, [name for _, name in names])
    classes = CLASSES if found <= set(CLASSES) else sorted(found)
    labels = {name: k for k, name in enumerate(classes)}

    def units() -> Iterator[Unit]:
        seen: set[str] = set()
        for number, name in names:
            if leads_out(name):
                skip(
                    Skipped(
                        f"{path}, line {number}",
                        f"{short(name)} is not the name of an image in {root / 'JPEGImages'}",
                    )
                )
            elif name in seen:
                skip(Skipped(f"{path}, line {number}", f"{short(name)} was listed before"))
            else:
                seen.add(name)
                yield partial(_row, root, name, labels, skip, trust)

    return AnnotationReader(units(), root, "annotated", list(classes))


FORMAT = AnnotationFormat(
    name="voc",
    title="Pascal VOC: boxes",
    layout="Annotations/*.xml, JPEGImages/*.jpg, ImageSets/Main/SPLIT.txt",
    splits="train, val, trainval, test (required)",
    read=read,
    states_sizes=True,
)


def _row(root: Path, name: str, labels: dict[str, int], skip: Skip, trust: bool) -> ImageObjects | None:
    path = root / "Annotations" / f"{name}.xml"
    try:
        annotation = parse(path)
    except DataError as error:
        skip(Skipped(str(path), reason(error, path)))
        return None
    found = items(annotation, path)
    try:
        annotated, image = stated_size(annotation), _image(root, name, filename(annotation))
    except DataError as error:
        skip(Skipped(str(path), str(error)))
        for item in found:
            skip(SkippedObject(item.what, "its image cannot be used"))
        return None
    size = usable_size(
        root / image, skip, annotated=annotated, objects=[item.what for item in found], trust=trust
    )
    if size is None:
        return None
    objects = []
    for item in found:
        if (
            item.problem or item.name not in labels
        ):  # a name can be new only if the file changed after the first pass
            skip(
                SkippedObject(
                    item.what,
                    item.problem or f"class {short(item.name)} was not there when the names were read",
                )
            )
        else:
            xmin, ymin, xmax, ymax = item.box
            objects.append((item.what, Object((xmin - 1, ymin - 1, xmax, ymax), label=labels[item.name])))
    return ImageObjects(image, *size, keep_usable(objects, size, len(labels), skip))


def _image(root: Path, name: str, named: str) -> str:
    """Path of the image below `root`."""
    image = f"JPEGImages/{name}.jpg"
    if os.path.isfile(root / image) or not named:
        return image
    if leads_out(named):
        raise DataError(
            f"<filename> is {short(named)}, which is not the name of an image in {root / 'JPEGImages'}"
        )
    return f"JPEGImages/{named}" if os.path.isfile(root / "JPEGImages" / named) else image


def _class_names(root: Path, names: list[str]) -> set[str]:
    """Classes that the annotations name. What cannot be read is passed over here: it is reported when its row
    is due.
    """
    found: set[str] = set()
    for name in names:
        if leads_out(name):
            continue
        path = root / "Annotations" / f"{name}.xml"
        try:
            found.update(item.name for item in items(parse(path), path) if not item.problem)
        except DataError:
            continue
    return found


def _names(path: Path, root: Path) -> list[tuple[int, str]]:
    """Names in a list, each behind its line number."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    names = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not names:
        raise DataError(f"{path}: lists no image")
    for number, name in names:
        if _marks_a_class(name):
            raise DataError(
                f"{path}: line {number} is {short(name)}: a list of one class, not a split; there are "
                f"{_splits(root)}"
            )
    return names


def _marks_a_class(line: str) -> bool:
    """Whether a line is of a list of one class: a name, and 1, 0 or -1 for there, difficult, not there."""
    words = line.split()
    return len(words) == 2 and words[1] in ("-1", "0", "1")


def _is_list_name(lists: Path, split: str) -> bool:
    """Whether there is such a list, and the name is not a path to somewhere else."""
    return not leads_out(split) and "/" not in split and os.path.isfile(lists / f"{split}.txt")


def _splits(root: Path) -> str:
    """The splits that there are, for messages; or where to look instead."""
    lists = root / "ImageSets" / "Main"
    there = []
    for path in sorted(lists.glob("*.txt")):
        try:
            with path.open(encoding="utf-8-sig") as file:
                first = next((line for line in file if line.strip()), "")
        except (OSError, UnicodeDecodeError):
            continue
        if first and not _marks_a_class(first):
            there.append(path.stem)
    if there:
        return ", ".join(there)
    below = sorted(path.parent.name for path in root.glob("*/ImageSets") if path.is_dir())
    return (
        f"none (no "
        f"ImageSets/Main/SPLIT.txt{'; name one of the folders ' + ', '.join(below) if below else ''})"
    )
