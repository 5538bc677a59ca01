"""The pixels of the page: images of the index, by row and never by path, and pictures that were dropped in.

What the browser gets is always a JPEG that is made here: turned as a viewer shows it, without EXIF, and never
the bytes of a file.
"""

from __future__ import annotations

import io
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from odis.errors import DataError
from odis.explorer.refusal import RefusedError
from odis.objects.clean import UsableObjects, usable_objects
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.images import TRANSPOSE, orientation_of, reason_of, to_rgb
from odis.objects.index import ObjectIndex
from odis.objects.pixels import ShownImage, load_picture
from odis.types import ImageObjects, Object

UPLOAD_BYTES = 20 * 2**20
"""Bytes of a picture that is dropped in, at most."""

UPLOAD_PIXELS = 50_000_000
"""Its pixels, at most; the header tells, before anything is decoded."""

UPLOAD_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""What is decoded; SVG, which can hold scripts, and formats that few write are not."""

_UPLOADS = 8  # kept; the oldest goes first
_SIDE = 2048  # of an upload that is kept, at most
_DECODED = 100_000_000  # pixels of the images of the index that are kept decoded; the last one is in any case
_ENCODED = 64 * 2**20  # bytes of JPEGs that are kept
_THUMB, _CUT, _SHOWN = 240, 240, 1600  # longest sides


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """A picture that can be asked about."""

    name: str
    shown: ShownImage
    objects: UsableObjects  # of the index; none of an upload
    row: int | None  # of the index

    @property
    def image(self) -> Image.Image:
        """To look at: 8-bit RGB."""
        return self.shown.image

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.image.size


class PictureStore:
    """Pictures by row of the index or by the name that an upload was given. Several threads may use it.

    Args:
        index: Images and objects.
    """

    def __init__(self, index: ObjectIndex) -> None:
        self.index = index
        self._lock = threading.Lock()
        self._decoded: OrderedDict[int, ShownPicture] = OrderedDict()
        self._uploads: OrderedDict[str, ShownPicture] = OrderedDict()
        self._encoded: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._bytes = 0

    def of_index(self, row: int) -> ShownPicture:
        """The image of a row, with its usable objects.

        Raises:
            RefusedError: there is no such row.
            DataError: the image cannot be read.
        """
        with self._lock:
            if row in self._decoded:
                self._decoded.move_to_end(row)
                return self._decoded[row]
        found = self._read(row)
        with self._lock:
            self._decoded[row] = found
            kept = sum(one.image.width * one.image.height for one in self._decoded.values())
            while kept > _DECODED and len(self._decoded) > 1:
                _, oldest = self._decoded.popitem(last=False)
                kept -= oldest.image.width * oldest.image.height
        return found

    def _read(self, row: int) -> ShownPicture:
        item = self._item(row)
        image = load_picture(self.index.image_path(row), (item.width, item.height))
        return ShownPicture(
            self.index.image_name(row), image, usable_objects(item, len(self.index.classes)), row
        )

    def _item(self, row: int) -> ImageObjects:
        if not 0 <= row < len(self.index):
            raise RefusedError(404, f"there is no image {row}; the index has {len(self.index):,}")
        return self.index[row]

    def of_upload(self, name: str) -> ShownPicture:
        """A picture that was dropped in.

        Raises:
            RefusedError: it is not here, or not any more.
        """
        with self._lock:
            if name not in self._uploads:
                raise RefusedError(
                    404, "this picture is not here any more: the last few are kept, until the explorer ends"
                )
            self._uploads.move_to_end(name)
            return self._uploads[name]

    def keep_upload(self, content: bytes) -> str:
        """Decode a picture and keep it.

        Returns:
            Its name: random, so that no other page can guess it.

        Raises:
            RefusedError: it is too large, or no picture that can be read.
        """
        image = decode_upload(content)
        name = secrets.token_hex(8)
        whole = UsableObjects(ImageObjects(name, *image.size), [], {})
        with self._lock:
            self._uploads[name] = ShownPicture("picture dropped in", ShownImage(image), whole, None)
            while len(self._uploads) > _UPLOADS:
                self._uploads.popitem(last=False)
        return name

    def shown(self, row: int) -> bytes:
        """The image of a row, for the page."""
        return self._kept(("shown", row, 0), lambda: encoded(self.of_index(row).image, _SHOWN))

    def thumb(self, row: int) -> bytes:
        """The image of a row, for the gallery."""
        return self._kept(("thumb", row, 0), lambda: encoded(self._read(row).image, _THUMB))

    def cut_out(self, row: int, number: int) -> bytes:
        """An object of the index, by its place in the row, with a little room around its box.

        Raises:
            RefusedError: there is no such object.
        """

        def cut() -> bytes:
            picture = self._read(row)
            if number not in picture.objects.numbers:
                raise RefusedError(404, f"image {row} has no object {number} that can be used")
            item = picture.objects.objects[picture.objects.numbers.index(number)]
            return encoded(picture.image.crop(_around(item, picture.size)), _CUT)

        return self._kept(("cut", row, number), cut)

    def _kept(self, key: tuple[str, int, int], make: Callable[[], bytes]) -> bytes:
        with self._lock:
            if key in self._encoded:
                self._encoded.move_to_end(key)
                return self._encoded[key]
        made = make()
        with self._lock:
            if key not in self._encoded:
                self._encoded[key] = made
                self._bytes += len(made)
            while self._bytes > _ENCODED:
                self._bytes -= len(self._encoded.popitem(last=False)[1])
        return made


def decode_upload(content: bytes) -> Image.Image:
    """A picture that was dropped in, as RGB, turned as a viewer shows it, its longer side at most 2048.

    Raises:
        RefusedError: it is too large, or no picture that can be read.
    """
    if len(content) > UPLOAD_BYTES:
        raise RefusedError(413, f"the picture is larger than {UPLOAD_BYTES // 2**20} MiB")
    try:
        with quiet_pillow(), Image.open(io.BytesIO(content), formats=UPLOAD_FORMATS) as image:
            if image.width * image.height > UPLOAD_PIXELS:
                raise RefusedError(
                    413,
                    f"the picture has {image.width} x {image.height} pixels, and "
                    f"{UPLOAD_PIXELS // 10**6} megapixels are the most that are read",
                )
            turn = TRANSPOSE.get(orientation_of(image))
            image.load()
            rgb = to_rgb(image, "the picture")
    except RefusedError:
        raise
    except Image.DecompressionBombError as error:
        raise RefusedError(413, "the picture has too many pixels") from error
    except DataError as error:
        raise RefusedError(415, str(error)) from error
    except Exception as error:  # a broken file makes decoders raise almost anything
        kinds = ", ".join(UPLOAD_FORMATS)
        raise RefusedError(
            415, f"this is not a picture that can be read ({reason_of(error)}); {kinds} are"
        ) from error
    upright = rgb if turn is None else rgb.transpose(turn)
    upright.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return upright


def encoded(image: Image.Image, longest: int) -> bytes:
    """A JPEG of the image, its longer side at most `longest`."""
    if max(image.size) > longest:
        image = image.copy()
        image.thumbnail((longest, longest), Image.Resampling.BICUBIC)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=85)
    return written.getvalue()


def _around(item: Object, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box with a tenth of its longer side around it, in the image and at least a pixel."""
    x0, y0, x1, y1 = item.box
    room = 0.1 * max(x1 - x0, y1 - y0)
    left, top = (min(max(int(v - room), 0), side - 1) for v, side in zip((x0, y0), size))
    right, bottom = (min(int(v + room + 1), side) for v, side in zip((x1, y1), size))
    return left, top, max(right, left + 1), max(bottom, top + 1)
