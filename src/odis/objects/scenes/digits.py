"""The digits of the scenes: real handwritten ones, enlarged, turned and sheared a little, or cut in pieces.

They are the 1,797 of scikit-learn (8 x 8, UCI Optical Recognition of Handwritten Digits), so nothing is
downloaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from odis.errors import DataError

CLASSES = [str(digit) for digit in range(10)]

SPLITS = ("train", "val")

TRAIN_SHARE = 0.75

_SHARPEN = np.clip(np.rint((np.arange(256) - 95) * (255 / 90)), 0, 255).astype(np.uint8)
"""Enlarged digits are blurred; this gives strokes an edge, and every digit an alpha that reaches 255."""


@dataclass(frozen=True, slots=True)
class Glyph:
    """A digit, or a piece of one, ready to be pasted."""

    alpha: Image.Image  # "L", cropped to what is not 0
    solid: np.ndarray  # bool (height, width): its visible part, alpha over half
    core: tuple[int, int, int, int]  # tight box of `solid`


def split_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits of a split: uint8 (n, 8, 8) in 0..255 and labels int64 (n,). The same ones every time, none
    in both splits.

    Raises:
        DataError: There is no such split.
    """
    if split not in SPLITS:
        raise DataError(f"scenes: no split {split!r}; there are {' and '.join(SPLITS)}")
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = np.random.default_rng(0)
    chosen = []
    for label in range(10):
        rows = rng.permutation(np.flatnonzero(digits.target == label))
        cut = round(TRAIN_SHARE * len(rows))
        chosen.append(rows[:cut] if split == "train" else rows[cut:])
    rows = np.sort(np.concatenate(chosen))
    return np.round(digits.images[rows] * (255 / 16)).astype(np.uint8), digits.target[rows]


def make_glyph(rng: np.random.Generator, digit: np.ndarray, digit_size: tuple[int, int]) -> Glyph:
    """A digit uint8 (8, 8), enlarged to a height drawn from `digit_size`, turned by up to 12 degrees, sheared
    and stretched.
    """
    height, angle, shear, stretch = rng.uniform(
        (digit_size[0], -0.21, -0.2, 0.85), (digit_size[1], 0.21, 0.2, 1.15)
    ).tolist()
    side = math.ceil(1.7 * height)
    cos, sin, step = math.cos(angle), math.sin(angle), 8 / height
    # Pillow asks for the inverse map: output pixel to digit pixel, the digit's middle at (6, 6) of its padded
    # 12 x 12.
    a, b = step * (cos / stretch + shear * sin), step * (sin / stretch - shear * cos)
    c, d = -step * sin, step * cos
    inverse = (a, b, 6 - (a + b) * side / 2, c, d, 6 - (c + d) * side / 2)
    padded = np.zeros((12, 12), dtype=np.uint8)
    padded[2:10, 2:10] = digit
    large = Image.fromarray(padded).transform(
        (side, side), Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC
    )
    return _cropped(Image.fromarray(_SHARPEN[np.asarray(large)]))


def _cropped(image: Image.Image) -> Glyph:
    alpha = image.crop(image.getbbox())
    solid = np.asarray(alpha) > 127
    core = Image.fromarray(solid.view(np.uint8)).getbbox()
    return Glyph(alpha, solid, core or (0, 0, alpha.width, alpha.height))


def cut_piece(rng: np.random.Generator, glyph: Glyph) -> Glyph:
    """A part of a digit, cut off along a line near its middle."""
    w, h = glyph.alpha.size
    direction, offset = rng.uniform((0, 0.05), (2 * math.pi, 0.5)).tolist()
    cos, sin = math.cos(direction), math.sin(direction)
    reach = offset * (abs(cos) * w + abs(sin) * h) / 2
    x, y, far = w / 2 + cos * reach, h / 2 + sin * reach, 2.0 * (w + h)
    piece = glyph.alpha.copy()
    near = [(x - sin * far, y + cos * far), (x + sin * far, y - cos * far)]
    ImageDraw.Draw(piece).polygon(
        near + [(px - cos * far, py - sin * far) for px, py in reversed(near)], fill=0
    )
    if piece.getbbox() is None:  # all its ink was on the other side
        piece = glyph.alpha.crop((0, 0, w, h // 2))
    return _cropped(piece)
