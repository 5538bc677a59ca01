"""Small pictures for the page, as data URIs: outlined objects, attention overlays, objects cut out."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from odis.objects import rle
from odis.report.page import Html, element
from odis.types import Object

COLOURS = (0, 200, 255), (255, 150, 0)  # outlines of the first and second object, over a dark edge

_SHARP = 1.5  # pixels stored for each CSS pixel, for dense screens
_FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
_DIM = 0.6  # brightness of the image below attention
_OPACITY = 0.7  # of attention
_LEAST = 0.15  # start in the colour map: no attention is not black
_ROOM = 0.3  # around an object in a close-up, of its sides


def fitted(width: int, height: int, longest: int) -> tuple[int, int]:
    """The size with the same aspect whose longer side is `longest`; no side is 0."""
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def photo(image: Image.Image, longest: int, alt: str) -> Html:
    """The image as it is, `longest` pixels of the page on its longer side."""
    return _img(_resized(image, longest), fitted(*image.size, longest), alt)


def outlined(image: Image.Image, objects: Sequence[Object], longest: int, alt: str) -> Html:
    """The image with numbered outlines of some objects."""
    small = _resized(image, longest)
    pixels = np.array(small)
    regions = [region_of(item, image.size, small.size) for item in objects]
    for region, colour in reversed(list(zip(regions, COLOURS))):
        _outline(pixels, region, colour, thick=3)
    picture = Image.fromarray(pixels)
    draw, font = ImageDraw.Draw(picture), ImageFont.truetype(str(_FONT), 18)
    for k, (region, colour) in enumerate(zip(regions, COLOURS)):
        y, x = np.argwhere(region).min(0) if region.any() else (0, 0)
        x, y = min(int(x), picture.width - 18), min(int(y), picture.height - 20)
        draw.rectangle((x, y, x + 17, y + 19), fill=colour)
        draw.text((x + 9, y + 10), str(k + 1), fill=(0, 0, 0), font=font, anchor="mm")
    return _img(picture, fitted(*image.size, longest), alt)


@dataclass(frozen=True, slots=True)
class CloseUp:
    """The part of a picture around an object, below attention; all of it if the object is large."""

    grey: np.ndarray  # float32 (height, width, 1) in 0..1
    region: np.ndarray  # bool (height, width)
    window: tuple[float, float, float, float]  # left, top, right, bottom as shares of the picture
    size: tuple[int, int]  # on the page


def close_up(picture: Image.Image, region: np.ndarray, mask: np.ndarray, longest: int) -> CloseUp:
    """The part of a picture with an object and its patches, and some room around.

    Args:
        picture: The picture.
        region: bool (height, width), the object in it.
        mask: bool (rows, columns), its patches.
        longest: Pixels of the page on the longer side.
    """
    window = _around([region, mask])
    left, top, right, bottom = (round(share * side) for share, side in zip(window, picture.size * 2))
    box = (left, top, max(right, left + 1), max(bottom, top + 1))
    part = _resized(picture.crop(box), longest)
    inside = Image.fromarray(region).crop(box).convert("L").resize(part.size, Image.Resampling.BILINEAR)
    exact = (box[0] / picture.width, box[1] / picture.height, box[2] / picture.width, box[3] / picture.height)
    grey = np.asarray(part.convert("L"), dtype=np.float32)[..., None] / 255
    return CloseUp(grey, np.asarray(inside) > 127, exact, fitted(box[2] - box[0], box[3] - box[1], longest))


def overlaid(close: CloseUp, weights: np.ndarray, mask: np.ndarray, colour: int, alt: str) -> Html:
    """Attention weights over a close-up: dark to bright is 0 to the largest; nothing where `mask` is false.

    Args:
        close: The picture below.
        weights: (rows, columns) of the whole picture, not negative.
        mask: bool (rows, columns).
        colour: Which of `COLOURS` outlines the object.
        alt: What is seen.
    """
    size = close.grey.shape[1::-1]
    strength = stretched(weights / max(float(weights.max()), 1e-12), size, close.window)
    painted = matplotlib.colormaps["inferno"](_LEAST + (1 - _LEAST) * strength)[..., :3]
    shown = _OPACITY * stretched(mask, size, close.window)[..., None]
    pixels = np.round(255 * ((1 - shown) * (_DIM * close.grey) + shown * painted)).astype(np.uint8)
    _outline(pixels, close.region, COLOURS[colour % len(COLOURS)], thick=2)
    return _img(Image.fromarray(pixels), close.size, alt)


def stretched(
    grid: np.ndarray, size: tuple[int, int], window: tuple[float, float, float, float] = (0, 0, 1, 1)
) -> np.ndarray:
    """A grid of patches over a part of a picture: each pixel has the value of the patch it lies in.

    Args:
        grid: (rows, columns), over the whole picture.
        size: Width and height of the part in pixels.
        window: The part: left, top, right, bottom as shares of the picture.

    Returns:
        (height, width).
    """

    def places(count: int, pixels: int, low: float, high: float) -> np.ndarray:
        share = low + (np.arange(pixels) + 0.5) / pixels * (high - low)
        cells: np.ndarray = np.clip((share * count).astype(int), 0, count - 1)
        return cells

    left, top, right, bottom = window
    cells: np.ndarray = grid[
        places(grid.shape[0], size[1], top, bottom)[:, None],
        places(grid.shape[1], size[0], left, right)[None],
    ]
    return cells


def _around(masks: Sequence[np.ndarray]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom, as shares, of all masks (height, width) with room around; of everything if
    they cover half of it.
    """
    ends = []
    for mask in masks:
        y, x = np.nonzero(mask)
        if len(x):
            height, width = mask.shape
            ends.append((x.min() / width, y.min() / height, (x.max() + 1) / width, (y.max() + 1) / height))
    if not ends:
        return 0, 0, 1, 1
    left, top = (float(min(e[k] for e in ends)) for k in (0, 1))
    right, bottom = (float(max(e[k] for e in ends)) for k in (2, 3))
    room_x, room_y = _ROOM * (right - left), _ROOM * (bottom - top)
    window = (max(left - room_x, 0), max(top - room_y, 0), min(right + room_x, 1), min(bottom + room_y, 1))
    large = (window[2] - window[0]) * (window[3] - window[1]) > 0.5
    return (0, 0, 1, 1) if large else window


def patches(colours: np.ndarray, image: Image.Image, longest: int, alt: str) -> Html:
    """A colour for each patch, uint8 (rows, columns, 3), in the image's aspect."""
    return _img(Image.fromarray(colours), fitted(*image.size, longest), alt, lossless=True)


def cut_out(image: Image.Image, item: Object, longest: int, alt: str) -> Html:
    """The object's box."""
    x0, y0, x1, y1 = item.box
    left, top = min(max(int(x0), 0), image.width - 1), min(max(int(y0), 0), image.height - 1)
    right, bottom = (
        max(min(int(np.ceil(x1)), image.width), left + 1),
        max(min(int(np.ceil(y1)), image.height), top + 1),
    )
    return photo(image.crop((left, top, right, bottom)), longest, alt)


def _resized(image: Image.Image, longest: int) -> Image.Image:
    return image.resize(fitted(*image.size, round(_SHARP * longest)), Image.Resampling.BICUBIC)


def region_of(item: Object, size: tuple[int, int], shown: tuple[int, int]) -> np.ndarray:
    """The object's mask, else its box, in an image of `size` resized to `shown` (width, height each): bool
    (height, width).
    """
    if item.mask is not None:
        mask = Image.fromarray(255 * rle.decode(item.mask, *size))
        region = np.asarray(mask.resize(shown, Image.Resampling.BILINEAR)) > 127
        if region.any():  # else it is too thin to be seen, and its box is drawn
            return region
    region = np.zeros(shown[::-1], dtype=bool)
    x0, y0, x1, y1 = (v * shown[k % 2] / size[k % 2] for k, v in enumerate(item.box))
    left, top = max(round(x0), 0), max(round(y0), 0)
    region[top : max(round(y1), top + 1), left : max(round(x1), left + 1)] = True
    return region


def _outline(pixels: np.ndarray, region: np.ndarray, colour: tuple[int, int, int], thick: int) -> None:
    """Draw the inner border of a region, between two dark lines."""
    inside = _shrunk(region, thick)
    pixels[_grown(region) & ~region] = 0
    pixels[region & ~inside] = colour
    pixels[inside & ~_shrunk(inside, 1)] = 0


def _shrunk(region: np.ndarray, times: int) -> np.ndarray:
    """The region without its border; the picture's edge is border too."""
    for _ in range(times):
        p = np.pad(region, 1)
        region = region & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    return region


def _grown(region: np.ndarray) -> np.ndarray:
    p = np.pad(region, 1)
    grown: np.ndarray = region | p[:-2, 1:-1] | p[2:, 1:-1] | p[1:-1, :-2] | p[1:-1, 2:]
    return grown


def _img(picture: Image.Image, size: tuple[int, int], alt: str, lossless: bool = False) -> Html:
    written = io.BytesIO()
    if lossless:
        picture.save(written, "PNG", optimize=True)
    else:
        picture.save(written, "JPEG", quality=80, optimize=True)
    kind = "png" if lossless else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"
    return element(
        "img", src=uri, alt=alt, width=size[0], height=size[1], class_="pixels" if lossless else None
    )
