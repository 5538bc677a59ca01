"""Label maps in the two layouts that most data sets have, and the classes of their values:

- VOC: `JPEGImages/NAME.jpg`, `SegmentationClass/NAME.png`, `ImageSets/Segmentation/SPLIT.txt`. Classes are
  those of `class_names.txt` or `labelmap.txt` where there is one; VOC's (0..20, 255 is ignored) where the
  maps are shown to be VOC's, by the names of the images or by their annotations; else numbers.
- ADE20K (SceneParsing, ADEChallengeData2016): `images/training/NAME.jpg`, `annotations/training/NAME.png`
  (1..150, 0 is ignored), the same below `validation`, and `objectInfo150.txt` with the names of the classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from odis.errors import DataError
from odis.evaluation.class_list import read_class_list
from odis.evaluation.label_maps import BACKGROUND, IGNORE, LABEL_MAPS, REFUSED, LabelledImages
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.sources.label_list import CLASS_NAMES, LABEL_MAP
from odis.objects.sources.label_maps import are_voc
from odis.objects.sources.voc import CLASSES

VOC_CLASSES = ("background", *CLASSES)

_ADE_CLASSES = 150
_ADE_SPLITS = {"train": "training", "training": "training", "val": "validation", "validation": "validation"}


def open_label_maps(root: str | Path, split: str) -> LabelledImages:
    """Open one split of label maps in VOC's or ADE20K's layout (see the module), told by the folders.

    Args:
        root: The folder that holds `SegmentationClass`, or `images` and `annotations`.
        split: VOC: the name of a list in `ImageSets/Segmentation`. ADE20K: `train` or `val`.

    Raises:
        DataError: Neither layout; a split, folder or class list that is missing or cannot be read; no images.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if (root / "SegmentationClass").is_dir():
        return _open_voc(root, split)
    if (root / "annotations").is_dir() and (root / "images").is_dir():
        return open_ade(root, split)
    raise DataError(
        f"{root}: holds no label maps in a known layout: VOC (JPEGImages, SegmentationClass, "
        f"ImageSets/Segmentation) or ADE20K (images/training, annotations/training, and validation)"
    )


def of_voc(root: Path, files: list[tuple[str, str]]) -> LabelledImages:
    """Label maps in VOC's folders, with the classes that they have (see the module).

    Args:
        root: The folder, with a list of classes or `Annotations` or neither.
        files: Paths of each image and of its label map.

    Raises:
        DataError: A list of classes that cannot be read; no map that can.
    """
    own = read_class_list(root, root / "SegmentationClass")
    if own is not None:
        return own.open(root, files, ())
    if not are_voc(root, [(os.path.splitext(os.path.basename(path))[0], Path(path)) for _, path in files]):
        # Of the whole folder, not of the split: the parts have the same classes.
        folders = {os.path.dirname(path) for _, path in files}
        every = [(path, path) for folder in sorted(folders) for path in _maps_in(folder)]
        return numbered(root, files, max(values_of_maps(root, every)), (), background=BACKGROUND)
    lookup = np.full(256, REFUSED, dtype=np.int32)
    lookup[: len(VOC_CLASSES)] = range(len(VOC_CLASSES))
    lookup[255] = IGNORE
    return LabelledImages(
        str(root),
        LABEL_MAPS,
        list(VOC_CLASSES),
        files=files,
        lookup=lookup,
        values="0 to 20 and 255 (VOC)",
        background=BACKGROUND,
    )


def _maps_in(folder: str) -> list[str]:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in sorted(names) if name.lower().endswith(".png")]


def numbered(
    root: Path,
    files: list[tuple[str, str]],
    highest: int,
    ignore: Sequence[int],
    background: int | None = None,
) -> LabelledImages:
    """Label maps whose classes have numbers for names.

    Args:
        root: To name it in messages.
        files: Paths of each image and of its label map.
        highest: Largest value below 255.
        ignore: Values that are no class, besides 255.
        background: Value that stands for what is no object.
    """
    names = ["background" if v == background else f"class {v}" for v in range(highest + 1)]
    lookup = np.full(256, REFUSED, dtype=np.int32)
    used = [v for v in range(highest + 1) if v not in set(ignore)]
    lookup[[255, *(v for v in ignore if 0 <= v < 256)]] = IGNORE
    lookup[used] = range(len(used))
    said = f"0 to {highest} and 255, those of the first maps; {CLASS_NAMES} names the classes"
    place = used.index(background) if background in used else None
    return LabelledImages(
        str(root),
        LABEL_MAPS,
        [names[v] for v in used],
        files=files,
        lookup=lookup,
        values=said,
        background=place,
    )


def values_of_maps(root: Path, files: Sequence[tuple[str, str]]) -> set[int]:
    """Values below 255 that occur in the maps."""
    found: set[int] = set()
    for _, path in files:
        try:
            with quiet_pillow(), Image.open(path) as image:
                if image.mode in ("P", "L", "1"):
                    found.update(
                        np.unique(np.asarray(image.convert("L") if image.mode == "1" else image)).tolist()
                    )
        except Exception:  # named when the image is read
            continue
    found.discard(255)
    if not found:
        raise DataError(
            f"{root}: no label map with one value a pixel could be read, and there is no {CLASS_NAMES} or "
            f"{LABEL_MAP}"
        )
    return found


def _open_voc(root: Path, split: str) -> LabelledImages:
    images, maps, lists = root / "JPEGImages", root / "SegmentationClass", root / "ImageSets" / "Segmentation"
    for folder in (images, lists):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; VOC's layout has one")
    chosen = lists / f"{split}.txt"
    if not chosen.is_file():
        there = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
        raise DataError(f"{chosen}: no such file; splits that are there: {there}")
    names = [name for line in _text(chosen).splitlines() if (name := line.strip())]
    if not names:
        raise DataError(f"{chosen}: lists no images")
    files = [(str(images / f"{name}.jpg"), str(maps / f"{name}.png")) for name in names]
    return of_voc(root, files)


def open_ade(root: Path, split: str) -> LabelledImages:
    """One split of ADE20K (see the module).

    Raises:
        DataError: A split, folder or class list that is missing or cannot be read; no images.
    """
    if split not in _ADE_SPLITS:
        raise DataError(f"{root}: has no split {split!r}; ADE20K's layout has train and val")
    images, maps = (root / part / _ADE_SPLITS[split] for part in ("images", "annotations"))
    for folder in (images, maps):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; ADE20K's layout has one")
    names = sorted(
        name for name in os.listdir(images) if name.lower().endswith(".jpg") and not name.startswith(".")
    )
    if not names:
        raise DataError(f"{images}: holds no images (.jpg)")
    files = [(str(images / name), str(maps / f"{os.path.splitext(name)[0]}.png")) for name in names]
    lookup = np.full(256, REFUSED, dtype=np.int32)
    lookup[: _ADE_CLASSES + 1] = range(-1, _ADE_CLASSES)
    assert lookup[0] == IGNORE
    return LabelledImages(
        str(root), LABEL_MAPS, _ade_names(root), files=files, lookup=lookup, values="0 to 150 (ADE20K)"
    )


def _ade_names(root: Path) -> list[str]:
    """Names from `objectInfo150.txt` (a line of titles, then Idx, Ratio, Train, Val, Name, tab-separated), or
    numbers without it.
    """
    path = root / "objectInfo150.txt"
    if not path.exists():
        return [f"class {number}" for number in range(1, _ADE_CLASSES + 1)]
    names: dict[int, str] = {}
    for line in _text(path).splitlines()[1:]:
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) == 5 and fields[0].isdecimal() and fields[4]:
            names[int(fields[0])] = fields[4]
    missing = [number for number in range(1, _ADE_CLASSES + 1) if number not in names]
    if missing:
        raise DataError(
            f"{path}: does not name class {missing[0]}; each line is Idx, Ratio, Train, Val, Name, with "
            f"tabs between"
        )
    return [names[number] for number in range(1, _ADE_CLASSES + 1)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text") from error
