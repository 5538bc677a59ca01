"""A scene composed from handwritten digits: several objects in clutter, whose boxes, masks and labels are
known.

Colour, size, place and surroundings of a digit are drawn without looking at its class. Pieces of other digits
lie about, so that a stroke alone does not say that there is an object. With `context`, some scenes have a
theme: a class that most of their digits are of, and that their ground tells (`grounds.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from odis.objects.scenes.digits import CLASSES, Glyph, cut_piece, make_glyph
from odis.objects.scenes.paint import draw_background, draw_ink

THEME_SHARE = 0.7
"""In a scene with a theme, the probability that a digit is of its class; else it is of any class."""

_OVERLAP = 0.1  # the most of a box that another box may cover


@dataclass(frozen=True, slots=True)
class Scene:
    """One composed image."""

    pixels: np.ndarray  # uint8 (size, size, 3)
    masks: list[np.ndarray]  # bool (size, size) of each digit's visible pixels; the box is tight around them
    labels: list[int]
    theme: int | None = None  # class that the ground tells


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
    glyphs = [make_glyph(rng, images[k], digit_size) for k in picks]
    pieces = [
        cut_piece(rng, make_glyph(rng, images[k], digit_size))
        for k in rng.integers(0, len(images), int(rng.integers(2, 6)))
    ]
    places = _place(rng, glyphs + pieces, size)

    canvas = draw_background(rng, size, theme)
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


def _place(
    rng: np.random.Generator, glyphs: list[Glyph], size: int, tries: int = 48
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


def _paste(rng: np.random.Generator, canvas: Image.Image, glyph: Glyph, place: tuple[int, int]) -> np.ndarray:
    """Paint a glyph in a colour legible there; bool (size, size) of its visible part."""
    x, y = place
    h, w = glyph.solid.shape
    canvas.paste(draw_ink(rng), place, glyph.alpha)
    mask = np.zeros((canvas.height, canvas.width), dtype=bool)
    mask[y : y + h, x : x + w] = glyph.solid
    return mask
