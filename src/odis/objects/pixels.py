"""Pixels of any image, in as many channels as are wanted: uint8 (height, width, C)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from odis.config.pixels import RGB, PixelFormat
from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.decoding.kinds import is_deep, reader_of
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.decoding.raw import RawImage, stretched, to_pixels
from odis.objects.decoding.source import Source
from odis.objects.images import (
    load_by_pillow,
    load_image,
    opened,
    read_by,
    reason_of,
    turn_of,
)
from odis.objects.storage.address import is_elsewhere
from odis.objects.storage.reading import read_bytes

# What Pillow gives as the file has it; other modes are made RGB.
_AS_STORED = {"1", "L", "LA", "RGB", "RGBA", "F", "I"}
_ALPHA = {"LA", "RGBA"}


def load_pixels(
    path: str | Path,
    expected_size: tuple[int, int] | None = None,
    form: PixelFormat = RGB,
    data: bytes | None = None,
) -> np.ndarray:
    """The whole image, uint8 (height, width, C), turned as a viewer shows it.

    In 8-bit RGB these are the pixels of `images.load_image`.

    Args:
        path: The image file, or its address elsewhere (see `storage`).
        expected_size: As for `load_image`.
        form: Channels, and the ranges of numbers.
        data: The file's content, if it has been read.

    Raises:
        DataError: As `load_image`; or it has another number of channels, or needs ranges that are not stated.
    """
    if form == RGB:
        return np.array(load_image(path, expected_size, data))
    raw = load_raw(path, expected_size, data, ranges_stated=form.ranges is not None)
    return to_pixels(raw, form, str(path))


def load_raw(
    path: str | Path,
    expected_size: tuple[int, int] | None = None,
    data: bytes | None = None,
    *,
    ranges_stated: bool = False,
) -> RawImage:
    """An image's numbers as its file has them: all channels, at their depth.

    Args:
        path: The image file, or its address elsewhere.
        expected_size: As for `images.load_image`.
        data: The file's content, if it has been read.
        ranges_stated: The caller has ranges of its own; a file's own window (DICOM) is not looked at.

    Raises:
        DataError: As `images.load_image`.
    """
    if data is None and is_elsewhere(path):
        data = read_bytes(str(path))
    source = Source(str(path), data)
    if (reader := reader_of(source, whole=True)) is not None:
        return read_by(reader, source, expected_size, ranges_stated)
    return _raw_by_pillow(path, source, expected_size)


def _raw_by_pillow(path: str | Path, source: Source, expected_size: tuple[int, int] | None) -> RawImage:
    with opened(path, source.data) as image:
        try:
            orientation = turn_of(image, path, expected_size)
            if image.format == "PNG" and is_deep(image) and len(image.getbands()) > 1:
                raw = _deep_png(source)
            else:
                with quiet_pillow():
                    image.load()
                raw = raw_of_pillow(image)
        except DataError:
            raise
        # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ... on bad bytes
        except Exception as error:
            raise DataError(f"{path}: cannot be decoded ({reason_of(error)})") from error
    return RawImage(turned(raw.values, orientation), raw.order, raw.alpha)


def raw_of_pillow(image: Image.Image) -> RawImage:
    """The numbers of an image that Pillow holds."""
    mode = image.mode
    if not (mode in _AS_STORED or mode.startswith("I;16")):
        image = image.convert("LA" if mode == "La" else "RGB")
    values = np.array(image)
    if mode == "I" and values.size and values.min() >= 0 and values.max() <= 65535:
        values = values.astype(np.uint16)  # what Pillow makes of 16-bit grey in some formats
    values = values[..., None] if values.ndim == 2 else values
    colour = values.shape[2] >= 3
    return RawImage(values, "colour" if colour else "bands", alpha=mode in _ALPHA or mode == "La")


def _deep_png(source: Source) -> RawImage:
    """Colours of 16 bits, of which Pillow gives the upper 8."""
    import torch
    from torchvision.io import ImageReadMode, decode_image

    content = Path(source.path).read_bytes() if source.data is None else source.data
    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    values = decode_image(encoded, ImageReadMode.UNCHANGED).permute(1, 2, 0).contiguous().numpy()
    return RawImage(values, "colour" if values.shape[2] >= 3 else "bands", alpha=values.shape[2] in (2, 4))


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Numbers (H, W, C) by EXIF's orientation, as `Image.transpose` turns pixels."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


@dataclass(frozen=True, slots=True)
class ShownImage:
    """An image as people look at it, and where a network reads it from.

    Args:
        image: 8-bit RGB.
        path: Its file or address; None for an image that is in no file.
        stretched: `image` is not what a network of 8-bit RGB reads: the file has other channels or more bits.
    """

    image: Image.Image
    path: str | None = None
    stretched: bool = False

    def pixels(self, form: PixelFormat) -> np.ndarray:
        """What a network of a format reads: uint8 (C, height, width).

        Raises:
            DataError: The file cannot be read so; or there is none, and the format is not 8-bit RGB.
        """
        if form == RGB and not self.stretched:
            return np.array(self.image).transpose(2, 0, 1)
        if self.path is None:
            channels = counted(form.channels, "channel")
            raise DataError(f"this picture is in 8-bit colours, but the network reads images of {channels}")
        return load_pixels(self.path, self.image.size, form).transpose(2, 0, 1)


def load_picture(path: str | Path, expected_size: tuple[int, int] | None = None) -> ShownImage:
    """An image as people look at it. Of other depths and channels the first three channels, or in grey the
    first, are stretched from their 1st to their 99th percentile.

    Raises:
        DataError: As `images.load_image`.
    """
    source = Source(str(path), read_bytes(str(path)) if is_elsewhere(path) else None)
    if (reader := reader_of(source, whole=True)) is not None:
        raw = read_by(reader, source, expected_size)
    else:
        with opened(path, source.data) as image:
            plain = image.mode != "F" and not image.mode.startswith("I")
        if plain:
            return ShownImage(load_by_pillow(path, expected_size, source.data), str(path))
        raw = _raw_by_pillow(path, source, expected_size)
    return ShownImage(Image.fromarray(stretched(raw)), str(path), stretched=True)
