"""Images with true boxes: an object index, Pascal VOC or COCO, all of it or the images of a published
list.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from odis.errors import DataError
from odis.objects.clean import ANY_LABEL, Crowd, Mended, Unread, usable_objects
from odis.objects.index import WHOLE_IMAGE, ObjectIndex
from odis.objects.sources.coco import FORMAT as COCO
from odis.objects.sources.reader import AnnotationFormat
from odis.objects.sources.voc import FORMAT as VOC
from odis.types import ImageObjects, Object, Skipped

_COCO_NAME = re.compile(r"(?:COCO_\w+?_)?(\d{6,})")


@dataclass(slots=True)
class BoxedImages:
    """Images and their true objects.

    Attributes:
        path: Where they are from, to name it in messages.
        provenance: Of the annotations.
        classes: How many there are; the protocols look at none.
        paths: The files.
        rows: Size and objects of each.
        skipped: Files and objects that cannot be used.
        crowds: Regions annotated as crowds, which are dropped.
        without_objects: Images without any object, which are left out.
        not_there: Images of the list that the annotations do not have.
        instances: COCO's annotation file; empty for others.
    """

    path: str
    provenance: str
    classes: int
    paths: list[str] = field(default_factory=list)
    rows: list[ImageObjects] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    crowds: int = 0
    without_objects: int = 0
    not_there: int = 0
    instances: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    def boxes(self, i: int) -> np.ndarray:
        """float64 (n, 4) of image `i`, in its pixels, counted from 0, ends exclusive."""
        return boxes_of(self.rows[i].objects)

    def counts(self) -> dict[str, int]:
        """What was left out, for `results.json`."""
        return {
            "objects": sum(len(row.objects) for row in self.rows),
            "crowds": self.crowds,
            "without_objects": self.without_objects,
            "not_there": self.not_there,
        }

    def note(self, skipped: Sequence[Skipped]) -> None:
        """Count what a reader left out of an image that takes part."""
        self.crowds += sum(isinstance(one, Crowd) for one in skipped)
        self.skipped += [one for one in skipped if not isinstance(one, Crowd | Mended | Unread)]

    def select(self, numbers: Sequence[int]) -> BoxedImages:
        """Some of the images."""
        return BoxedImages(
            self.path,
            self.provenance,
            self.classes,
            [self.paths[i] for i in numbers],
            [self.rows[i] for i in numbers],
            self.skipped,
            self.crowds,
            self.without_objects,
            self.not_there,
            self.instances,
        )


def boxes_of(objects: Sequence[Object]) -> np.ndarray:
    """float64 (n, 4)."""
    return np.array([one.box for one in objects], dtype=np.float64).reshape(-1, 4)


def open_boxed(
    path: str | Path,
    split: str | None = None,
    file_list: str | Path | None = None,
    *,
    keep_empty: bool = False,
) -> BoxedImages:
    """Open images with true boxes; images without any are left out and counted.

    A Parquet file or folder of them is an object index. A folder with `Annotations` and `ImageSets` is Pascal
    VOC (also one that holds a single `VOC2007`), one with `annotations/instances_*.json` is COCO. VOC's boxes
    are counted from 0; `difficult` and `truncated` objects are kept. COCO's crowds are dropped.

    Args:
        path: Index or folder.
        split: VOC: `trainval` by default. COCO: `train2014`, ..., needed if there are several.
        file_list: A file with one image name a line, such as COCO20k's; only these images take part. Folder
            and ending of a name are not looked at, nor whether COCO's number stands in `COCO_train2014_`.
        keep_empty: Keep images without a true box.

    Raises:
        DataError: Nothing of this kind; no image with a box; a list that names none of the images.
    """
    path, waiting = Path(path), list[Skipped]()
    if path.is_file() or (path.is_dir() and any(path.glob("*.parquet"))):
        if split is not None:
            raise DataError(f"{path}: is an object index, which has no split {split}")
        index = ObjectIndex.open(path)
        if index.provenance == WHOLE_IMAGE or index.is_folder:
            raise DataError(f"{path}: its objects are whole images; there is no box to find")
        found = BoxedImages(index.path, index.provenance, len(index.classes))
        rows: Iterator[ImageObjects] = _usable(index, waiting)
        root = index.root
    else:
        form, root, split = _layout(path, split)
        reader = form.read(root, split, waiting.append, trust=True)
        found = BoxedImages(str(path), reader.provenance, len(reader.classes))
        if form is COCO:
            found.instances = str(root / "annotations" / f"instances_{split}.json")
        rows = reader.rows
    wanted = None if file_list is None else _Names(file_list)
    for row in rows:
        said, waiting[:] = list(waiting), []
        if wanted is not None and not wanted.take(row.image):
            continue
        found.note(said)
        if not row.objects:
            found.without_objects += 1
            if not keep_empty:
                continue
        found.paths.append(os.path.join(root, row.image))
        found.rows.append(row)
    if wanted is None:
        found.note(waiting)
    else:
        found.not_there = wanted.left
    if not any(row.objects for row in found.rows):
        of_list = f", of those that {file_list} lists" if file_list is not None else ""
        raise DataError(f"{path}: none of its images has a box{of_list}; there is nothing to find")
    return found


def _usable(index: ObjectIndex, waiting: list[Skipped]) -> Iterator[ImageObjects]:
    for i in range(len(index)):
        usable = usable_objects(index[i], ANY_LABEL)
        waiting += usable.skipped(index.image_path(i))
        yield usable.row


def _layout(path: Path, split: str | None) -> tuple[AnnotationFormat, Path, str | None]:
    """The format of a folder, its root and its split."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder or object index")
    below = [one for one in sorted(path.glob("VOC*")) if (one / "Annotations").is_dir()]
    if not (path / "Annotations").is_dir() and below:
        if len(below) > 1:
            raise DataError(f"{path}: holds {', '.join(one.name for one in below)}; name one of the folders")
        path = below[0]
    if (path / "Annotations").is_dir() and (path / "ImageSets").is_dir():
        return VOC, path, split or "trainval"
    files = sorted((path / "annotations").glob("instances_*.json"))
    if files:
        only = files[0].stem.removeprefix("instances_") if len(files) == 1 else None
        return COCO, path, split or only
    raise DataError(
        f"{path}: is no object index (.parquet), and neither VOC (Annotations, JPEGImages, ImageSets) nor "
        f"COCO (annotations/instances_SPLIT.json, SPLIT/)"
    )


class _Names:
    """The images of a list, ticked off as they are met."""

    def __init__(self, path: str | Path) -> None:
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: cannot be read as text ({getattr(error, 'strerror', None) or error})"
            ) from error
        names = [line.strip() for line in text.splitlines() if line.strip()]
        if not names:
            raise DataError(f"{path}: lists no image")
        self._open = {_key(name) for name in names}

    @property
    def left(self) -> int:
        """How many were not met."""
        return len(self._open)

    def take(self, name: str) -> bool:
        """Whether an image is listed; each name counts once."""
        key = _key(name)
        if key not in self._open:
            return False
        self._open.remove(key)
        return True


def _key(name: str) -> str:
    """What two names of one image share: COCO's number, or the name without folder and ending."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    coco = _COCO_NAME.fullmatch(stem)
    return str(int(coco[1])) if coco else stem
