"""Smaller copies of large images, made when these are first read.

A JPEG decoder has to go through all that a file holds, whatever the scale: of 24 megapixels that alone takes
longer than all that is done to make views of them. So the image, shrunk as far as any view of it allows, is
kept in a folder, and read from there in every later epoch.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import secrets
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from odis.config.training import ViewsConfig
from odis.data.pixels.decode import LARGE, Decoded
from odis.data.pixels.scaled import load_scaled
from odis.errors import ConfigError, DataError, OdisWarning
from odis.machine.files import written_whole
from odis.objects.index import ObjectIndex

_LOOKED_AT = 50  # images of an index
_LARGE_SHRINK = (
    4  # of a photograph of 5 megapixels, with the usual views, which is read in a quarter of the time then
)
_QUALITY = 95  # of JPEG, with colours at full resolution
_OFFSET = struct.Struct("<2d")  # `Decoded.offset`, behind the end of the JPEG, where decoders do not look


def guaranteed_shrink(width: int, height: int, views: ViewsConfig) -> int:
    """The largest power of two by which `decode.needed_shrink` will let an image be shrunk, whatever crops
    are drawn of it.

    Args:
        width: Image width in pixels.
        height: Image height in pixels.
        views: Sizes, counts, scales and shapes of the views.
    """
    if width * height < LARGE:
        return 1
    narrow, wide = views.ratio
    spare = math.inf
    for count, size, scale in (
        (views.global_views, views.global_size, views.global_scale),
        (views.local_views, views.local_size, views.local_scale),
    ):
        if count:
            by_area = (
                math.sqrt(scale[0] * width * height * min(narrow, 1 / wide)) - 1
            )  # less than a pixel is lost to rounding
            by_shape = (
                min(width, height) * min(1.0, wide, 1 / narrow) - 1
            )  # of the central crop of an image that is too long
            spare = min(spare, min(by_area, by_shape) / size)
    return 1 << (int(spare).bit_length() - 1) if spare >= 2 else 1


def are_large(index: ObjectIndex, views: ViewsConfig) -> bool:
    """Whether most of some fifty images of an index are photographs that copies would keep at a quarter of
    their sides or less.
    """
    found = []
    for row in np.linspace(0, len(index) - 1, min(len(index), _LOOKED_AT)).astype(int).tolist():
        with contextlib.suppress(DataError):  # the loader will say what is wrong with it
            image = index[row]
            found.append(guaranteed_shrink(image.width, image.height, views) >= _LARGE_SHRINK)
    return bool(found) and sum(found) > len(found) / 2


class DiskCache:
    """A folder of shrunk images. What is read does not depend on which of them it holds already: new ones are
    read as old ones are.

    Several processes, and several runs, may share it. A file that has changed since it was copied is copied
    anew.

    Args:
        folder: The folder; it is made if need be.

    Raises:
        ConfigError: It cannot be made or written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._warned = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(probe := self.folder / f".{secrets.token_hex(4)}", b"")
            probe.unlink()
        except (OSError, DataError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(
                f"loader.copies: {folder} must be a folder that can be written to ({why})"
            ) from error

    def load(self, path: str | Path, size: tuple[int, int], shrink: int) -> Decoded:
        """`decode.decode` of a large image, from its copy; the copy is made if there is none.

        Args:
            path: The image file.
            size: `(width, height)` at full size that its objects were made for.
            shrink: 2, 4, 8, ..., from `guaranteed_shrink`.

        Raises:
            DataError: Naming the file: missing, empty, truncated, not an image, of another size.
        """
        file = self._file(path, size, shrink)
        if file is not None:
            try:
                return _decoded(file.read_bytes(), size, shrink)
            except (OSError, RuntimeError, ValueError, struct.error):
                pass  # there is none, or none that can be used
        scaled = load_scaled(path, size, shrink)
        jpeg = io.BytesIO()
        scaled.image.save(jpeg, "JPEG", quality=_QUALITY, subsampling=0)
        data = jpeg.getvalue() + _OFFSET.pack(*scaled.offset)
        if file is not None:
            self._keep(file, data)
        return _decoded(data, size, shrink)

    def _file(self, path: str | Path, size: Sequence[int], shrink: int) -> Path | None:
        """Where the copy of this file, as it is now, is; None if there is no such file, which decoding it
        says better.
        """
        try:
            now = os.stat(path)
        except OSError:
            return None
        what = (os.path.abspath(path), now.st_size, now.st_mtime_ns, *size, shrink, _QUALITY)
        name = hashlib.sha256("\0".join(map(str, what)).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.jpg"

    def _keep(self, file: Path, data: bytes) -> None:
        try:
            self._write(file, data)
        except DataError as error:  # a full disk must not end a run: images are shrunk anew each time then
            if not self._warned:
                warnings.warn(f"{error}; training goes on without new copies", OdisWarning, stacklevel=2)
                self._warned = True

    def _write(self, file: Path, data: bytes) -> None:
        """No other process ever reads half of it; what a power cut leaves of it is made again."""
        with written_whole(file, cache=True) as beside:
            beside.write_bytes(data)


def _decoded(data: bytes, size: tuple[int, int], shrink: int) -> Decoded:
    x, y = _OFFSET.unpack(data[-_OFFSET.size :])
    pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    expected = tuple(-(-side // shrink) for side in size[::-1])
    if tuple(pixels.shape[1:]) != expected:
        raise ValueError(f"is {tuple(pixels.shape[1:])}, must be {expected}")
    return Decoded(pixels, shrink, (x, y))
