"""Checksums inside the files that odis writes, where other readers of the format pass over them.

A CRC-32 of all other bytes: it finds every damage of up to 32 bits in a row, and of larger ones all but one
in four billion. A checkpoint has it as the comment of its zip archive, a safetensors file in its metadata, a
Parquet file between the row groups and the footer. A file without one, of an earlier version or of another
program, is taken as it is; but an archive's members have checksums of their own.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from odis.config.wording import counted
from odis.errors import DataError

Seal = Callable[[Path], tuple[int, bytes]]
"""Of a whole file: what to write into it, and where, so that it has its checksum."""

SAFETENSORS_KEY = "checksum"
UNSEALED = "crc32:00000000"
"""The metadata of a safetensors file, under `SAFETENSORS_KEY`, until it is sealed."""

_MARK = b"odis-crc32:"
_COMMENT = re.compile(rb"odis-crc32:([0-9a-f]{8})")
_BLOCK = re.compile(rb"odis-crc32:([0-9a-f]{8}):([0-9a-f]{8})")
_VALUE = re.compile(rb"crc32:([0-9a-f]{8})")
_COMMENT_SIZE, _BLOCK_SIZE = len(_MARK) + 8, len(_MARK) + 17
_LONGEST_HEADER = 100 * 10**6  # bytes; the format's own limit
_PIECE = 1 << 22
_TAIL = 1 << 20  # bytes at the end of a Parquet file in which a checksum is looked for


class DamagedError(DataError):
    """A file whose bytes are not those that were written."""


def reason(error: DataError, path: Path) -> str:
    """What is wrong with a file, without its name."""
    return str(error).removeprefix(f"{path}: ")


# --- zip archives: checkpoints


def seal_archive(path: Path) -> tuple[int, bytes]:
    """The seal of a zip archive without a comment."""
    size = path.stat().st_size
    length = _COMMENT_SIZE.to_bytes(2, "little")
    with path.open("rb") as file:
        crc = zlib.crc32(length, _crc(file, size - 2))
    return size - 2, length + _MARK + b"%08x" % crc


def verify_archive(path: Path) -> None:
    """Compare a zip archive with its checksum, or its members with theirs if it has none.

    Raises:
        DamagedError: They differ, it is no whole zip archive, or its members are compressed.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _COMMENT_SIZE))
        found = _COMMENT.fullmatch(file.read())
        if found is not None:
            file.seek(0)
            _compare(path, _crc(file, size - _COMMENT_SIZE), found[1])
    refuse_compressed(path)
    if found is not None:
        return
    try:
        with zipfile.ZipFile(path) as archive:
            broken = "its end" if archive.comment else archive.testzip()
    except Exception as error:  # damaged archives raise anything
        raise DamagedError(f"{path}: is damaged or not whole ({type(error).__name__})") from error
    if broken is not None:
        raise DamagedError(f"{path}: is damaged or not whole ({broken})")


def refuse_compressed(path: Path) -> None:
    """Refuse a zip archive with compressed members: torch writes none, and a megabyte of them can be
    gigabytes in memory. Something else than an archive is passed over.

    Raises:
        DamagedError: There is one, or a member is larger than the file.
        OSError: It cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except OSError:
        raise
    except Exception:  # whoever reads it says what is wrong
        return
    if any(one.compress_type != zipfile.ZIP_STORED for one in members):
        raise DamagedError(f"{path}: its members are compressed, and torch writes none that are")
    if sum(one.file_size for one in members) > path.stat().st_size:
        raise DamagedError(f"{path}: is damaged: its members are larger than the file")


# --- safetensors: models


def seal_safetensors(path: Path) -> tuple[int, bytes]:
    """The seal of a safetensors file whose metadata holds `UNSEALED`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(8 + int.from_bytes(file.read(8), "little"))
        at = 8 + header.index(f'"{UNSEALED}"'.encode()) + 1 + len("crc32:")
        file.seek(0)
        return at, b"%08x" % _crc(file, size)


def verify_safetensors(path: Path) -> None:
    """Compare a safetensors file with its checksum, if it has one.

    Raises:
        DamagedError: They differ.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(size - 8, _LONGEST_HEADER):
            raise DamagedError(
                f"{path}: is damaged or no safetensors file: its header has {counted(length, 'byte')}"
            )
        header = file.read(length)
        try:
            value = (json.loads(header).get("__metadata__") or {}).get(SAFETENSORS_KEY)
        except (ValueError, AttributeError, RecursionError) as error:
            raise DamagedError(
                f"{path}: is damaged or no safetensors file: its header is not JSON"
            ) from error
        places = list(_VALUE.finditer(header))
        if value is None and not places:
            return
        if not isinstance(value, str) or len(places) != 1 or places[0][0] != value.encode():
            raise DamagedError(f"{path}: is damaged: its checksum is no longer one")
        at = 8 + places[0].start(1)
        file.seek(0)
        crc = zlib.crc32(b"0" * 8, _crc(file, at))
        file.seek(8, 1)
        _compare(path, _crc(file, size - at - 8, crc), places[0][1])


# --- Parquet: indexes and features


def seal_parquet(path: Path) -> tuple[int, bytes]:
    """The seal of a Parquet file: the checksums of what is before and behind it, and what is behind it."""
    with path.open("rb") as file:
        start = _footer_start(path, file)
        file.seek(0)
        body, footer = _crc(file, start), file.read()
    return start, b"%s%08x:%08x" % (_MARK, body, zlib.crc32(footer)) + footer


def verify_parquet(path: Path, *, rows: bool = True) -> None:
    """Compare a Parquet file with its checksums, if it has them.

    Args:
        path: The file.
        rows: Read all of it; otherwise only the footer: schema, metadata, and where the rows are.

    Raises:
        DamagedError: They differ, or it is not whole.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        start = _footer_start(path, file) - _BLOCK_SIZE
        file.seek(max(0, file.seek(0, 2) - _TAIL))
        elsewhere = list(_BLOCK.finditer(file.read()))
        file.seek(max(0, start))
        block = file.read(_BLOCK_SIZE)
        if elsewhere and elsewhere[-1][0] != block:
            raise DamagedError(f"{path}: is damaged: its end does not say where the footer begins")
        if 2 * sum(a == b for a, b in zip(block, _MARK)) < len(_MARK):
            return
        found = _BLOCK.fullmatch(block)
        if found is None:
            raise DamagedError(f"{path}: is damaged: its checksum is no longer one")
        _compare(path, zlib.crc32(file.read()), found[2])
        if rows:
            file.seek(0)
            _compare(path, _crc(file, start), found[1])


def _footer_start(path: Path, file: BinaryIO) -> int:
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    start = size - 8 - int.from_bytes(tail[:4], "little")
    if size < 12 or tail[4:] != b"PAR1" or start < 4:
        raise DamagedError(f"{path}: is not a Parquet file that can be read (its end is damaged or missing)")
    return start


def crc_of(path: Path) -> int:
    """The CRC-32 of a file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return _crc(file, path.stat().st_size)


def _crc(file: BinaryIO, count: int, crc: int = 0) -> int:
    """Of the next `count` bytes, behind those of `crc`."""
    while count > 0 and (piece := file.read(min(count, _PIECE))):
        crc = zlib.crc32(piece, crc)
        count -= len(piece)
    return crc


def _compare(path: Path, crc: int, written: bytes) -> None:
    if crc != int(written, 16):
        raise DamagedError(f"{path}: is damaged: its checksum is {crc:08x}, written was {written.decode()}")
