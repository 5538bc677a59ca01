"""Size and orientation of JPEG and PNG files, from their first bytes: what Pillow says of them, in a fifth of
the time.

Only what is beyond doubt is answered here: files whose segments up to the image data are of the usual kinds,
whole, and such that Pillow reads them without complaint. Of any other file nothing is said, and Pillow is to
be asked, which also knows what is wrong with it.

The layout of JPEG files is that of ITU-T T.81, annex B; of PNG files, that of the W3C's PNG specification,
sections 5 and 11; of EXIF in JPEG files, that of CIPA DC-008, section 4.5.
"""

from __future__ import annotations

import os
from struct import Struct
from zlib import crc32

from PIL import Image

_FLAGS = (
    os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
)  # a named pipe must not keep us waiting

_FIRST = 8192  # bytes read at once: enough for most files, and hardly more costly than fewer

_MORE = 32768  # and where it is not, since profiles and previews are long

_MOST = 2**20  # bytes of segments before the image data; more is odd

MOST_SIDE = 2**20
"""Pixels of a side. Resizing keeps a few numbers for each: a line of 90 million took gigabytes."""

_SIZES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended and progressive frames, Huffman coded

_APPLICATIONS = frozenset(
    {0xE0, 0xE2, 0xED, 0xEE}
)  # JFIF, colour profile or several images, Photoshop, Adobe

_PASSED = frozenset(
    {0xC4, 0xDD, 0xFE, *range(0xE3, 0xED), 0xEF}
)  # Huffman tables, restart interval, comment, other applications

_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"

_PNG = b"\x89PNG\r\n\x1a\n"

_PNG_PIXELS = {0: {1, 2, 4, 8}, 2: {8}, 3: {1, 2, 4, 8}, 4: {8}, 6: {8}}  # colour type: bits

_PNG_LENGTHS = {
    b"gAMA": 4,
    b"cHRM": 32,
    b"sRGB": 1,
    b"pHYs": 9,
    b"PLTE": None,
    b"bKGD": None,
    b"sBIT": None,
    b"tIME": None,
    b"tEXt": None,
}

_SEGMENT, _FRAME = Struct(">BBH"), Struct(">BHHB")  # mark, marker, length; bits, height, width, layers

_CHUNK, _IHDR = Struct(">L4s"), Struct(">LLBBBB")

_ORIENTATION, _X_RESOLUTION, _RESOLUTION_UNIT = 0x0112, 0x011A, 0x0128

_SHORT, _RATIONAL = (3, 1), (5, 1)  # one number of these types

_UNITS = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)  # bytes of a number of each of TIFF's types

# byte order: the place of the first directory, its length, an entry (tag, type, count, value or its place)
_ORDERS = {
    b"II*\0": (Struct("<L"), Struct("<H"), Struct("<HHLL"), 0),
    b"MM\0*": (Struct(">L"), Struct(">H"), Struct(">HHLL"), 16),
}


def read_header(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """`(width, height, orientation)` of an image: pixels as they are stored, and EXIF's 1..8, 1 (upright) if
    it says nothing else.

    None where only Pillow can say: other formats, anything unusual, and files that are missing, damaged or
    not to be read.
    """
    try:
        file = os.open(path, _FLAGS)
    except (OSError, ValueError):
        return None
    try:
        return _header(os.read(file, _FIRST), file)
    except OSError:
        return None
    finally:
        os.close(file)


def header_of(data: bytes) -> tuple[int, int, int] | None:
    """`read_header` of an image whose whole file is `data`."""
    return _header(data, None)


def _header(data: bytes, file: int | None) -> tuple[int, int, int] | None:
    """`data` is the beginning of `file`, or all there is."""
    found = (
        _jpeg(data, file)
        if data.startswith(b"\xff\xd8\xff")
        else _png(data[:_FIRST])
        if data.startswith(_PNG)
        else None
    )
    if found is None or not found[0] or not found[1]:
        return None
    most = Image.MAX_IMAGE_PIXELS  # beyond this, Pillow warns or refuses
    plain = (most is None or found[0] * found[1] <= most) and max(found[:2]) <= MOST_SIDE
    return found if plain else None


def _jpeg(data: bytes, file: int | None) -> tuple[int, int, int] | None:
    """`data` is the beginning of `file`, which is read on from there as needed."""
    size = None
    exif, turned_elsewhere = b"", False
    at, length = 2, len(data)
    while True:
        if at + 4 > length:
            data = _longer(data, at + 4, file)
            length = len(data)
            if at + 4 > length:
                return None
        mark, marker, count = _SEGMENT.unpack_from(data, at)
        if mark != 0xFF:
            return None
        if marker == 0xFF:  # a segment may have any number of these before it
            at += 1
            continue
        start = at + 4
        at += 2 + count
        if at > length:
            data = _longer(data, at, file)
            length = len(data)
        if not start <= at <= length:
            return None
        if marker in _PASSED:
            continue
        if marker in _SIZES:
            if size is not None or at < start + _FRAME.size:
                return None
            bits, height, width, layers = _FRAME.unpack_from(data, start)
            if bits != 8 or layers not in (1, 3) or at != start + _FRAME.size + 3 * layers:
                return None
            size = width, height
        elif marker == 0xDB:
            if not _are_tables(data[start:at]):
                return None
        elif marker == 0xE1 and data.startswith(_EXIF, start):
            if exif:
                return None
            exif = data[start + len(_EXIF) : at] or b"none"
        elif marker == 0xE1:
            turned_elsewhere |= (
                data.startswith(_XMP, start) and data.find(b"tiff:Orientation", start, at) >= 0
            )
        elif marker in _APPLICATIONS:
            if not _is_sound(marker, data[start:at]):
                return None
        elif marker == 0xDA:
            orientation = _orientation(exif) if exif else 0
            if size is None or orientation is None or (turned_elsewhere and not orientation):
                return None
            return *size, orientation if 1 <= orientation <= 8 else 1
        else:
            return None


def _are_tables(segment: bytes) -> bool:
    """Whether these are whole quantisation tables of 8 bits a number."""
    return len(segment) % 65 == 0 and max(segment[::65], default=0) < 16


def _is_sound(marker: int, segment: bytes) -> bool:
    """Whether Pillow finds all that it looks for in an application's segment."""
    if marker == 0xE0:
        return len(segment) >= 7 or not segment.startswith(b"JFIF")
    if marker == 0xE2:  # one of several images in a file; or a piece of a colour profile, which is numbered
        return not segment.startswith(b"MPF\0") and (
            len(segment) >= 14 or not segment.startswith(b"ICC_PROFILE\0")
        )
    if marker == 0xED:  # a resource that ends where its name should begin
        return segment[-6:-2] != b"8BIM"
    return len(segment) >= 7 or not segment.startswith(b"Adobe")


def _longer(data: bytes, length: int, file: int | None) -> bytes:
    """The beginning of a file, of `length` bytes or more if it has them."""
    if file is None:
        return data
    return data + os.read(file, max(length - len(data), _MORE)) if length <= _MOST else data


def _orientation(tiff: bytes) -> int | None:
    """What EXIF says of the orientation, 0 if nothing; None if its directory is not beyond doubt."""
    if len(tiff) < 8 or tiff[:4] not in _ORDERS:
        return None
    place, count, entry, shift = _ORDERS[tiff[:4]]
    (start,) = place.unpack_from(tiff, 4)
    if start < 8 or start + 6 > len(tiff):
        return None
    start += 2
    end = start + 12 * count.unpack_from(tiff, start - 2)[0]
    if end + 4 > len(tiff):
        return None
    found, total = None, 0
    for tag, kind, number, value in entry.iter_unpack(tiff[start:end]):
        size = number * _UNITS[kind] if 0 < kind < 13 else -1
        if size < 0:
            return None
        if size > 4:
            total += size
            if value + size > len(tiff) or total > len(tiff):
                return None
        if tag == _ORIENTATION:
            if found is not None or (kind, number) != _SHORT:
                return None
            found = value >> shift & 0xFFFF
        elif (tag == _X_RESOLUTION and (kind, number) != _RATIONAL) or (
            tag == _RESOLUTION_UNIT and (kind, number) != _SHORT
        ):
            return None  # Pillow computes with these as it opens the file
    return found or 0


def _png(data: bytes) -> tuple[int, int, int] | None:
    """Of a file whose first `IDAT` chunk begins within `data`, and which has no chunks but common ones before
    it.
    """
    size = None
    at = len(_PNG)
    while at + 8 <= len(data):
        length, name = _CHUNK.unpack_from(data, at)
        start, end = at + 8, at + 8 + length
        if name == b"IDAT":
            return None if size is None else (*size, 1)
        if end + 4 > len(data) or crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return None
        if name == b"IHDR":
            if size or length != 13:
                return None
            width, height, bits, colours, _, filtering = _IHDR.unpack_from(data, start)
            if bits not in _PNG_PIXELS.get(colours, ()) or filtering:
                return None  # of 16 bits too: Pillow is to be asked what it makes of them
            size = width, height
        elif (
            size is None
            or name not in _PNG_LENGTHS
            or _PNG_LENGTHS[name] not in (None, length)
            or data.startswith(b"exif", start)
        ):
            return None
        at = end + 4
    return None
