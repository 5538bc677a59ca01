"""Paths, PIL images, arrays, boxes and masks, converted to pixels and `Object`s."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from odis.config.pixels import RGB, PixelFormat
from odis.config.wording import counted
from odis.errors import DataError
from odis.objects import rle
from odis.objects.clean import ANY_LABEL, usable_objects
from odis.objects.decoding.raw import to_pixels
from odis.objects.pixels import load_pixels, raw_of_pillow
from odis.types import Box, ImageObjects, Object

Picture = str | Path | Image.Image | np.ndarray | Tensor
"""What `Encoder.embed` takes as a picture."""


def is_one_picture(given: Any) -> bool:
    """Whether this is one picture rather than several."""
    if isinstance(given, np.ndarray | Tensor):
        return given.ndim <= 3
    return not isinstance(given, Iterable) or isinstance(given, str | Path | Image.Image | bytes | dict)


def as_pixels(picture: Picture, name: str, form: PixelFormat = RGB) -> Tensor:
    """A picture as uint8 (C, height, width). Arrays and tensors have the channels that are wanted, and are
    no longer in the numbers of a file.

    Raises:
        DataError: naming the picture, if it cannot be read or is none of the kinds that `Encoder.embed`
            lists.
    """
    if isinstance(picture, str | Path):
        pixels = torch.from_numpy(load_pixels(picture, form=form)).permute(2, 0, 1)
        return pixels
    channels = form.channels
    if isinstance(picture, Image.Image):
        if form == RGB:
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
        found = to_pixels(raw_of_pillow(picture), form, name)
        return torch.from_numpy(found).permute(2, 0, 1)
    if isinstance(picture, np.ndarray):
        shown = f"{picture.dtype} {picture.shape}"
        if picture.ndim == 2:
            picture = picture[..., None].repeat(3 if channels == 3 else 1, axis=2)
        if (
            picture.ndim != 3
            or picture.shape[2] != channels
            or picture.dtype not in (np.uint8, np.float32, np.float64)
        ):
            raise DataError(
                f"{name}: is {shown}, must be uint8 or float (height, width, {channels})"
                f"{' or (height, width)' if channels in (1, 3) else ''}"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
    elif not isinstance(picture, Tensor):
        encoded = isinstance(picture, bytes | bytearray | memoryview)
        hint = "; open encoded bytes with PIL.Image.open(io.BytesIO(...))" if encoded else ""
        raise DataError(
            f"{name}: is {type(picture).__name__}, must be a path, a PIL image, an array or a tensor{hint}"
        )
    else:
        pixels = picture.detach().cpu()
        shown = f"{pixels.dtype} {tuple(pixels.shape)}"
    if (
        pixels.ndim != 3
        or len(pixels) != channels
        or not pixels.numel()
        or not (pixels.dtype == torch.uint8 or pixels.is_floating_point())
    ):
        raise DataError(
            f"{name}: is {shown}, must be a path, a PIL image, or uint8 or float ({channels}, height, width)"
        )
    if pixels.dtype == torch.uint8:
        return pixels
    if not bool(((pixels >= 0) & (pixels <= 1)).all()):
        raise DataError(
            f"{name}: has floats outside 0..1; give pixels before normalisation, the model normalises "
            f"them itself"
        )
    return (pixels.float() * 255).round().to(torch.uint8)


def as_objects(
    objects: Any, boxes: Any = None, masks: Any = None, *, image: Tensor, name: str
) -> list[Object]:
    """The objects of an image, given as such or as boxes (n, 4), masks (n, height, width) or both; without
    any, the whole image as one.

    Raises:
        DataError: naming the first that cannot be used.
    """
    height, width = image.shape[1:]
    if objects is None and boxes is None and masks is None:
        return [Object((0.0, 0.0, float(width), float(height)))]
    if isinstance(objects, np.ndarray | Tensor):
        objects, boxes = None, objects
    if objects is None:
        objects = _from_boxes_and_masks(boxes, masks, (height, width), name)
    for k, item in enumerate(objects):
        if not isinstance(item, Object):
            raise DataError(
                f"{name}, object {k}: is a {type(item).__name__}, must be an odis.types.Object; give "
                f"coordinates as boxes"
            )
    usable = usable_objects(ImageObjects(name, width, height, tuple(objects)), ANY_LABEL)
    for k, problem in usable.problems.items():
        raise DataError(f"{name}, object {k}: {problem}")
    return list(objects)


def _from_boxes_and_masks(boxes: Any, masks: Any, size: tuple[int, int], name: str) -> list[Object]:
    """Objects from boxes, masks or both; `size` is the image's height and width."""
    corners, regions = _numbers(boxes, name, "boxes"), _numbers(masks, name, "masks")
    if corners is not None and corners.size and corners.shape[1:] != (4,):
        raise DataError(f"{name}: its boxes are {corners.shape}, must be (n, 4)")
    if regions is None:
        assert corners is not None
        return [
            Object((x0, y0, x1, y1)) for x0, y0, x1, y1 in corners.astype(np.float64).reshape(-1, 4).tolist()
        ]
    if regions.size and (regions.shape[1:] != size or not np.isin(regions, (0, 1)).all()):
        raise DataError(
            f"{name}: its masks are {regions.dtype} {regions.shape}, must be bool or 0 and 1, (n, "
            f"{size[0]}, {size[1]})"
        )
    regions = regions.astype(np.uint8)
    if corners is not None and len(corners) != len(regions):
        raise DataError(
            f"{name}: has {counted(len(corners), 'box')} and {counted(len(regions), 'mask')}; each object "
            f"has one of both"
        )
    return [
        Object(_box_of(m, name, k) if corners is None else tuple(corners[k].tolist()), rle.encode(m))
        for k, m in enumerate(regions)
    ]


def _numbers(given: Any, name: str, what: str) -> np.ndarray | None:
    if given is None:
        return None
    try:
        array = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
    except ValueError as error:  # rows of unequal length
        raise DataError(f"{name}: its {what} are no array of numbers") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name}: its {what} are {array.dtype}, must be numbers")
    return array


def _box_of(mask: np.ndarray, name: str, k: int) -> Box:
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(rows):
        raise DataError(f"{name}, object {k}: its mask is empty")
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
