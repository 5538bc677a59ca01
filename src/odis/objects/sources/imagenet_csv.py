"""Kaggle's `LOC_SPLIT_solution.csv`: the boxes of ImageNet, one line an image."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.clean import Skip, SkippedObject
from odis.objects.sources.text import short
from odis.objects.sources.voc_xml import Item, box_of, leads_out
from odis.types import Skipped

_COLUMNS = ["ImageId", "PredictionString"]


class SolutionTable:
    """Kaggle's CSV, searched by the name of an image and read line by line. Only hashes of names and
    positions of lines are held.
    """

    def __init__(self, path: Path, skip: Skip) -> None:
        """Look at every line once.

        Raises:
            DataError: The file cannot be read, or has other columns.
        """
        self.path = path
        self._file: BinaryIO | None = None
        self._held: tuple[int, str, list[Item]] | None = (
            None  # the line that was asked for last: it is asked for again at once
        )
        keys, starts = array("Q"), array("Q")
        try:
            with path.open("rb") as file:
                first = file.readline()
                _check_columns(first, path)
                at = len(first)
                for number, line in enumerate(file, start=2):
                    if line.strip():
                        try:
                            keys.append(_hash(_columns(line)[0]))
                            starts.append(at)
                        except DataError as error:
                            skip(SkippedObject(f"{path}, line {number}", str(error)))
                    at += len(line)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        order = np.argsort(np.array(keys, np.uint64), kind="stable")
        self._keys, self._starts = np.array(keys, np.uint64)[order], np.array(starts, np.uint64)[order]
        self._used = np.zeros(len(order), bool)
        for i in map(int, np.flatnonzero(self._keys[1:] == self._keys[:-1]) + 1):
            name, found = self._line(i)
            if name == self._line(i - 1)[0]:
                self._used[i] = True
                skip(Skipped(f"{path}, image {name}", "was listed before"))
                for item in found:
                    skip(SkippedObject(item.what, "its image was listed before"))
        self.close()

    def find(self, name: str) -> list[Item]:
        """The objects of an image, none if it is not listed."""
        i = self._find(name)
        return [] if i is None else self._line(i)[1]

    def use(self, name: str) -> None:
        """Say that there is an image of this name: it is no longer among the `unused`."""
        i = self._find(name)
        if i is not None:
            self._used[i] = True

    def unused(self) -> Iterator[tuple[str, list[Item]]]:
        """Name and objects of every image that is not used, in the order of the file."""
        left = np.flatnonzero(~self._used)
        return map(self._line, map(int, left[np.argsort(self._starts[left])]))

    def lines(self) -> Iterator[tuple[str, list[Item]]]:
        """Name and objects of every image."""
        yield from map(self._line, map(int, np.argsort(self._starts)))
        self.close()

    def close(self) -> None:
        """Let go of the file; it is opened again if another line is asked for."""
        if self._file is not None:
            self._file.close()

    def _find(self, name: str) -> int | None:
        """The position of an image's line, in the order of hashes; None if it is not listed."""
        key = np.uint64(_hash(name))
        i = int(np.searchsorted(self._keys, key))
        while i < len(self._keys) and self._keys[i] == key:
            if self._line(i)[0] == name:
                return i
            i += 1
        return None

    def _line(self, i: int) -> tuple[str, list[Item]]:
        if self._held is None or self._held[0] != i:
            try:
                if self._file is None or self._file.closed:
                    self._file = self.path.open("rb")
                self._file.seek(int(self._starts[i]))
                name, objects = _columns(self._file.readline())
            except (OSError, DataError) as error:
                raise DataError(f"{self.path}: changed while it was read ({error})") from error
            self._held = i, name, _items(f"{self.path}, image {name}", objects.split())
        return self._held[1:]


def _check_columns(line: bytes, path: Path) -> None:
    if not line:
        raise DataError(f"{path}: is empty")
    try:
        columns = next(csv.reader([line.decode("utf-8-sig")]), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is not CSV in UTF-8 ({error})") from error
    if [column.strip() for column in columns] != _COLUMNS:
        raise DataError(f"{path}: its columns are {short(','.join(columns))}, must be {','.join(_COLUMNS)}")


def _columns(line: bytes) -> tuple[str, str]:
    try:
        columns = next(csv.reader([line.decode("utf-8")]), [])
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 ({error.reason})") from error
    except csv.Error as error:
        raise DataError(f"is not CSV ({error})") from error
    if len(columns) != len(_COLUMNS):
        raise DataError(f"has {counted(len(columns), 'column')}, must have {','.join(_COLUMNS)}")
    name = columns[0].strip()
    if leads_out(name) or "/" in name:
        raise DataError(f"{short(name)} is not the name of an image")
    return name, columns[1]


def _items(what: str, words: list[str]) -> list[Item]:
    """The objects of a line: five words each."""
    if len(words) % 5:
        return [
            Item(
                what,
                words[0],
                problem=f"has {counted(len(words), 'word')}, must have five an object: its class and four "
                f"numbers",
            )
        ]
    found = []
    for k in range(0, len(words), 5):
        name = f"{what}, box {k // 5 + 1}"
        try:
            found.append(Item(name, words[k], box_of(words[k + 1 : k + 5])))
        except DataError as error:
            found.append(Item(name, words[k], problem=str(error)))
    return found


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
