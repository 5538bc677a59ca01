"""Text files beside images, as tools of many systems write them: with a byte order mark or without, with the
line ends of Windows, in UTF-16, in the two-byte code of China.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from odis.errors import DataError

MOST_BYTES = 2**28  # of a list or a label file; the largest published has a hundredth of it

UNKNOWN = "\ufffd"
"""Stands for bytes whose meaning is in doubt."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_HIGH = re.compile(rb"[\x80-\xff]+")

_PAIRS = re.compile(rb"(?:[\xa1-\xa9\xb0-\xf7][\xa1-\xfe])+")


@dataclass(frozen=True, slots=True)
class Text:
    """What a file says, `\\n` between its lines, and in which encoding. Bytes of no certain meaning have
    become `UNKNOWN`.
    """

    text: str
    encoding: str

    @property
    def lines(self) -> list[tuple[int, str]]:
        """Every line that is not blank, stripped, behind its number from 1."""
        split = enumerate(self.text.split("\n"), start=1)
        return [(number, text) for number, line in split if (text := line.strip())]


def decode(content: bytes) -> Text:
    """Text of which every byte is read that has one meaning only: UTF-8, UTF-16 and UTF-32 by their marks,
    UTF-16 by its zeros, GB 18030 where all that is not ASCII comes in the pairs of Chinese characters.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "")
    if not encoding and len(content) % 2 == 0:  # its first characters are ASCII, half of each a zero
        head = content[:4]
        encoding = "utf-16-le" if head and not any(head[1::2]) and all(head[::2]) else encoding
        encoding = "utf-16-be" if head and not any(head[::2]) and all(head[1::2]) else encoding
    for name in (encoding,) if encoding else ("utf-8", "gb18030"):
        if name == "gb18030" and not all(_PAIRS.fullmatch(run[0]) for run in _HIGH.finditer(content)):
            continue
        try:
            return Text(_joined(content.decode(name)), name)
        except UnicodeDecodeError:
            continue
    return Text(_joined(content.decode(encoding or "utf-8", "replace")), encoding or "utf-8")


def read_text(path: Path) -> Text:
    """The text of a file.

    Raises:
        DataError: It cannot be read, or is larger than any list.
        FileNotFoundError: There is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(content) > MOST_BYTES:
        raise DataError(f"{path}: is larger than {MOST_BYTES:,} bytes")
    return decode(content)


def read_names(path: Path) -> list[str]:
    """The names in a list of classes, one a line.

    Raises:
        DataError: It cannot be read, or a name has bytes whose meaning is in doubt.
    """
    try:
        found = read_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    for number, line in found.lines:
        if UNKNOWN in line:
            raise DataError(f"{path}: line {number} is not UTF-8; save the file as UTF-8")
    return [line for _, line in found.lines]


def _joined(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def distinct(names: list[str], numbers: list[object]) -> list[str]:
    """The names, with its number behind each that another class has too."""
    count: dict[str, int] = {}
    for name in names:
        count[name] = count.get(name, 0) + 1
    taken = {name for name in names if count[name] == 1}
    found = []
    for name, number in zip(names, numbers):
        shown = name if count[name] == 1 else f"{name} ({number})"
        while count[name] > 1 and shown in taken:
            shown = f"{shown}'"
        taken.add(shown)
        found.append(shown)
    return found


def class_order(name: str) -> tuple[bool, int, str]:
    """Numbers first, by their size, then names."""
    number = name.isascii() and name.isdecimal() and len(name) < 19
    return not number, int(name) if number else 0, name


def short(value: object) -> str:
    """A value from a file as one quoted line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
