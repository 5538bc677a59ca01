"""Scenes composed from real handwritten digits: several objects in clutter, with boxes, masks and labels
known.

The digits are the 1,797 of scikit-learn (8 x 8, UCI Optical Recognition of Handwritten Digits), so nothing is
downloaded. They are divided between `train` and `val` before anything is composed. Colour, size, place and
surroundings of a digit are drawn without looking at its class; pieces of other digits lie about, so that a
stroke alone does not say that there is an object. With `context`, some scenes have a theme, a class that most
of their digits are of and that their ground tells (`scene_grounds.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from odis.errors import DataError
from odis.machine.files import written_whole
from odis.objects import rle
from odis.objects.clean import Skip
from odis.objects.index import write_index
from odis.objects.scenes.grounds import themed_ground
from odis.objects.sources import Source, Unit
from odis.types import ImageObjects, Object

CLASSES = [str(digit) for digit in range(10)]

TRAIN_SHARE = 0.75

THEME_SHARE = 0.7
"""In a scene with a theme, the probability that a digit is of its class; else it is of any class."""

_SPLITS = ("train", "val")

_OVERLAP = 0.1  # the most of a box that another box may cover

_LUMA = np.array([0.299, 0.587, 0.114])

_INK_LUMA, _GROUND_LUMA = 180, 75

_SHARPEN = np.clip(np.rint((np.arange(256) - 95) * (255 / 90)), 0, 255).astype(np.uint8)
"""Enlarged digits are blurred; this gives strokes an edge, and every digit an alpha that reaches 255."""


@dataclass(frozen=True, slots=True)
class _Glyph:
    """A digit, or a piece of one, ready to be pasted."""

    alpha: Image.Image  # "L", cropped to what is not 0
    solid: np.ndarray  # bool (height, width): its visible part, alpha over half
    core: tuple[int, int, int, int]  # tight box of `solid`


@dataclass(frozen=True, slots=True)
class Scene:
    """One composed image."""

    pixels: np.ndarray  # uint8 (size, size, 3)
    masks: list[np.ndarray]  # bool (size, size) of each digit's visible pixels; the box is tight around them
    labels: list[int]
    theme: int | None = None  # class that the ground tells


def split_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits of a split: uint8 (n, 8, 8) in 0..255 and labels int64 (n,). The same ones every time, none
    in both splits.

    Raises:
        DataError: There is no such split.
    """
    if split not in _SPLITS:
        raise DataError(f"scenes: no split {split!r}; there are {' and '.join(_SPLITS)}")
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


def read(
    root: Path,
    split: str | None,
    skip: Skip,
    *,
    count: int = 1000,
    seed: int = 0,
    size: int = 96,
    digits: tuple[int, int] = (3, 5),
    digit_size: tuple[int, int] = (20, 32),
    context: float = 0.0,
) -> Source:
    """Compose scenes and write them as `ROOT/SPLIT/NUMBER.png` while their rows are read. Scene i depends on
    seed, split and i only.

    Args:
        root: Folder to write into.
        split: `train` or `val`.
        skip: Never called: every scene can be used.
        count: How many scenes.
        seed: Seed.
        size: Side of a scene in pixels.
        digits: Fewest and most digits in a scene.
        digit_size: Smallest and largest height of a digit in pixels.
        context: Share of scenes, 0..1, that have a theme. A scene without one is the same at every share, and
            one with a theme keeps it at every larger share.

    Raises:
        DataError: There is no such split, the digits cannot fit, or `context` is no share.
    """
    split = split or "train"
    images, labels = split_digits(split)
    _check(count, size, digits, digit_size, context)

    def units() -> Iterator[Unit]:
        (root / split).mkdir(parents=True, exist_ok=True)
        yield from (partial(row, i) for i in range(count))

    def row(i: int) -> ImageObjects:
        rng = np.random.default_rng([seed, _SPLITS.index(split), i])
        scene = compose(rng, images, labels, size=size, digits=digits, digit_size=digit_size, context=context)
        name = f"{split}/{i:06d}.png"
        with written_whole(root / name, cache=True) as beside:  # the same seed makes it again
            Image.fromarray(scene.pixels).save(beside, "PNG", compress_level=0)
        return ImageObjects(
            name, size, size, tuple(_object(m, label) for m, label in zip(scene.masks, scene.labels))
        )

    return Source(units(), root, "annotated", CLASSES)


def write_scenes(
    folder: str | Path,
    out_index: str | Path,
    *,
    count: int,
    split: str,
    seed: int,
    size: int = 96,
    digits: tuple[int, int] = (3, 5),
    digit_size: tuple[int, int] = (20, 32),
    context: float = 0.0,
) -> None:
    """Compose `count` scenes into `FOLDER/SPLIT` and write their object index; arguments as of `read`.

    Raises:
        DataError: There is no such split, the digits cannot fit, `context` is no share, or the folder cannot
            be written.
    """
    root = Path(folder).absolute()
    source = read(
        root,
        split,
        lambda _: None,
        count=count,
        seed=seed,
        size=size,
        digits=digits,
        digit_size=digit_size,
        context=context,
    )
    try:
        write_index(
            out_index, source.rows, root=source.root, provenance=source.provenance, classes=source.classes
        )
    except OSError as error:
        raise DataError(f"{root}: scenes cannot be written ({error.strerror or error})") from error


def compose(
    rng: np.random.Generator,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    size: int = 96,
    digits: tuple[int, int] = (3, 5),
    digit_size: tuple[int, int] = (20, 32),
    context: float = 0.0,
) -> Scene:
    """Draw one scene from digits uint8 (n, 8, 8) with labels (n,).

    Boxes cover one another by at most 10 %. Where not all digits find a place, there are fewer. With
    probability `context` it has a theme: each digit is of that class with probability `THEME_SHARE`, else of
    any, and the ground is that of the class.
    """
    n = int(rng.integers(digits[0], digits[1] + 1))
    picks = rng.integers(0, len(images), n)
    # From a generator of its own: the other draws are then those of a scene without a theme.
    theme, picks = _theme(rng.spawn(1)[0], labels, picks, context) if context else (None, picks)
    glyphs = [_glyph(rng, images[k], digit_size) for k in picks]
    pieces = [
        _piece(rng, _glyph(rng, images[k], digit_size))
        for k in rng.integers(0, len(images), int(rng.integers(2, 6)))
    ]
    places = _place(rng, glyphs + pieces, size)

    canvas = _background(rng, size, theme)
    for glyph, place in zip(pieces, places[n:]):
        if place is not None:
            _paste(rng, canvas, glyph, place)
    masks: list[np.ndarray] = []
    kept: list[int] = []
    for glyph, place, k in zip(glyphs, places, picks):
        if place is None:
            continue
        mask = _paste(rng, canvas, glyph, place)
        for earlier in masks:
            earlier &= ~mask
        masks.append(mask)
        kept.append(int(labels[k]))
    # Grain over everything: without it a digit's flat colour would set it apart from what is behind.
    grain = rng.standard_normal((size, size, 3), dtype=np.float32)
    grain *= np.float32(4)
    grain += np.asarray(canvas)
    return Scene(np.clip(grain, 0, 255).astype(np.uint8), masks, kept, theme)


def _theme(
    rng: np.random.Generator, labels: np.ndarray, picks: np.ndarray, context: float
) -> tuple[int | None, np.ndarray]:
    """The scene's theme, if it has one, and its digits (positions), of which the theme's class takes its
    share.
    """
    chance, theme = rng.random(), int(rng.integers(len(CLASSES)))
    if chance >= context:
        return None, picks
    return theme, np.where(
        rng.random(len(picks)) < THEME_SHARE, rng.choice(np.flatnonzero(labels == theme), len(picks)), picks
    )


def _check(
    count: int, size: int, digits: tuple[int, int], digit_size: tuple[int, int], context: float
) -> None:
    if count < 1:
        raise DataError(f"scenes: count is {count}, must be 1 or more")
    if not 1 <= digits[0] <= digits[1]:
        raise DataError(f"scenes: digits is {list(digits)}, must be two rising numbers from 1")
    if not 8 <= digit_size[0] <= digit_size[1]:
        raise DataError(
            f"scenes: digit_size is {list(digit_size)}, must be two rising numbers of pixels from 8"
        )
    if digits[1] * (1.25 * digit_size[1]) ** 2 > 0.9 * size**2:
        raise DataError(
            f"scenes: {digits[1]} digits of {digit_size[1]} pixels do not fit into a scene of {size}; "
            f"make size larger"
        )
    if not 0 <= context <= 1:
        raise DataError(f"scenes: context is {context}, must be in 0..1")


def _object(mask: np.ndarray, label: int) -> Object:
    xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return Object((float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)), rle.encode(mask), label)


def _glyph(rng: np.random.Generator, digit: np.ndarray, digit_size: tuple[int, int]) -> _Glyph:
    """The digit enlarged, turned by up to 12 degrees, sheared and stretched a little."""
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


def _cropped(image: Image.Image) -> _Glyph:
    alpha = image.crop(image.getbbox())
    solid = np.asarray(alpha) > 127
    core = Image.fromarray(solid.view(np.uint8)).getbbox()
    return _Glyph(alpha, solid, core or (0, 0, alpha.width, alpha.height))


def _piece(rng: np.random.Generator, glyph: _Glyph) -> _Glyph:
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


def _place(
    rng: np.random.Generator, glyphs: list[_Glyph], size: int, tries: int = 48
) -> list[tuple[int, int] | None]:
    """Left and top of each glyph, wholly inside the scene; None where no place is left."""
    taken: list[tuple[float, float, float, float]] = []
    places: list[tuple[int, int] | None] = []
    for glyph, draws in zip(glyphs, rng.random((len(glyphs), tries, 2)).tolist()):
        w, h = glyph.alpha.size
        left, top, right, bottom = glyph.core
        place = None
        for u, v in draws:
            x, y = int(u * (size - w + 1)), int(v * (size - h + 1))
            box = (x + left, y + top, x + right, y + bottom)
            if all(_apart(box, other) for other in taken):
                place = (x, y)
                taken.append(box)
                break
        places.append(place)
    return places


def _apart(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return True
    return w * h <= _OVERLAP * min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _paste(
    rng: np.random.Generator, canvas: Image.Image, glyph: _Glyph, place: tuple[int, int]
) -> np.ndarray:
    """Paint a glyph in a colour legible there; bool (size, size) of its visible part."""
    x, y = place
    h, w = glyph.solid.shape
    canvas.paste(_ink(rng), place, glyph.alpha)
    mask = np.zeros((canvas.height, canvas.width), dtype=bool)
    mask[y : y + h, x : x + w] = glyph.solid
    return mask


def _ink(rng: np.random.Generator) -> tuple[int, int, int]:
    """A light colour of any hue. Of one luma: were brightness to differ, it would tell objects apart without
    a look at their shape.
    """
    red, green, blue = np.rint(_coloured(rng, np.full(1, _INK_LUMA))).astype(int).tolist()
    return red, green, blue


def _coloured(rng: np.random.Generator, luma: np.ndarray) -> np.ndarray:
    """Random colours (..., 3) of the given luma (..., 1): of strong hues, so that a network must learn to see
    past them.

    A hue is weakened as far as it must be to stay within 0..255. Cut off there instead, it would change the
    luma.
    """
    hue = rng.uniform(-140, 140, (*luma.shape[:-1], 3))
    hue -= (hue @ _LUMA)[..., None]
    room = np.where(hue > 0, 255 - luma, luma) / np.maximum(np.abs(hue), 1e-9)
    colours: np.ndarray = luma + hue * np.minimum(room.min(axis=-1, keepdims=True), 1)
    return colours


def _background(rng: np.random.Generator, size: int, theme: int | None) -> Image.Image:
    """Smooth colours, or the ground of a theme; coarse texture, blobs, strokes and arcs ("RGB")."""
    cells = int(rng.integers(3, 7))
    ground = _coloured(rng, _GROUND_LUMA + rng.uniform(-8, 8, (cells, cells, 1)))
    canvas = _enlarge(ground.astype(np.uint8), size)
    if theme is not None:
        canvas = Image.fromarray(
            np.clip(themed_ground(rng, theme, size, _GROUND_LUMA), 0, 255).astype(np.uint8)
        )
    texture = _enlarge(rng.integers(0, 256, (size // int(rng.integers(3, 8)),) * 2, dtype=np.uint8), size)
    canvas = Image.blend(canvas, texture.convert("RGB"), 0.05)
    for _ in range(2):
        canvas.paste(_ink(rng), (0, 0), _clutter(rng, size))
    return canvas


def _enlarge(values: np.ndarray, size: int) -> Image.Image:
    return Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC)


def _clutter(rng: np.random.Generator, size: int) -> Image.Image:
    """An alpha ("L") of blobs, strokes and arcs, drawn at twice the size so that their edges are soft."""
    layer = Image.new("L", (2 * size, 2 * size))
    draw = ImageDraw.Draw(layer)
    solid = int(rng.integers(80, 200))
    for kind in rng.integers(0, 4, int(rng.integers(1, 4))):
        x, y, w, h = (2 * size * rng.random(4)).tolist()
        if kind == 0:
            w, h = 0.1 * w + 0.03 * size, 0.1 * h + 0.03 * size
            draw.ellipse((x - w, y - h, x + w, y + h), fill=solid // 2)
        elif kind == 1:
            w, h, start, sweep = (
                0.25 * w + 0.1 * size,
                0.25 * h + 0.1 * size,
                rng.uniform(0, 360),
                rng.uniform(60, 200),
            )
            draw.arc(
                (x - w, y - h, x + w, y + h), start, start + sweep, fill=solid, width=int(rng.integers(3, 8))
            )
        else:
            draw.line(
                (x, y, x + w / 2 - size / 2, y + h / 2 - size / 2), fill=solid, width=int(rng.integers(3, 8))
            )
    return layer.reduce(2)
