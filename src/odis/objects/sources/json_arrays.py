"""The arrays of a JSON object, read a window at a time: an annotation file of any size costs the memory of
one window.

`{"images": [...], "annotations": [...], ...}` is COCO's form. A window of text is cut behind a `}` that a
comma and a `{` follow, and decoded as an array of its own; that it can be decoded proves that the cut was
between two entries of the array, since anywhere else brackets or quotes would be left open. Where it cannot,
entries are decoded one by one.

Windows are decoded by orjson, three times as fast as the standard decoder. What the two do not read alike -
whole numbers of more than 64 bits, NaN, half of a surrogate pair - is left to the standard one, which also
says what is wrong with a file.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import orjson

from odis.errors import DataError

WINDOW = 2 * 2**20
"""Bytes read at a time."""

LARGEST = 64 * 2**20
"""Characters an entry of an array, or a value that is no array, may have."""

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""How a file in UTF-16 begins, as Windows' shell writes one."""

_BETWEEN = re.compile(r"\}[ \t\n\r]*,[ \t\n\r]*\{")

_SPACE = re.compile(r"[ \t\n\r]*")

_DELIMITERS = (",", "]", "}", ":")

_AFTER_A_COMMA = "Expecting value"  # an array that has none is told apart before its entries are asked for

_KINDS = {"{": "an object", '"': "text", "n": "null", "t": "true", "f": "false"}

_TRIES = 64  # places looked at for a cut; beyond these, entries are decoded one by one

_DECODER = json.JSONDecoder()

_DIGITS = bytes(48 if 48 <= c < 58 else 32 for c in range(256))  # every digit becomes 0, all else a space

_LONG = b"0" * 19  # the shortest whole number that 64 bits may not hold; orjson would make a float of it


def read_arrays(
    path: str | Path, names: Collection[str], others: dict[str, str] | None = None
) -> Iterator[tuple[str, list[Any]]]:
    """Name and entries of the arrays called `names`, in the order of the file, some entries at a time; an
    empty array comes once.

    Whatever else the object has is passed over. A file that holds no object has none of them.

    Args:
        path: The file, in UTF-8, or in UTF-16 with a byte order mark.
        names: Of arrays; a value of such a name that is no array is passed over.
        others: Filled with those names whose values are no arrays, and what they are (`an object`, `null`).

    Raises:
        DataError: The file cannot be read, is no JSON, or has one of the names twice or an entry of more than
            `LARGEST` characters.
    """
    try:
        with open(path, "rb") as file:
            yield from _arrays(_Text(file), names, {} if others is None else others)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except RecursionError as error:
        raise DataError(f"{path}: cannot be read (lists or objects in each other, too deep)") from error


class _Text:
    """The part of a file that is looked at: `text` from `at` on has been read and not yet passed."""

    def __init__(self, file: BufferedReader) -> None:
        coding = "utf-16" if file.peek(2)[:2] in UTF_16 else "utf-8-sig"
        self._file, self._decode = file, codecs.getincrementaldecoder(coding)().decode
        self.text, self.at, self.ended = "", 0, False
        self._before = 0  # characters of the file that came before `text`

    @property
    def passed(self) -> int:
        """Characters of the file that lie behind."""
        return self._before + self.at

    def more(self, least: int) -> None:
        """Read until there are `least` characters, or the file ends."""
        length = len(self.text) - self.at
        if length >= least or self.ended:
            return
        parts = [self.text[self.at :]]
        self._before, self.at = self.passed, 0
        while length < least and not self.ended:
            block = self._file.read(WINDOW)
            self.ended = not block
            parts.append(self._decode(block, final=self.ended))
            length += len(parts[-1])
        self.text = "".join(parts)

    def next(self) -> str:
        """The next character that is no space, not passed; empty at the end of the file."""
        while True:
            self.more(1)
            self.at = _space(self.text, self.at)
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]

    def take(self, allowed: str) -> str:
        """Pass over the next character that is no space; it must be one of those allowed."""
        found = self.next()
        if not found or found not in allowed:
            raise ValueError(f"Expecting {' or '.join(map(repr, allowed))} at {self.place(self.at)}")
        self.at += 1
        return found

    def value(self) -> Any:
        """Pass over a value, and the spaces behind it."""
        self.next()
        size = min(WINDOW, LARGEST)
        while True:
            self.more(size)
            last = self.ended or size >= LARGEST
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if last:
                    raise self.wrong(error.msg, error.pos) from None
            else:
                end = _space(self.text, end)
                if self.text[end : end + 1] in _DELIMITERS or (self.ended and end == len(self.text)):
                    self.at = end
                    return value
                if last:
                    raise self.wrong("Expecting ',' delimiter", end)
                # Anything else may be the rest of a number that the window cuts in two.
            size = min(4 * size, LARGEST)

    def wrong(self, what: str, at: int) -> ValueError:
        """What the decoder found at a position of `text`."""
        limit = "" if self.ended else f"; or an entry has more than {LARGEST:,} characters"
        return ValueError(f"{what.removesuffix(' at')} at {self.place(at)}{limit}")

    def place(self, at: int) -> str:
        """Where in the file a position of `text` is."""
        return f"character {self._before + at}" + (
            ", where the file ends" if self.ended and at >= len(self.text) else ""
        )


def _space(text: str, at: int) -> int:
    """The first position from `at` on that is no space."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _arrays(text: _Text, names: Collection[str], others: dict[str, str]) -> Iterator[tuple[str, list[Any]]]:
    first = text.next()
    if not first:
        raise ValueError("is empty")
    if first != "{":
        return
    text.at += 1
    met: set[str] = set()
    closed = text.next() == "}"
    if closed:
        text.at += 1
    while not closed:
        if text.next() != '"':
            raise text.wrong("Expecting property name enclosed in double quotes", text.at)
        name = text.value()
        text.take(":")
        if name in met:
            raise ValueError(f"has {name} twice")
        if name in names:
            met.add(name)
        kind = text.next()
        if name in names and kind != "[":
            others[name] = _KINDS.get(kind, "a number")
        if kind == "[":
            text.at += 1
            for entries in _entries(text):
                if name in names:
                    yield name, entries
        else:
            text.value()
        closed = text.take(",}") == "}"
    if text.next():
        raise ValueError(f"Extra data at {text.place(text.at)}")


def _entries(text: _Text) -> Iterator[list[Any]]:
    """The entries of an array whose bracket was passed, some at a time; the closing bracket is passed too."""
    if text.next() == "]":
        text.at += 1
        yield []
        return
    ended = False
    while not ended:
        text.more(WINDOW)
        entries, ended = _many(text) or _one_by_one(text)
        yield entries


def _many(text: _Text) -> tuple[list[Any], bool] | None:
    """As many entries as a window holds, and whether the array ends with them; None if that cannot be said at
    once.
    """
    window = text.text[text.at : text.at + WINDOW]
    if text.ended and len(window) == len(text.text) - text.at:
        try:
            entries, end = _DECODER.raw_decode(f"[{window}")
        except json.JSONDecodeError as error:
            raise text.wrong(error.msg, text.at + error.pos - 1) from None
        if not entries:
            raise text.wrong(_AFTER_A_COMMA, text.at)
        text.at += end - 1
        return entries, True
    cut = len(window)
    for _ in range(_TRIES):
        cut = window.rfind("}", 0, cut)
        between = _BETWEEN.match(window, cut) if cut >= 0 else None
        if between or cut < 0:
            break
    if not between:
        return None
    body = f"[{window[: cut + 1]}]"
    quick = _quickly(body)
    if quick:
        text.at += between.end() - 1
        return quick, False
    try:
        entries, end = _DECODER.raw_decode(body)
    except json.JSONDecodeError:
        return None
    if not entries:
        raise ValueError(f"{_AFTER_A_COMMA} at {text.place(text.at)}")
    whole = end == len(body)  # else the array ended before the cut, at its own bracket
    text.at += between.end() - 1 if whole else end - 1
    return entries, not whole


def _quickly(body: str) -> list[Any] | None:
    """The entries of an array that is all of `body`, as the standard decoder reads them; None if only that
    one knows.
    """
    data = body.encode()
    if _LONG in data.translate(_DIGITS):
        return None
    try:
        entries: list[Any] = orjson.loads(data)
        return entries
    except orjson.JSONDecodeError:
        return None


def _one_by_one(text: _Text) -> tuple[list[Any], bool]:
    """CacheTable until few characters of the window are left, and whether the array ends with them."""
    entries = []
    until = text.passed + WINDOW - WINDOW // 8
    while True:
        entries.append(text.value())
        if text.take(",]") == "]":
            return entries, True
        if text.passed >= until:
            return entries, False
