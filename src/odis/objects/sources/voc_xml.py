"""One annotation in the XML of Pascal VOC, which ImageNet uses too: parsed without expanding or fetching
anything.

Whatever declares a DOCTYPE or an ENTITY is refused before the parser sees it: an annotation needs neither,
and a few hundred bytes of them can grow to gigabytes. Only UTF-8 is read, so that no other encoding hides
such a declaration.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from odis.errors import DataError
from odis.types import Box

MOST_BYTES = 16 * 2**20  # an annotation has a few thousand

_DECLARATION = re.compile(r"<!(DOCTYPE|ENTITY)", re.IGNORECASE)

_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Item:
    """One annotated object as it is written: its class and the four numbers of its box, or what is wrong with
    it.
    """

    what: str  # what it is called in messages
    name: str = ""
    box: Box = (
        0.0,
        0.0,
        0.0,
        0.0,
    )  # xmin, ymin, xmax, ymax; where pixels are counted from is the data set's affair
    problem: str = ""


def parse(path: str | Path) -> Element:
    """The `annotation` element of an XML file.

    Raises:
        DataError: The file is missing, empty, too large, not UTF-8, not XML, something else, or declares a
            DOCTYPE or ENTITY.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(content) > MOST_BYTES:
        raise DataError(f"{path}: is larger than {MOST_BYTES:,} bytes; an annotation has a few thousand")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start})") from error
    if not text.strip():
        raise DataError(f"{path}: is empty")
    if "\0" in text:  # the parser would take it for UTF-16, in which the pattern below finds nothing
        raise DataError(f"{path}: is not UTF-8 (contains NUL characters)")
    if found := _DECLARATION.search(text):
        raise DataError(f"{path}: contains <!{found[1].upper()}, which no annotation needs; it is not parsed")
    try:
        annotation = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: is not XML ({error})") from error
    if annotation.tag != "annotation":
        raise DataError(f"{path}: its outermost tag is {short(annotation.tag)}, must be annotation")
    return annotation


def stated_size(annotation: Element) -> tuple[int, int]:
    """`(width, height)` in pixels that the annotation was made for.

    Raises:
        DataError: There is none, or it is no size.
    """
    size = _child(annotation, "size")
    width, height = (_number(size, tag) for tag in ("width", "height"))
    for tag, value in (("width", width), ("height", height)):
        if not (value.is_integer() and value >= 1):
            raise DataError(f"<{tag}> is {value:g}, must be a whole number of pixels from 1")
    return int(width), int(height)


def filename(annotation: Element) -> str:
    """The image file that the annotation names; empty if it names none. Any text at all: check it before it
    becomes a path.
    """
    return (annotation.findtext("filename") or "").strip()


def items(annotation: Element, path: str | Path) -> list[Item]:
    """The objects in their order. Body parts (`part`, with a box of their own) are inside of objects and are
    none themselves.
    """
    found = []
    for k, element in enumerate(annotation.findall("object"), start=1):
        what, name = f"{path}, object {k}", ""
        try:
            name = _text(element, "name")
            box = _child(element, "bndbox")
            numbers = _number(box, "xmin"), _number(box, "ymin"), _number(box, "xmax"), _number(box, "ymax")
        except DataError as error:
            found.append(Item(what, name, problem=str(error)))
        else:
            found.append(Item(what, name, numbers))
    return found


def box_of(words: Sequence[str]) -> Box:
    """Four numbers as they are written.

    Raises:
        DataError: They are not four, or not numbers.
    """
    try:
        xmin, ymin, xmax, ymax = map(to_number, words)
    except ValueError as error:
        raise DataError(f"box is {short(' '.join(words))}, must be four numbers of pixels") from error
    return xmin, ymin, xmax, ymax


def to_number(text: str) -> float:
    """A number of pixels in decimal notation, which Python's underscores are not; NaN is let through.

    Raises:
        ValueError: It is no number, or larger than any image: the index would store it as infinite.
    """
    value = float(text)
    if "_" in text or abs(value) >= 2**31:
        raise ValueError(text)
    return value


def leads_out(name: str) -> bool:
    """Whether a name from a file is anything but a path downwards: absolute, with `..`, a backslash, a drive
    letter, or empty.
    """
    parts = name.split("/")
    return (
        "\\" in name
        or "\0" in name
        or _DRIVE.match(name) is not None
        or any(part in ("", ".", "..") for part in parts)
    )


def short(text: str) -> str:
    """Text from a file as one quoted line."""
    shown = repr(text)
    return shown if len(shown) <= 60 else f"{shown[:56]}...{shown[-1]}"


def _child(element: Element, tag: str) -> Element:
    found = element.findall(tag)
    if len(found) != 1:
        raise DataError(f"has {len(found) or 'no'} <{tag}>, must have one")
    return found[0]


def _text(element: Element, tag: str) -> str:
    text = (_child(element, tag).text or "").strip()
    if not text:
        raise DataError(f"<{tag}> is empty")
    return text


def _number(element: Element, tag: str) -> float:
    text = _text(element, tag)
    try:
        return to_number(text)
    except ValueError as error:
        raise DataError(f"<{tag}> is {short(text)}, must be a number of pixels") from error
