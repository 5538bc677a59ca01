"""The pixels of label maps: a class or instance for each, as a value, a place in a palette, or a colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from odis.config.wording import counted
from odis.errors import DataError
from odis.objects.decoding.quiet import quiet_pillow
from odis.objects.sources.label_list import LabelList

IGNORED = 255
"""Value of pixels that VOC leaves out, between objects and where they are hard to tell."""

UNNAMED = 256
"""What is added to a value that no class has, so that it is none of theirs."""

_IGNORED_COLOUR = (224, 224, 192)  # of VOC, and of CVAT after it

_MAP_MODES = frozenset({"P", "L", "1", "I", "I;16", "RGB", "RGBA"})

_MOST_COLOURS = 1024  # of a map; a photo has more

_GREY = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)

SUFFIXES = frozenset({".png", ".bmp", ".gif", ".tif", ".tiff"})
"""Endings of files whose pixels are what was stored."""


def class_codes(path: Path, names: LabelList | None, known: int) -> np.ndarray:
    """What each pixel of a class map is: 0 if nothing, 1 + its class, or `UNNAMED` + a value that no class
    has; int16 (height, width).

    Args:
        path: The map.
        names: The list of classes that lies with it. Colours are looked up in it, also those of a palette if
            the list has them all; else a value is a line of it, from 0.
        known: Without a list: values 1 to `known` are classes.

    Raises:
        DataError: The map is missing or cannot be decoded, has colours without a list of colours, or values
            with a list that does not say which of them is 0.
    """
    stored, palette = _pixels(path)
    if palette is None and stored.ndim == 2 and stored.min() >= 0 and stored.max() < 256:
        palette = _GREY  # which a list may have as colours: 255,255,255
    if stored.ndim == 3 or (names is not None and names.colours and palette is not None):
        colours, packed = _colours(stored if palette is None else palette[stored], path)
        if names is None or not names.colours:
            raise DataError(
                f"{path}: has colours; a labelmap.txt beside the folders of the data set, with a line "
                f"name:r,g,b:: for each class, says what they mean"
            )
        if palette is None or all(colour in names.colours or _is_nothing(colour) for colour in colours):
            codes = [_code_of(colour, names.colours, k) for k, colour in enumerate(colours)]
            return _looked_up(colours, codes, packed)
    _check_values(path, stored)
    if names is not None and not names.begins_with_background:
        raise DataError(f"{names.path}: its first line must be the background, which is value 0 of {path}")
    lookup = np.arange(256, dtype=np.int16) + UNNAMED
    if names is None:
        lookup[1 : known + 1] = range(1, known + 1)
    else:
        lookup[: names.last + 1] = 0  # lines that are no class: the background, and what is ignored
        for value, position in names.values.items():
            lookup[value] = position + 1
    lookup[[0, IGNORED]] = 0
    return np.asarray(lookup[stored])


def instance_numbers(path: Path) -> np.ndarray:
    """The instance of each pixel, 0 if none; integers (height, width). Colours are numbered in their order.

    Raises:
        DataError: The map is missing or cannot be decoded, or has too many colours.
    """
    stored, _ = _pixels(path)
    if stored.ndim == 3:
        colours, packed = _colours(stored, path)
        numbers = [0 if _is_nothing(colour) else k + 1 for k, colour in enumerate(colours)]
        return _looked_up(colours, numbers, packed)
    _check_values(path, stored, most=65535)
    return np.where(stored == IGNORED, 0, stored)


def values_of(path: Path) -> tuple[set[int], bool]:
    """The values of a map besides 0, and whether its palette is VOC's.

    Raises:
        DataError: It cannot be decoded, or has colours.
    """
    stored, palette = _pixels(path)
    if stored.ndim == 3:
        raise DataError(f"{path}: has colours")
    _check_values(path, stored)
    same = palette is not None and np.array_equal(palette[:21], voc_palette()[:21])
    return set(np.flatnonzero(np.bincount(stored.ravel(), minlength=256)).tolist()) - {0}, bool(same)


def voc_palette() -> np.ndarray:
    """The colours of VOC's values, uint8 (256, 3): their bits are spread over red, green and blue."""
    values = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for k in range(8):
        for channel in range(3):
            colours[:, channel] |= (((values >> (3 * k + channel)) & 1) << (7 - k)).astype(np.uint8)
    return colours


def _pixels(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Values, integers (height, width), and the palette, uint8 (256, 3), if there is one; or colours, uint8
    (height, width, 3).
    """
    try:
        with quiet_pillow(), Image.open(path) as image:
            if image.mode not in _MAP_MODES:
                raise DataError(
                    f"{path}: has {image.mode} pixels; a label map has a value or a colour a pixel"
                )
            if image.format == "JPEG":
                raise DataError(
                    f"{path}: is a JPEG, whose pixels are not what was stored; a label map is PNG"
                )
            if image.mode in ("RGB", "RGBA"):
                return np.asarray(image.convert("RGB")), None
            palette = None
            if image.mode == "P":
                flat = np.zeros(768, np.uint8)
                found = np.array(image.getpalette() or [], np.uint8)[:768]
                flat[: len(found)] = found
                palette = flat.reshape(256, 3)
            stored = np.asarray(image)
            return stored.astype(np.uint8) if image.mode == "1" else stored, palette
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:  # decoders raise almost anything on bad bytes
        raise DataError(
            f"{path}: cannot be decoded ({(str(error) or type(error).__name__).splitlines()[0]})"
        ) from error


def _check_values(path: Path, stored: np.ndarray, most: int = 255) -> None:
    for value in (int(stored.min()), int(stored.max())):
        if not 0 <= value <= most:
            raise DataError(f"{path}: has the value {value}; its values may be 0 to {most}")


def _colours(stored: np.ndarray, path: Path) -> tuple[list[tuple[int, int, int]], np.ndarray]:
    """The colours of a map, in order, and each pixel's as one number."""
    packed = stored[..., 0].astype(np.int32)
    for k in (1, 2):
        packed <<= 8
        packed |= stored[..., k]
    there = np.zeros(1 << 24, bool)
    there[packed] = True
    found = np.flatnonzero(there)
    if len(found) > _MOST_COLOURS:
        raise DataError(
            f"{path}: has {counted(len(found), 'colour')}; a label map has one for each class or instance"
        )
    colours = [(int(v) >> 16, int(v) >> 8 & 255, int(v) & 255) for v in found]
    return colours, packed


def _looked_up(colours: list[tuple[int, int, int]], codes: list[int], packed: np.ndarray) -> np.ndarray:
    """The code of each pixel, int16, by its colour."""
    table = np.zeros(1 << 24, np.int16)
    for (red, green, blue), code in zip(colours, codes):
        table[red << 16 | green << 8 | blue] = code
    found: np.ndarray = table[packed]
    return found


def _is_nothing(colour: tuple[int, int, int]) -> bool:
    return colour in ((0, 0, 0), _IGNORED_COLOUR)


def _code_of(
    colour: tuple[int, int, int], colours: dict[tuple[int, int, int], int | None], place: int
) -> int:
    if colour in colours:
        position = colours[colour]
        return 0 if position is None else position + 1
    return 0 if _is_nothing(colour) else UNNAMED + place
