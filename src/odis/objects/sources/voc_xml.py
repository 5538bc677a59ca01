"""One annotation in the XML of Pascal VOC, which ImageNet uses too: parsed without expanding or fetching
anything.

The encoding that a file declares is honoured, and one that its first bytes show. The file is decoded here,
and the parser gets the text: whatever declares a DOCTYPE or an ENTITY is refused in every encoding before the
parser sees it. An annotation needs neither, and a few hundred bytes of them can grow to gigabytes.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from odis.errors import DataError
from odis.objects.sources.text import UNKNOWN, decode, short
from odis.types import Box

MOST_BYTES = 16 * 2**20  # an annotation has a few thousand

_DECLARATION = re.compile(r"<!(DOCTYPE|ENTITY)", re.IGNORECASE)

_HEAD = re.compile(r"\s*<\?xml\b[^>]*?\?>")

_DECLARED = re.compile(r"""\bencoding\s*=\s*["']\s*([A-Za-z][\w.-]{0,30})\s*["']""", re.ASCII)

_ENCODING = re.compile(
    r"ascii|iso8859-\d+|cp\d+|gbk|gb2312|gb18030|big5|big5hkscs|euc_(jp|kr)|shift_jis|johab|koi8-[rut]|"
    r"mac-\w+|tis-620|hz|iso2022_\w+"
)
"""Names that Python gives the encodings of texts in bytes; some others would take it hours."""

_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Item:
    """One annotated object as it is written: its class and the four numbers of its box, or what is wrong with
    it.
    """

    what: str  # what it is called in messages
    name: str = ""  # empty if it has none, or none that can be read
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
        DataError: The file is missing, empty, too large, not in the encoding that it declares, not XML,
            something else, or declares a DOCTYPE or ENTITY.
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
    text = _decoded(content, path)
    if not text.strip():
        raise DataError(f"{path}: is empty")
    if found := _DECLARATION.search(text):
        raise DataError(f"{path}: contains <!{found[1].upper()}, which no annotation needs; it is not parsed")
    try:
        annotation = ElementTree.fromstring(_HEAD.sub("", text, count=1).strip())
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: is not XML ({error})") from error
    if annotation.tag != "annotation":
        raise DataError(f"{path}: its outermost tag is {short(str(annotation.tag))}, must be annotation")
    return annotation


def _decoded(content: bytes, path: str | Path) -> str:
    """The text of an XML file. Without a declaration, bytes that are not UTF-8 become `UNKNOWN`: they may be
    in names that nobody needs.
    """
    found = decode(content)
    if found.encoding not in ("utf-8", "gb18030"):
        return found.text  # a byte order mark, or every second byte a zero, says more than a declaration
    plain = content.decode("utf-8", "replace")
    head = _HEAD.match(plain)
    declared = _DECLARED.search(head[0]) if head else None
    if declared is None:
        return plain
    try:
        encoding = codecs.lookup(declared[1]).name
    except LookupError as error:
        raise DataError(f"{path}: declares the encoding {short(declared[1])}, which is not known") from error
    if encoding == "utf-8" or encoding.startswith(("utf-16", "utf-32")):
        return plain  # it is not in the latter, as its first bytes say
    if not _ENCODING.fullmatch(encoding):
        raise DataError(f"{path}: declares the encoding {short(declared[1])}, which is none of a text")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not in {declared[1]}, as it declares ({error.reason} at byte {error.start})"
        ) from error


def stated_size(annotation: Element) -> tuple[int, int] | None:
    """`(width, height)` in pixels that the annotation was made for; None if it states none, or what is none:
    tools write 0, -1 or nothing for an image that they could not measure.
    """
    try:
        size = _child(annotation, "size")
        width, height = (_number(size, tag) for tag in ("width", "height"))
    except DataError:
        return None
    sound = all(value.is_integer() and value >= 1 for value in (width, height))
    return (int(width), int(height)) if sound else None


def filename(annotation: Element) -> str:
    """The image file that the annotation names; empty if it names none. Any text at all: check it before it
    becomes a path.
    """
    return (annotation.findtext("filename") or "").strip()


def items(annotation: Element, path: str | Path) -> list[Item]:
    """The objects in their order; one whose class cannot be read has no name. Body parts (`part`, with a box
    of their own) are inside of objects and are none themselves.
    """
    found = []
    for k, element in enumerate(annotation.findall("object"), start=1):
        what, name = f"{path}, object {k}", ""
        with suppress(DataError):
            name = _text(element, "name")
        if UNKNOWN in name:
            name = ""
        try:
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
