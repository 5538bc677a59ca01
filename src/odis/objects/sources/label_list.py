"""The list of classes that lies with a data set: `labelmap.txt` as CVAT and Datumaro write it, and
`class_names.txt` as labelme's converter does.

A line of `labelmap.txt` is `name:r,g,b:parts:actions`; its place among the lines, from 0, is the value that a
class has in a label map of one value a pixel, and `r,g,b` is its colour in one of colours. `class_names.txt`
has a name a line, and begins with that of the background.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.sources.text import UNKNOWN, distinct, read_text, short

LABEL_MAP, CLASS_NAMES = "labelmap.txt", "class_names.txt"

_BACKGROUND = re.compile(r"_*(background|bg|ignore|ignored|void|unlabell?ed)_*", re.IGNORECASE)

_COLOUR = re.compile(r"\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*", re.ASCII)

_MOST_LINES = 255  # values of an 8-bit map, less the one that is ignored


@dataclass(frozen=True, slots=True)
class LabelList:
    """Classes and what stands for each of them in label maps."""

    path: Path
    names: list[str]  # without the background
    values: dict[int, int]  # value in a map -> position in `names`
    colours: dict[tuple[int, int, int], int | None]  # -> position; None for the background
    begins_with_background: bool  # else it is not certain that the first line is value 0
    last: int  # value of the last line


@dataclass(frozen=True, slots=True)
class ListedClass:
    """One line of a list; its place among the lines, from 0, is the value that stands for it."""

    name: str
    colour: tuple[int, int, int] | None
    line: int  # number in the file, from 1


def find_list(*folders: Path | None) -> LabelList | None:
    """The list of classes in the first of some folders that has one; None if none has.

    Raises:
        DataError: It cannot be read.
    """
    path = find_list_file(*folders)
    return None if path is None else read_list(path)


def find_list_file(*folders: Path | None) -> Path | None:
    """The path of the list in the first of some folders that has one; None if none has."""
    for folder in folders:
        for name in (LABEL_MAP, CLASS_NAMES):
            if folder is not None and os.path.isfile(folder / name):
                return folder / name
    return None


def read_lines(path: Path) -> list[ListedClass]:
    """The lines of `labelmap.txt` or `class_names.txt`, the background among them.

    Raises:
        DataError: It cannot be read, or has a line that is none of its form.
    """
    try:
        lines = read_text(path).lines
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    found = []
    for number, line in lines:
        if path.name == LABEL_MAP and line.startswith("#"):
            continue
        if UNKNOWN in line:
            raise DataError(f"{path}: line {number} is not UTF-8; save the file as UTF-8")
        name, _, rest = line.partition(":") if path.name == LABEL_MAP else (line, "", "")
        name = name.strip()
        if not name:
            raise DataError(f"{path}: line {number} is {short(line)}, must be name:r,g,b:parts:actions")
        colour = _COLOUR.match(rest)
        shade = (int(colour[1]), int(colour[2]), int(colour[3])) if colour else None
        found.append(ListedClass(name, shade, number))
    return found


def read_list(path: Path) -> LabelList:
    """Read `labelmap.txt` or `class_names.txt`.

    Raises:
        DataError: It cannot be read, names no class, or has a line that is none of its form.
    """
    named: list[str] = []
    values: dict[int, int] = {}
    colours: dict[tuple[int, int, int], int | None] = {}
    first = False
    lines = read_lines(path)
    for value, one in enumerate(lines):
        background = _BACKGROUND.fullmatch(one.name) is not None
        first = first or (value == 0 and background)
        position = None if background else len(named)
        if position is not None:
            named.append(one.name)
            values[value] = position
        if one.colour is not None and colours.setdefault(one.colour, position) != position:
            shade = ",".join(map(str, one.colour))
            raise DataError(f"{path}: line {one.line} has a colour of another class, {shade}")
    if not named or len(lines) > _MOST_LINES:
        raise DataError(
            f"{path}: names {counted(len(named), 'class')}; a label map has from 1 to {_MOST_LINES - 1}"
        )
    return LabelList(path, distinct(named, list(values)), values, colours, first, len(lines) - 1)
