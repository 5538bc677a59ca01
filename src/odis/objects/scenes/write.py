"""Scenes as PNG files with their object index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from odis.config.wording import counted
from odis.errors import DataError
from odis.machine.files import written_whole
from odis.objects import rle
from odis.objects.index import write_index
from odis.objects.scenes.compose import compose
from odis.objects.scenes.digits import CLASSES, SPLITS, split_digits
from odis.types import ImageObjects, Object


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
    """Compose scenes, write them as `FOLDER/SPLIT/NUMBER.png`, and write their object index.

    Scene i depends on seed, split and i, not on how many there are.

    Args:
        folder: Root of the pictures.
        out_index: The index (.parquet).
        count: How many scenes.
        split: `train` or `val`; no digit is in scenes of both.
        seed: Seed.
        size: Side of a scene in pixels.
        digits: Fewest and most digits in a scene.
        digit_size: Smallest and largest height of a digit in pixels.
        context: Share of scenes, 0..1, that have a theme. A scene without one is the same at every share, and
            one with a theme keeps it at every larger share.

    Raises:
        DataError: There is no such split, the digits cannot fit, `context` is no share, or the folder cannot
            be written.
    """
    root = Path(folder).absolute()
    images, labels = split_digits(split)
    _check(count, size, digits, digit_size, context)

    def rows() -> Iterator[ImageObjects]:
        (root / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            rng = np.random.default_rng([seed, SPLITS.index(split), i])
            scene = compose(
                rng, images, labels, size=size, digits=digits, digit_size=digit_size, context=context
            )
            name = f"{split}/{i:06d}.png"
            with written_whole(root / name, cache=True) as beside:  # the same seed makes it again
                Image.fromarray(scene.pixels).save(beside, "PNG", compress_level=0)
            objects = tuple(map(_object, scene.masks, scene.labels))
            yield ImageObjects(name, size, size, objects)

    try:
        write_index(out_index, rows(), root=root, provenance="annotated", classes=CLASSES)
    except OSError as error:
        raise DataError(f"{root}: scenes cannot be written ({error.strerror or error})") from error


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
            f"scenes: {counted(digits[1], 'digit')} of {digit_size[1]} pixels do not fit into a scene of "
            f"{size}; make size larger"
        )
    if not 0 <= context <= 1:
        raise DataError(f"scenes: context is {context}, must be in 0..1")


def _object(mask: np.ndarray, label: int) -> Object:
    xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return Object((float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)), rle.encode(mask), label)
