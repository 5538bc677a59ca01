"""Label maps of one's own, and of smaller data sets such as CamVid: where they lie, and their classes.

Images and maps of a split lie in `SPLIT` and `SPLITannot` (CamVid), `images/SPLIT` and `labels/SPLIT`,
`SPLIT/images` and `SPLIT/labels`, or all in `images` and `labels`, with a list `SPLIT.txt` or without. For
`labels` the folder may be called `masks`, `annotations` or `gt`. A map has its image's name, or that and an
ending such as `_mask`.

Classes are those of `class_names.txt` (a name a line, from value 0), of `labelmap.txt` (`name:r,g,b::` a
line, as CVAT writes it; maps may hold the colours), of CamVid, or else the values that occur.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from odis.errors import DataError
from odis.evaluation.label_maps import IGNORE, LABEL_MAPS, REFUSED, LabelledImages
from odis.objects.images import quiet_pillow

CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    "unlabelled",
)  # fmt: skip
"""CamVid's eleven classes, as SegNet's authors released them; the last is no class."""

CLASS_NAMES, LABEL_MAP = "class_names.txt", "labelmap.txt"

_NO_CLASS = re.compile(r"[_ ]*(void|ignored?|unlabell?ed|unknown)[_ ]*", re.IGNORECASE)
_LABEL_FOLDERS = ("labels", "masks", "annotations", "gt")
_IMAGES, _MAPS = (
    (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"),
    (".png", ".bmp", ".tif", ".tiff"),
)
_ENDINGS = ("", "_mask", "_label", "_labels", "_gt", "_L", "_labelIds")


@dataclass(frozen=True, slots=True)
class MapFolders:
    """Where the images and maps of a split are.

    Args:
        images: Folder of the images.
        maps: Folder of their maps.
        listed: A list of the images that take part; None for all.
    """

    images: Path
    maps: Path
    listed: Path | None = None


def find_maps(root: Path, split: str, *, whole: bool) -> MapFolders | None:
    """Images and maps of a split below a folder; None if there are none.

    Args:
        root: The folder.
        split: Name of the split.
        whole: Take a data set without splits as a whole.
    """
    pairs = [(split, f"{split}{ending}") for ending in ("annot", "_annot", "_labels", "_masks")]
    pairs += [(f"images/{split}", f"{name}/{split}") for name in _LABEL_FOLDERS]
    pairs += [(f"{split}/images", f"{split}/{name}") for name in _LABEL_FOLDERS]
    for images, maps in pairs:
        if (root / images).is_dir() and (root / maps).is_dir():
            return MapFolders(root / images, root / maps)
    flat = [("images", name) for name in _LABEL_FOLDERS]
    flat += [("JPEGImages", name) for name in ("SegmentationClassPNG", "SegmentationClass")]
    for images, maps in flat:
        if (root / images).is_dir() and (root / maps).is_dir():
            listed = next(
                (f for f in (root / f"{split}.txt", root / "splits" / f"{split}.txt") if f.is_file()), None
            )
            if listed is not None or whole:
                return MapFolders(root / images, root / maps, listed)
    return None


@dataclass(frozen=True, slots=True)
class ClassNames:
    """Class names by the value or colour that stands for them.

    Args:
        names: By value, from 0; those that name no class are ignored.
        colours: Of each value, if the list has them.
    """

    names: list[str]
    colours: list[tuple[int, int, int]]

    def open(self, root: Path, files: list[tuple[str, str]], ignore: Sequence[int]) -> LabelledImages:
        """Label maps whose values or colours are those of this list.

        Args:
            root: To name it in messages.
            files: Paths of each image and its label map.
            ignore: Values that are no class, besides 255.
        """
        used = [
            v for v, name in enumerate(self.names) if not _NO_CLASS.fullmatch(name) and v not in set(ignore)
        ]
        lookup = np.full(256, REFUSED, dtype=np.int32)
        lookup[[255, *(v for v in ignore if 0 <= v < 256), *range(len(self.names))]] = IGNORE
        lookup[used] = range(len(used))
        values = f"0 to {len(self.names) - 1} and 255, the lines of its list of classes"
        classes = [self.names[v] for v in used]
        if not classes:
            raise DataError(f"{root}: its list of classes names no class")
        if not self.colours:
            return LabelledImages(str(root), LABEL_MAPS, classes, files=files, lookup=lookup, values=values)
        coloured = {
            _code(np.array(colour, np.int32)).item(): int(lookup[v]) for v, colour in enumerate(self.colours)
        }
        found = ColourMaps(str(root), LABEL_MAPS, classes, files=files, lookup=lookup, values=values)
        found.coloured = coloured
        return found


class ColourMaps(LabelledImages):
    """Label maps of three channels, whose colours stand for classes; those of one channel are read too.

    Attributes:
        coloured: Label of each colour, as `256 * (256 * red + green) + blue`.
    """

    coloured: dict[int, int]

    def _read_map(self, path: str) -> np.ndarray:
        try:
            with quiet_pillow(), Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB")) if image.mode in ("RGB", "RGBA") else None
        except Exception as error:  # decoders raise almost anything on bad bytes
            raise DataError(f"{path}: cannot be decoded ({str(error) or type(error).__name__})") from error
        if pixels is None:
            return LabelledImages._read_map(self, path)
        found, place = np.unique(_code(pixels.astype(np.int32)), return_inverse=True)
        foreign = [c for c in found.tolist() if c not in self.coloured]
        if foreign:
            colour = f"{foreign[0] >> 16},{foreign[0] >> 8 & 255},{foreign[0] & 255}"
            raise DataError(f"{path}: has the colour {colour}, which {LABEL_MAP} does not list")
        labels = np.array([self.coloured[c] for c in found.tolist()], np.int32)
        return labels[place].reshape(pixels.shape[:2])


def _code(pixels: np.ndarray) -> np.ndarray:
    """int (..., 3) -> (...): a colour as one number."""
    coded: np.ndarray = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    return coded


def read_class_list(*folders: Path) -> ClassNames | None:
    """The class list of the first of some folders that has one; None if none has.

    Raises:
        DataError: It cannot be read, names no class, more than 255, or one twice.
    """
    for folder in folders:
        for name in (LABEL_MAP, CLASS_NAMES):
            if (folder / name).is_file():
                return _read_class_list(folder / name)
    return None


def _read_class_list(path: Path) -> ClassNames:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if path.name == CLASS_NAMES:
        names, colours = lines, []
    else:
        fields = [line.split(":") for line in lines if not line.startswith("#")]
        names = [field[0].strip() for field in fields]
        colours = [_colour(field[1]) if len(field) > 1 else None for field in fields]
    if not 1 <= len(names) <= 255:
        raise DataError(f"{path}: names {len(names)} classes; a label map has from 1 to 255")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: names {next(n for n in names if names.count(n) > 1)!r} twice")
    known = [colour for colour in colours if colour is not None]
    if known and (len(known) < len(names) or len(set(known)) < len(names)):
        raise DataError(f"{path}: some classes have no colour, or two have the same")
    return ClassNames(names, known)


def _colour(text: str) -> tuple[int, int, int] | None:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 3 and all(part.isdecimal() and int(part) < 256 for part in parts):
        red, green, blue = map(int, parts)
        return red, green, blue
    return None


def open_plain(
    root: Path, folders: MapFolders, ignore: Sequence[int], names: Sequence[str] = ()
) -> LabelledImages:
    """The images of two folders that belong together, and their classes.

    Args:
        root: Where a list of classes may be.
        folders: See `find_maps`.
        ignore: Values that are no class, besides 255.
        names: Of the images that take part; by default all.

    Raises:
        DataError: No images, or no map that can be read.
    """
    images = {
        os.path.splitext(name)[0]: name
        for name in sorted(os.listdir(folders.images))
        if name.lower().endswith(_IMAGES) and not name.startswith(".")
    }
    chosen = list(names) if names else list(images)
    if not chosen:
        raise DataError(f"{folders.images}: holds no images")
    maps = {name: True for name in os.listdir(folders.maps) if name.lower().endswith(_MAPS)}
    files = [
        (str(folders.images / images.get(name, f"{name}.jpg")), str(folders.maps / _map_of(name, maps)))
        for name in chosen
    ]
    found = read_class_list(root, folders.maps, folders.maps.parent)
    if found is not None:
        return found.open(root, files, ignore)
    values = _values(root, files)
    if "camvid" in str(root.absolute()).lower() and max(values) < len(CAMVID):
        return ClassNames(list(CAMVID), []).open(root, files, ignore)
    numbered = [f"class {value}" for value in range(max(values) + 1)]
    lookup = np.full(256, REFUSED, dtype=np.int32)
    used = [v for v in range(max(values) + 1) if v not in set(ignore)]
    lookup[[255, *(v for v in ignore if 0 <= v < 256)]] = IGNORE
    lookup[used] = range(len(used))
    said = f"0 to {max(values)} and 255, those of the first maps; {CLASS_NAMES} names the classes"
    return LabelledImages(
        str(root), LABEL_MAPS, [numbered[v] for v in used], files=files, lookup=lookup, values=said
    )


def _map_of(name: str, maps: dict[str, bool]) -> str:
    return next((f"{name}{e}{m}" for e in _ENDINGS for m in _MAPS if f"{name}{e}{m}" in maps), f"{name}.png")


def _values(root: Path, files: Sequence[tuple[str, str]]) -> set[int]:
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
