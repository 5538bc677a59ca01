"""What scenes are painted with: inks, smooth or themed grounds, and clutter."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from odis.objects.scenes.grounds import themed_ground

_LUMA = np.array([0.299, 0.587, 0.114])

_INK_LUMA, _GROUND_LUMA = 180, 75


def draw_ink(rng: np.random.Generator) -> tuple[int, int, int]:
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


def draw_background(rng: np.random.Generator, size: int, theme: int | None) -> Image.Image:
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
        canvas.paste(draw_ink(rng), (0, 0), _clutter(rng, size))
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
