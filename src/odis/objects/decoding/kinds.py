"""Which reader an image needs: Pillow, or one of those beside it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from odis.errors import DataError, UnreachableError
from odis.objects.decoding import dicom_files, geotiff_files, slide_tiles, tiff_files
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.decoding.raw import RawImage
from odis.objects.decoding.source import Check, Source
from odis.objects.storage.address import parse_tile

HEIF = frozenset({".heic", ".heif", ".hif"})
TIFF = frozenset({".tif", ".tiff"})
SLIDES = slide_tiles.SUFFIXES
"""Of slides, which are read as tiles."""

NEEDS = {
    **dict.fromkeys(HEIF, ("pillow_heif", "heif")),
    **dict.fromkeys(dicom_files.SUFFIXES, ("pydicom", "dicom")),
}
"""Package and extra behind endings that are read with one."""

_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_DESCRIPTION, _SAMPLE_FORMAT, _SIGNED = 270, 339, 2  # tags of TIFF, and a value of the last
_CUT = {"RGBX"}  # Pillow's mode that leaves a channel out


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads a kind of file. What its package raises becomes a `DataError` that names the file."""

    _size: Callable[[Source], tuple[int, int]]
    _read: Callable[..., RawImage]
    _unread: Callable[[Source], list[tuple[str, int]]] = lambda source: []
    takes_ranges: bool = False

    def size(self, source: Source) -> tuple[int, int]:
        """`(width, height)` from the header."""
        found: tuple[int, int] = _guarded(source, self._size)
        return found

    def read(self, source: Source, check: Check, ranges_stated: bool = False) -> RawImage:
        """The whole image, if `check` does not refuse its size."""
        more = (ranges_stated,) if self.takes_ranges else ()
        found: RawImage = _guarded(source, self._read, check, *more)
        return found

    def unread(self, source: Source) -> list[tuple[str, int]]:
        """Kinds of what is not read of it, and how many there are of each."""
        found: list[tuple[str, int]] = _guarded(source, self._unread)
        return found


_DICOM = Reader(dicom_files.size_of, dicom_files.read, dicom_files.unread, takes_ranges=True)
_TILE = Reader(slide_tiles.size_of, slide_tiles.read)
_TIFF = Reader(tiff_files.size_of, tiff_files.read, tiff_files.unread)
_GEOTIFF = Reader(geotiff_files.size_of, geotiff_files.read)


def reader_of(source: Source, whole: bool = False) -> Reader | None:
    """The reader of an image; None if it is Pillow's to read.

    Args:
        source: The image.
        whole: All channels at their depth are wanted. Else Pillow is asked for whatever it can open.
    """
    if parse_tile(source.path) is not None:
        return _TILE
    suffix = os.path.splitext(source.path)[1].lower()
    if suffix in dicom_files.SUFFIXES or (source.data is not None and source.data[128:132] == b"DICM"):
        return _DICOM
    if suffix in TIFF or (source.data is not None and source.data[:4] in _TIFF_MARKS):
        return _tiff_reader(source, whole)
    return None


def _tiff_reader(source: Source, whole: bool) -> Reader | None:
    """None for a file of another kind, and one that Pillow reads as it is stored."""
    try:
        with open(source.path, "rb") if source.data is None else io.BytesIO(source.data) as file:
            return _reader_of_tiff(source, file, whole)
    except OSError:
        return None


def _reader_of_tiff(source: Source, file: BinaryIO, whole: bool) -> Reader | None:
    if file.read(4) not in _TIFF_MARKS:
        return None
    file.seek(0)
    try:
        with quiet_pillow(), Image.open(file) as image:
            tags: Any = image.tag_v2  # type: ignore[attr-defined]
            signed = image.mode in ("L", "LA") and _SIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1))
            if not whole and not signed:
                return None
            if any(tag in tags for tag in geotiff_files.TAGS):
                return _GEOTIFF
            if signed:  # which Pillow takes for 8 bits without a sign
                return _TIFF
            deep = is_deep(image) and len(image.getbands()) > 1
            cut = image.mode in _CUT or int(tags.get(tiff_files.SAMPLES, 1)) > len(image.getbands())
            told = tiff_files.MAX_SAMPLE in tags or "<OME" in str(tags.get(_DESCRIPTION, ""))
            return _TIFF if cut or deep or told or getattr(image, "n_frames", 1) > 1 else None
    except Image.DecompressionBombError:
        return None
    except Exception:  # of a kind that Pillow does not know, or broken: then Pillow is to say so
        file.seek(0)
        return _behind_pillow(source, file)


def _behind_pillow(source: Source, opened: BinaryIO) -> Reader | None:
    """The reader of a TIFF that Pillow does not open; None if it is no whole TIFF."""
    if find_spec("tifffile") is None:
        return _TIFF  # which says what to install
    try:
        with tiff_files.opened(source, opened) as file:
            tags = {int(tag.code) for tag in file.pages.first.tags}
    except Exception:
        return None
    return _GEOTIFF if tags & geotiff_files.TAGS else _TIFF


def is_deep(image: Image.Image) -> bool:
    """Whether an open image has 16 bits a number, which are read as 8 where no range is stated."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return True
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _guarded(source: Source, function: Callable[..., Any], *more: Any) -> Any:
    try:
        if source.data is None and "#" not in source.path and os.path.getsize(source.path) == 0:
            raise DataError(f"{source.path}: is empty (0 bytes)")
        return function(source, *more)
    except (DataError, UnreachableError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{source.path}: no such file") from error
    except MemoryError as error:
        raise DataError(f"{source.path}: needs more memory than there is") from error
    except Exception as error:  # on bad bytes, packages raise almost anything
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"{source.path}: cannot be decoded ({why})") from error


@cache
def register_heif() -> bool:
    """Let Pillow open HEIC, by pillow-heif; false if that is not installed.

    It turns pixels as their container says, and its images have no other orientation.
    """
    if find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def installed(suffix: str) -> bool:
    """Whether the package behind an ending is installed; true for those without one."""
    return suffix not in NEEDS or find_spec(NEEDS[suffix][0]) is not None
