"""Images with a class for every pixel, in the layouts in which they are published, told by their folders:

- VOC 2012: `JPEGImages` (or `images`), `SegmentationClass` and, for lists with `aug` in their name,
  `SegmentationClassAug`; lists in `ImageSets/Segmentation` (or `sets`). With a `labelmap.txt` the classes are
  its own (CVAT).
- ADE20K 2016: `images/training`, `annotations/training`, the same below `validation`; `objectInfo150.txt`.
- Cityscapes: `leftImg8bit/SPLIT/CITY`, `gtFine/SPLIT/CITY/*_labelIds.png`; 19 classes.
- COCO-Stuff: `train2017`, `val2017` (or below `images`), and its maps; 12 or 15 super-classes.
- An object index with masks.
- Other label maps: see `plain_maps.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from odis.config.wording import counted
from odis.errors import DataError, OdisError
from odis.evaluation.label_layouts import VOC_CLASSES, of_voc, open_ade
from odis.evaluation.label_maps import IGNORE, LABEL_MAPS, REFUSED, LabelledImages
from odis.evaluation.protocols.layouts.coco_stuff import SUPER_CLASSES
from odis.evaluation.protocols.layouts.plain_maps import find_maps, open_plain

TARGETS = tuple(SUPER_CLASSES)

_CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26,
    "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip

_COCO_MAPS = (
    # Where the maps of SPLIT lie, and what is added to a value to get the id of COCO-Stuff.
    ("annotations/stuff_annotations/stuff_{}_pixelmaps", 0),
    ("annotations/stuff_{}_pixelmaps", 0),
    ("stuff_{}_pixelmaps", 0),
    ("stuffthingmaps_trainval2017/{}", 1),
    ("stuffthingmaps/{}", 1),
    ("annotations/{}", 1),
)

_UNLABELLED = "unlabelled"


@dataclass(frozen=True, slots=True)
class SegmentedImages:
    """One part of a data set with pixel labels.

    Args:
        images: The images and their labels.
        layout: `voc`, `ade20k`, `cityscapes`, `coco-stuff`, `label-maps` or `index`.
    """

    images: LabelledImages
    layout: str

    @property
    def names(self) -> list[str]:
        """Of each image its file name, without folder and ending."""
        found = [os.path.splitext(os.path.basename(self.images.image_path(i)))[0] for i in range(self.count)]
        return [name.removesuffix("_leftImg8bit") for name in found]

    @property
    def count(self) -> int:
        """How many images."""
        return len(self.images)

    @property
    def published_classes(self) -> list[str]:
        """Class names as the references count them: ADE20K has a class 0 for unlabelled pixels, which is left
        out when scored.
        """
        return [*([_UNLABELLED] if self.layout == "ade20k" else []), *self.images.classes]


def open_segmented(
    path: str | Path,
    split: str,
    *,
    part: Literal["train", "val"],
    target: str = "stuff",
    ignore: Sequence[int] = (),
    boxes: bool = False,
) -> SegmentedImages:
    """Open one part of a data set with pixel labels, in one of the layouts of this module.

    Args:
        path: Object index, or the root folder; a folder that only holds the root will do.
        split: List or folder; empty for the layout's own (`trainaug` in VOC, where there is such a list), or
            the whole of a data set without splits.
        part: Which of the layout's own splits.
        target: Of COCO-Stuff: `things`, `stuff` or `all`.
        ignore: Of plain label maps: values that are no class.
        boxes: Of an index: fill the box of an object without a mask.

    Raises:
        DataError: No known layout; a split, folder or list that is missing or cannot be read; no images.
    """
    from odis.evaluation.dense import open_labelled

    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.glob("*.parquet"))):
        return SegmentedImages(open_labelled(path, split, boxes=boxes), "index")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder or object index")
    root, layout = _find_root(path, split or part, whole=not split)
    if layout == "voc":
        return _open_voc(root, split, part)
    if layout == "ade20k":
        return SegmentedImages(open_ade(root, split or part), layout)
    if layout == "cityscapes":
        return _open_cityscapes(root, split or part)
    if layout == "coco-stuff":
        return _open_coco(root, split or part, target)
    folders = find_maps(root, split or part, whole=not split)
    assert folders is not None
    names = read_names(folders.listed) if folders.listed is not None else ()
    return SegmentedImages(open_plain(root, folders, ignore, names), layout)


def rows_of_list(part: SegmentedImages, file: str | Path) -> list[int]:
    """The rows of the images that a text file names, one a line, in the order of the part.

    Paths, endings and a second column (that of the label map) are allowed.

    Raises:
        DataError: The file cannot be read or is empty, names an image twice, or one that is not there.
    """
    names = read_names(Path(file))
    position = {name: i for i, name in enumerate(part.names)}
    missing = [name for name in names if name not in position]
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise DataError(f"{file}: names {missing[0]!r}{more}, which {part.images.path} does not have")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{file}: names {twice!r} twice")
    return sorted(position[name] for name in names)


def read_names(file: Path) -> list[str]:
    """File names of a list, without folders and endings.

    Raises:
        DataError: It cannot be read, or is empty.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    firsts = [line.split()[0].replace("\\", "/") for line in lines if line.strip()]
    if not firsts:
        raise DataError(f"{file}: lists no images")
    names = [first.rsplit("/", 1)[-1] for first in firsts]
    endings = (".jpg", ".jpeg", ".png")
    return [
        (os.path.splitext(n)[0] if n.lower().endswith(endings) else n).removesuffix("_leftImg8bit")
        for n in names
    ]


def _layout(root: Path, split: str, whole: bool) -> str | None:
    def has(*names: str) -> bool:
        return all((root / name).is_dir() for name in names)

    maps = has("SegmentationClass") or has("SegmentationClassAug")
    if maps and (has("ImageSets/Segmentation") or has("sets")):
        return "voc"
    if has("leftImg8bit", "gtFine"):
        return "cityscapes"
    if has("images", "annotations") and (has("annotations/training") or has("annotations/validation")):
        return "ade20k"
    if any(has(place) for place in ("train2017", "val2017", "images/train2017", "images/val2017")):
        return "coco-stuff"
    return "label-maps" if find_maps(root, split, whole=whole) is not None else None


def _find_root(path: Path, split: str, *, whole: bool) -> tuple[Path, str]:
    """The folder with a known layout: this one, or the only one in it or in one of its folders."""
    level = [path]
    for _ in range(3):
        found = [(root, layout) for root in level if (layout := _layout(root, split, whole)) is not None]
        if len(found) == 1:
            return found[0]
        if found:
            roots = ", ".join(str(root) for root, _ in found)
            raise DataError(f"{path}: holds {counted(len(found), 'data set')}; name one of {roots}")
        level = [child for root in level for child in sorted(root.iterdir()) if child.is_dir()][:100]
    raise DataError(
        f"{path}: holds no pixel labels of the split {split!r} in a known layout: VOC (JPEGImages, "
        f"SegmentationClass, ImageSets/Segmentation), ADE20K (images/training, annotations/training), "
        f"Cityscapes (leftImg8bit, gtFine), COCO-Stuff (train2017 and its maps), or label maps (SPLIT and "
        f"SPLITannot; images/SPLIT and labels/SPLIT)"
    )


def _folder(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root}: has no folder {' or '.join(names)}")


def _open_voc(root: Path, split: str, part: str) -> SegmentedImages:
    lists = _folder(root, "ImageSets/Segmentation", "sets")
    split = split or next(
        (s for s in (f"{part}aug", part, "default") if (lists / f"{s}.txt").is_file()), part
    )
    chosen = lists / f"{split}.txt"
    if not chosen.is_file():
        there = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
        raise DataError(f"{chosen}: no such file; splits that are there: {there}")
    images, names = _folder(root, "JPEGImages", "images"), read_names(chosen)
    maps = [root / "SegmentationClass", root / "SegmentationClassAug"]
    if "aug" in split:
        maps.reverse()
    there_is = [(folder, set(os.listdir(folder))) for folder in maps if folder.is_dir()]
    endings = {os.path.splitext(name)[0]: name for name in sorted(os.listdir(images))}

    def map_of(name: str) -> str:
        folder = next((f for f, files in there_is if f"{name}.png" in files), there_is[0][0])
        return str(folder / f"{name}.png")

    files = [(str(images / endings.get(name, f"{name}.jpg")), map_of(name)) for name in names]
    found = of_voc(root, files)
    return SegmentedImages(found, "voc" if found.classes == list(VOC_CLASSES) else "label-maps")


def _open_cityscapes(root: Path, split: str) -> SegmentedImages:
    images, maps = _folder(root, f"leftImg8bit/{split}"), _folder(root, f"gtFine/{split}")
    paths = sorted(images.glob("*/*_leftImg8bit.png"))
    if not paths:
        raise DataError(f"{images}: holds no images (CITY/*_leftImg8bit.png)")
    files = [
        (str(p), str(maps / p.parent.name / p.name.replace("_leftImg8bit", "_gtFine_labelIds")))
        for p in paths
    ]
    # 255 is the license plate's -1 in 8 bits.
    lookup = _lookup({value: k for k, value in enumerate(_CITYSCAPES.values())}, (*range(34), 255))
    values = "0 to 33 and 255 (Cityscapes' labelIds)"
    found = LabelledImages(
        str(root), LABEL_MAPS, list(_CITYSCAPES), files=files, lookup=lookup, values=values
    )
    return SegmentedImages(found, "cityscapes")


def _open_coco(root: Path, split: str, target: str) -> SegmentedImages:
    if target not in SUPER_CLASSES:
        raise OdisError(f"target {target!r} must be one of {', '.join(TARGETS)}")
    split = {"train": "train2017", "val": "val2017"}.get(split, split)
    images = _folder(root, f"images/{split}", split)
    known = [(root / place.format(split), shift) for place, shift in _COCO_MAPS]
    maps, shift = next(((m, s) for m, s in known if m.is_dir()), (None, 0))
    if maps is None:
        raise DataError(
            f"{root}: has no maps of COCO-Stuff for {split}: stuffthingmaps_trainval2017/{split} or "
            f"annotations/stuff_annotations/stuff_{split}_pixelmaps; for its objects, make an index"
        )
    if not shift and target != "stuff":
        raise DataError(f"{maps}: has no things; --target {target} needs stuffthingmaps_trainval2017/{split}")
    names = sorted(name for name in os.listdir(images) if name.lower().endswith((".jpg", ".jpeg", ".png")))
    if not names:
        raise DataError(f"{images}: holds no images")
    files = [(str(images / name), str(maps / f"{os.path.splitext(name)[0]}.png")) for name in names]
    classes = SUPER_CLASSES[target]
    of_value = {i - shift: k for k, ids in enumerate(classes.values()) for i in ids}
    ignored = (*range(182), 255) if shift else (0, *range(92, 184))
    said = "0 to 181 and 255 (stuffthingmaps)" if shift else "0 and 92 to 183 (stuff pixelmaps)"
    found = LabelledImages(
        str(root), LABEL_MAPS, list(classes), files=files, lookup=_lookup(of_value, ignored), values=said
    )
    return SegmentedImages(found, "coco-stuff")


def _lookup(labels: dict[int, int], ignored: Sequence[int]) -> np.ndarray:
    """int32 (256,): the label of each stored value."""
    lookup = np.full(256, REFUSED, dtype=np.int32)
    lookup[list(ignored)] = IGNORE
    lookup[list(labels)] = list(labels.values())
    return lookup
