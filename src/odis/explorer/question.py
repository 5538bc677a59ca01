"""A question as the page sends it: which picture, what of it, which networks, how. Nothing is trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from PIL import Image

from odis.config.wording import counted
from odis.explorer.pictures import ShownPicture
from odis.explorer.refusal import RefusedError
from odis.explorer.settings import QUESTION_MODES
from odis.objects import rle
from odis.objects.clean import object_problem
from odis.types import Box, Object

MASK_SIDE = 512
"""Cells along a side of a painted mask, at most; the page paints on far fewer."""

MOST_NEIGHBOURS = 60


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, its form checked. The region is looked at when the picture is there."""

    tab: str  # tells pages apart
    networks: tuple[int, ...]
    row: int | None  # of the index; None for an upload
    upload: str | None
    modes: tuple[str, ...]
    neighbours: int
    region: dict[str, Any]


def read_question(body: bytes, networks: int) -> Question:
    """Read the JSON of a question.

    Args:
        body: What the page sent.
        networks: How many there are.

    Raises:
        RefusedError: it is no such JSON.
    """
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, "the question is no JSON") from error
    if not isinstance(given, dict):
        raise RefusedError(400, "the question must be a JSON object")
    tab, picture, region = given.get("tab"), given.get("picture"), given.get("region")
    if not isinstance(tab, str) or not 1 <= len(tab) <= 64:
        raise RefusedError(400, "tab must be a short text")
    if not isinstance(picture, dict) or not isinstance(region, dict):
        raise RefusedError(400, "picture and region must be JSON objects")
    row, upload = picture.get("row"), picture.get("upload")
    if not (_is_whole(row) and upload is None) and not (row is None and isinstance(upload, str)):
        raise RefusedError(400, "picture must have a row or an upload")
    chosen = given.get("networks")
    if (
        not isinstance(chosen, list)
        or not chosen
        or not all(_is_whole(one) and 0 <= one < networks for one in chosen)
        or len(set(chosen)) != len(chosen)
    ):
        raise RefusedError(400, f"networks must be some of 0 to {networks - 1}")
    modes = given.get("modes")
    if not isinstance(modes, list) or not modes or not set(map(str, modes)) <= set(QUESTION_MODES):
        raise RefusedError(400, f"modes must be some of {', '.join(QUESTION_MODES)}")
    count = given.get("neighbours", 12)
    if not _is_whole(count) or not 1 <= count <= MOST_NEIGHBOURS:
        raise RefusedError(400, f"neighbours must be from 1 to {MOST_NEIGHBOURS}")
    return Question(tab, tuple(chosen), row, upload, tuple(dict.fromkeys(modes)), count, region)


def read_region(region: dict[str, Any], picture: ShownPicture) -> Object:
    """What is asked about: an object of the index, a box in pixels, a painted mask, or the whole picture.

    Raises:
        RefusedError: it is none of these, or nothing of the picture.
    """
    width, height = picture.size
    if len(region) != 1:
        raise RefusedError(400, "region must have one of object, box, mask, whole")
    ((kind, value),) = region.items()
    if kind == "object":
        if not _is_whole(value) or value not in picture.objects.numbers:
            raise RefusedError(404, f"this picture has no object {value!r} that can be used")
        return picture.objects.objects[picture.objects.numbers.index(value)]
    if kind == "box":
        item = Object(_box(value))
    elif kind == "mask":
        item = _painted(value, width, height)
    elif kind == "whole":
        item = Object((0.0, 0.0, float(width), float(height)))
    else:
        raise RefusedError(400, "region must have one of object, box, mask, whole")
    if (problem := object_problem(item, width, height)) is not None:
        raise RefusedError(400, problem)
    return item


def _box(value: Any) -> Box:
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise RefusedError(400, "box must be four numbers: x0, y0, x1, y1")
    x0, y0, x1, y1 = map(float, value)
    return x0, y0, x1, y1


def _painted(value: Any, width: int, height: int) -> Object:
    """A mask of cells, as runs that alternate from outside to inside, row by row, over the whole picture."""
    if not isinstance(value, dict):
        raise RefusedError(400, "mask must be a JSON object")
    columns, rows = (_side(value.get(name)) for name in ("width", "height"))
    runs = value.get("runs")
    cells = columns * rows
    if (
        not isinstance(runs, list)
        or len(runs) > cells + 1
        or not all(_is_whole(run) and 0 <= run <= cells for run in runs)
        or sum(runs) != cells
    ):
        raise RefusedError(400, f"mask must have runs that add up to its {counted(cells, 'cell')}")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(rows, columns)
    mask = np.asarray(Image.fromarray(inside).resize((width, height), Image.Resampling.NEAREST))
    if not mask.any():
        raise RefusedError(400, "the mask is empty")
    across, down = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    box = (float(across[0]), float(down[0]), float(across[-1] + 1), float(down[-1] + 1))
    return Object(box, rle.encode(mask))


def _side(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MASK_SIDE:
        raise RefusedError(400, f"mask must have a width and height from 1 to {MASK_SIDE}")
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
