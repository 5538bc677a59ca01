"""Smaller copies of large photographs on disk, made when these are first read.

A JPEG decoder goes through the whole file whatever the scale, and for 24 megapixels that alone takes longer
than making the views. So an image is shrunk as far as every view allows, and read from that copy in later
epochs."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import struct
import warnings
import zlib
from pathlib import Path

import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from odis.config.pixels import RGB
from odis.config.training import ViewsConfig
from odis.data.pixels.decode import Decoded
from odis.data.pixels.request import ImageRequest
from odis.data.pixels.shrink import guaranteed_shrink
from odis.errors import ConfigError, DataError, OdisWarning
from odis.machine.files import written_whole
from odis.objects.storage.address import is_elsewhere
from odis.objects.storage.reading import state_of

_QUALITY = 95  # of JPEG, with colours at full resolution
_OFFSET = struct.Struct("<2d")  # `Decoded.offset`, behind the end of the JPEG, where decoders do not look


class DiskCache:
    """A folder of shrunk images. What is read does not depend on what the folder holds already: an image that
    is new to it goes through JPEG too.

    Several processes, and several runs, may share it. A file that has changed since it was copied is copied
    anew.

    Args:
        folder: The folder; it is made if need be.
        views: What bounds the size of copies, and the channels of images.

    Raises:
        ConfigError: The folder cannot be made or written to.
    """

    def __init__(self, folder: str | Path, views: ViewsConfig) -> None:
        self.folder, self._views = make_folder(folder), views
        self._warned = False

    def get(self, request: ImageRequest) -> Decoded | None:
        """The copy of an image, if there is one that can be used."""
        file = self._file(request) if self._takes(request) else None
        if file is None:
            return None
        try:
            return self._decoded(file.read_bytes(), request)
        except (OSError, RuntimeError, ValueError, struct.error, zlib.error):
            return None  # there is none, or a broken one, which is made anew

    def holds(self, request: ImageRequest) -> bool:
        """Whether there is a copy of the image; it is not opened."""
        file = self._file(request) if self._takes(request) else None
        return file is not None and file.is_file()

    def put(self, request: ImageRequest, image: Decoded) -> Decoded:
        """Make the copy of an image that is large enough to have one, and give what will be read from it."""
        if not self._takes(request):
            return image
        pixels = image.pixels.permute(1, 2, 0).contiguous().numpy()
        if self._views.pixels == RGB:
            jpeg = io.BytesIO()
            Image.fromarray(pixels).save(jpeg, "JPEG", quality=_QUALITY, subsampling=0)
            content = jpeg.getvalue()
        else:  # what channels hold is no photograph: nothing is lost of them
            content = zlib.compress(pixels.tobytes(), 1)
        data = content + _OFFSET.pack(*image.offset)
        if (file := self._file(request)) is not None:
            self._keep(file, data)
        return self._decoded(data, request)

    def _decoded(self, data: bytes, request: ImageRequest) -> Decoded:
        x, y = _OFFSET.unpack(data[-_OFFSET.size :])
        height, width = expected = tuple(-(-side // request.shrink) for side in request.size[::-1])
        if self._views.pixels == RGB:
            pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        else:
            content = bytearray(zlib.decompress(data[: -_OFFSET.size]))
            pixels = torch.frombuffer(content, dtype=torch.uint8)
            pixels = pixels.view(height, width, self._views.channels).permute(2, 0, 1)
        if tuple(pixels.shape[1:]) != expected:
            raise ValueError(f"is {tuple(pixels.shape[1:])}, must be {expected}")
        return Decoded(pixels, request.shrink, (x, y))

    def _takes(self, request: ImageRequest) -> bool:
        return 1 < request.shrink == guaranteed_shrink(*request.size, self._views)

    def _file(self, request: ImageRequest) -> Path | None:
        """Where the copy of the file as it is now is; None if there is no file."""
        if (state := state_of(request.path)) is None:
            return None
        path = request.path if is_elsewhere(request.path) else os.path.abspath(request.path)
        what: tuple[object, ...] = (path, *state, *request.size, request.shrink, _QUALITY)
        if self._views.pixels != RGB:
            what = (*what, self._views.pixels)
        name = hashlib.sha256("\0".join(map(str, what)).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.{'jpg' if self._views.pixels == RGB else 'zlib'}"

    def _keep(self, file: Path, data: bytes) -> None:
        try:
            _write(file, data)
        except DataError as error:  # a full disk must not end a run: images are then shrunk each time
            if not self._warned:
                warnings.warn(f"{error}; training goes on without new copies", OdisWarning, stacklevel=2)
                self._warned = True


def make_folder(folder: str | Path, setting: str = "loader.keep") -> Path:
    """Make the folder of a `DiskCache`, or of another setting.

    Raises:
        ConfigError: It cannot be made or written to.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _write(probe := path / f".{secrets.token_hex(4)}", b"")
        probe.unlink()
    except (OSError, DataError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{setting}: {folder} must be a folder that can be written to ({why})") from error
    return path


def _write(file: Path, data: bytes) -> None:
    """Write a copy. No other process ever reads half of it; what a power cut leaves is made anew."""
    with written_whole(file, cache=True) as beside:
        beside.write_bytes(data)
