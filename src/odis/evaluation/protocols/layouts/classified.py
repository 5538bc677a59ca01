"""Images with one class each: an object index, class folders, or ImageNet's flat validation folder with its
label file.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.index import ObjectIndex
from odis.objects.listing import list_files

LABEL_FILES = ("LOC_val_solution.csv", "val.txt", "ILSVRC2012_validation_ground_truth.txt")
"""Names under which the labels of ImageNet's validation images are published (Kaggle, Caffe, the devkit)."""


@dataclass(slots=True)
class ClassifiedImages:
    """Images and their classes.

    Attributes:
        path: Where they are from, to name it in messages.
        provenance: Of the index; `class folders` or `label file` otherwise.
        classes: Class names; a label is a position in it.
        paths: The files.
        labels: int64 (n,).
        index: The object index, if its objects may be asked about, and the row of each image in it.
        unlabelled: Images that were left out, as they have no label or several.
    """

    path: str
    provenance: str
    classes: list[str]
    paths: Sequence[str]
    labels: np.ndarray
    index: ObjectIndex | None = None
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    unlabelled: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, numbers: Sequence[int] | np.ndarray) -> ClassifiedImages:
        """Some of the images."""
        chosen = np.asarray(numbers, dtype=np.int64)
        return ClassifiedImages(
            self.path,
            self.provenance,
            self.classes,
            [self.paths[i] for i in chosen.tolist()],
            self.labels[chosen],
            self.index,
            self.rows[chosen] if self.index is not None else self.rows,
            self.unlabelled,
        )


def open_classified(
    path: str | Path, *, labels: str | Path | None = None, classes: Sequence[str] | None = None
) -> ClassifiedImages:
    """Open images with classes.

    A Parquet file or a folder of them is an object index: images whose objects have exactly one label between
    them take part. A folder of class folders is labelled by these. A flat folder is ImageNet's validation
    part: its labels are in `labels`, or in one of `LABEL_FILES` in the folder or up to two above it.

    Args:
        path: Index or folder.
        labels: The label file of a flat folder.
        classes: Names of the classes, sorted; needed where a label file has numbers.

    Raises:
        DataError: Nothing of this kind, no label, or a label file that does not fit; naming the file.
    """
    path = Path(path)
    if labels is None and (path.is_file() or (path.is_dir() and any(path.glob("*.parquet")))):
        return _from_index(ObjectIndex.open(path))
    if not path.is_dir():
        raise DataError(f"{path}: no such folder or object index")
    listing = list_files(path)
    if not listing.images:
        raise DataError(f"{path}: no image in this folder or below")
    names = sorted({image.split("/", 1)[0] for image in listing.images if "/" in image})
    if labels is None and names and all("/" in image for image in listing.images):
        position = {name: k for k, name in enumerate(names)}
        of_images = np.array([position[image.split("/", 1)[0]] for image in listing.images], np.int64)
        paths = [os.path.join(path, image) for image in listing.images]
        return ClassifiedImages(str(path), "class folders", names, paths, of_images)
    return _with_label_file(path, listing.images, labels, classes)


def _from_index(index: ObjectIndex) -> ClassifiedImages:
    paths, labels, rows = [], [], []
    for i, row in enumerate(index):
        found = {item.label for item in row.objects if item.label is not None}
        if len(found) == 1:
            paths.append(index.image_path(i))
            labels.append(found.pop())
            rows.append(i)
    if not paths:
        raise DataError(f"{index.path}: none of its images has exactly one label")
    return ClassifiedImages(
        index.path,
        index.provenance,
        list(index.classes),
        paths,
        np.array(labels, np.int64),
        index,
        np.array(rows, np.int64),
        len(index) - len(paths),
    )


def _with_label_file(
    path: Path, images: Sequence[str], labels: str | Path | None, classes: Sequence[str] | None
) -> ClassifiedImages:
    file = Path(labels) if labels is not None else _find(path)
    if file is None:
        raise DataError(
            f"{path}: has neither class folders nor a label file ({', '.join(LABEL_FILES)}) in it or above; "
            f"name one with --test-labels"
        )
    named = _read_labels(file, images)
    words = {value for value in named.values() if not value.isdecimal()}
    if words:
        of_class = list(classes) if classes is not None else sorted(words)
    elif classes is None:
        raise DataError(f"{file}: has numbers for classes; their names are those of the train part's folders")
    else:
        of_class = list(classes)
    position = {name: k for k, name in enumerate(of_class)}
    paths, found, left = [], [], 0
    for image in images:
        value = named.get(os.path.splitext(os.path.basename(image))[0])
        if value is None:
            left += 1
            continue
        label = int(value) if value.isdecimal() else position.get(value, -1)
        if not 0 <= label < len(of_class):
            raise DataError(f"{file}: {image} has the class {value!r}, which is none of {len(of_class)}")
        paths.append(str(path / image))
        found.append(label)
    if not paths:
        raise DataError(f"{file}: names none of the images in {path}")
    return ClassifiedImages(
        str(path), "label file", of_class, paths, np.array(found, np.int64), unlabelled=left
    )


def _find(path: Path) -> Path | None:
    folders = [path, *path.absolute().parents][:3]
    return next(
        (folder / name for folder in folders for name in LABEL_FILES if (folder / name).is_file()), None
    )


def _read_labels(file: Path, images: Sequence[str]) -> dict[str, str]:
    """Class of each image by its name without ending: a wnid, or a number from 0.

    Three forms are published: Kaggle's CSV (`ImageId,PredictionString`, a wnid and boxes), lines `NAME CLASS`
    (Caffe's `val.txt`, numbers from 0 in the order of the wnids), and the devkit's one number a line, in the
    order of the names, whose numbers are ILSVRC's own: these need the devkit's `meta.mat` beside.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: cannot be read as text ({getattr(error, 'strerror', None) or error})"
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{file}: is empty")
    if lines[0].lower().startswith("imageid"):
        return {row[0]: row[1].split()[0] for row in csv.reader(lines[1:]) if len(row) > 1 and row[1].split()}
    if all(line.isdecimal() for line in lines):
        wnids = _devkit_wnids(file)
        ordered = sorted(os.path.splitext(os.path.basename(image))[0] for image in images)
        if len(ordered) != len(lines):
            raise DataError(f"{file}: labels {counted(len(lines), 'image')}, but there are {len(ordered):,}")
        return {name: _of_devkit(wnids, number, file) for name, number in zip(ordered, lines, strict=True)}
    named = {}
    for number, line in enumerate(lines, start=1):
        words = line.replace(",", " ").split()
        if len(words) != 2:
            raise DataError(f"{file}: line {number} is {line[:60]!r}, must be an image's name and its class")
        named[os.path.splitext(os.path.basename(words[0]))[0]] = words[1]
    return named


def _of_devkit(wnids: dict[int, str], number: str, file: Path) -> str:
    if int(number) not in wnids:
        raise DataError(f"{file}: has the number {number}, which meta.mat does not list")
    return wnids[int(number)]


def _devkit_wnids(file: Path) -> dict[int, str]:
    """Wnid of each of ILSVRC's own numbers, from the devkit's `meta.mat`."""
    from scipy.io import loadmat

    places = [file.parent / "meta.mat", file.parent / "data" / "meta.mat"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataError(f"{file}: has ILSVRC's own numbers; the devkit's meta.mat must be beside it")
    try:
        synsets = loadmat(found, squeeze_me=True)["synsets"]
        return {
            int(one["ILSVRC2012_ID"]): str(one["WNID"]) for one in synsets if int(one["num_children"]) == 0
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, NotImplementedError) as error:
        raise DataError(f"{found}: is not the devkit's meta.mat ({error})") from error
