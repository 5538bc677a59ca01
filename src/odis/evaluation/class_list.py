"""Label maps whose classes are those of a list beside them, `class_names.txt` or `labelmap.txt`: each line a
value, and maybe a colour.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from odis.config.wording import counted
from odis.errors import DataError
from odis.evaluation.label_maps import IGNORE, LABEL_MAPS, REFUSED, LabelledImages
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.sources.label_list import LABEL_MAP, find_list_file, read_lines

_NO_CLASS = re.compile(r"[_ ]*(void|ignored?|unlabell?ed|unknown)[_ ]*", re.IGNORECASE)
_BACKGROUND = re.compile(r"[_ ]*(background|bg)[_ ]*", re.IGNORECASE)


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
        of_none = (k for k, name in enumerate(classes) if _BACKGROUND.fullmatch(name))
        background = next(of_none, None)
        if not self.colours:
            return LabelledImages(
                str(root),
                LABEL_MAPS,
                classes,
                files=files,
                lookup=lookup,
                values=values,
                background=background,
            )
        coloured = {
            _code(np.array(colour, np.int32)).item(): int(lookup[v]) for v, colour in enumerate(self.colours)
        }
        found = ColourMaps(
            str(root),
            LABEL_MAPS,
            classes,
            files=files,
            lookup=lookup,
            values=values,
            background=background,
        )
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
    path = find_list_file(*folders)
    if path is None:
        return None
    lines = read_lines(path)
    names, colours = [one.name for one in lines], [one.colour for one in lines]
    if not 1 <= len(names) <= 255:
        raise DataError(f"{path}: names {counted(len(names), 'class')}; a label map has from 1 to 255")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: names {next(n for n in names if names.count(n) > 1)!r} twice")
    known = [colour for colour in colours if colour is not None]
    if known and (len(known) < len(names) or len(set(known)) < len(names)):
        raise DataError(f"{path}: some classes have no colour, or two have the same")
    return ClassNames(names, known)
