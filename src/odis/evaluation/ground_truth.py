"""The ground truth of the Revisited Oxford and Paris benchmarks: published pickles, none of which runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from odis.config.wording import counted
from odis.errors import DataError
from odis.evaluation.landmark_scores import LandmarkQuery, Landmarks
from odis.evaluation.plain_pickle import MOST_BYTES, PickledArray, kind, unpickle
from odis.types import Box

_MOST_INDICES = 1 << 22  # of all queries together: a file may name one list many times
_LARGEST = 1 << 40  # of numbers


def load_ground_truth(path: str | Path) -> Landmarks:
    """Read `gnd_roxford5k.pkl`, `gnd_rparis6k.pkl`, or a file like them, of any pickle protocol. No code in
    it is run.

    Raises:
        DataError: if the file cannot be read, is not such a file, is not whole, or asks for anything but
            numbers, text and arrays.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        return _landmarks(unpickle(data))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _landmarks(content: Any) -> Landmarks:
    """The ground truth in unpickled content; the `DataError` for other content does not name the file."""
    imlist, qimlist, gnd = _entries(content, ("imlist", "qimlist", "gnd"), "the file")
    images, names = _names(imlist, "imlist"), _names(qimlist, "qimlist")
    if not isinstance(gnd, list | tuple):
        raise DataError(f"gnd is {kind(gnd)}, must be a list")
    if len(gnd) != len(names):
        raise DataError(
            f"gnd has {counted(len(gnd), 'entry')} for the {counted(len(names), 'name')} of qimlist"
        )
    queries, indices = [], 0
    for row, entry in enumerate(gnd):
        box, *lists = _entries(entry, ("bbx", "easy", "hard", "junk"), f"gnd {row}")
        easy, hard, junk = (
            _indices(v, len(images), f"gnd {row}, {name}") for name, v in zip(("easy", "hard", "junk"), lists)
        )
        values, counts = np.unique(np.concatenate([easy, hard, junk]), return_counts=True)
        if (counts > 1).any():
            raise DataError(f"gnd {row}: image {values[counts > 1][0]} is there twice in easy, hard and junk")
        indices += len(values)
        if indices > _MOST_INDICES:
            raise DataError(f"gnd has more than {_MOST_INDICES} indices")
        queries.append(LandmarkQuery(names[row], _box(box, f"gnd {row}, bbx"), easy, hard, junk))
    return Landmarks(images, queries)


def _entries(value: Any, keys: tuple[str, ...], what: str) -> list[Any]:
    """The values of some keys of a dict, which must have all of them."""
    if not isinstance(value, dict):
        raise DataError(f"{what} is {kind(value)}, must be a dict of {', '.join(keys)}")
    if missing := [key for key in keys if key not in value]:
        raise DataError(f"{what} has no {missing[0]}")
    return [value[key] for key in keys]


def _names(value: Any, what: str) -> list[str]:
    """Names of images. They become file names, so none may lead to another folder."""
    if not isinstance(value, list | tuple) or not value:
        raise DataError(
            f"{what} is {'empty' if isinstance(value, list) else kind(value)}, must be a list of names"
        )
    names = []
    for k, name in enumerate(value):
        name = name.decode("latin1") if isinstance(name, bytes) else name
        if (
            not isinstance(name, str)
            or not name.isprintable()
            or not name.strip(".")
            or "/" in name
            or "\\" in name
        ):
            shown = f"{name[:60]!a}" if isinstance(name, str) else kind(name)
            raise DataError(f"{what} {k} is {shown}, must be the plain name of an image")
        names.append(name)
    return names


def _values(value: Any, types: tuple[type, ...], what: str) -> np.ndarray:
    """The numbers of a list or tuple, or of an array of one dimension: (n,), in the array's type, int64 or
    float64.
    """
    if (
        isinstance(value, PickledArray)
        and value.values is not None
        and (value.values.ndim == 1 or not value.values.size)
    ):
        return value.values.reshape(-1)
    if not isinstance(value, list | tuple):
        raise DataError(f"{what} is {kind(value)}, must be a list or an array of one dimension")
    if not all(type(number) in types and -_LARGEST < number < _LARGEST for number in value):
        raise DataError(
            f"{what} holds something that is not {' or '.join(t.__name__ for t in types)}, or is out of range"
        )
    return np.array(value)


def _indices(value: Any, images: int, what: str) -> np.ndarray:
    """Indices of database images, int64 (n,)."""
    values = _values(value, (int,), what)
    if not len(values):
        return np.empty(0, dtype=np.int64)  # numpy calls an empty list float64
    if values.dtype.kind not in "iu":
        raise DataError(f"{what} is an array of {values.dtype}, must be of integers")
    if values.min() < 0 or values.max() >= images:
        raise DataError(f"{what} holds an index that is not from 0 to {images - 1}")
    return values.astype(np.int64)


def _box(value: Any, what: str) -> Box:
    """A box of four finite numbers that is not empty."""
    values = _values(value, (int, float), what)
    if len(values) != 4 or not np.isfinite(values).all():
        raise DataError(f"{what} must be 4 finite numbers")
    x0, y0, x1, y1 = (float(v) for v in values)
    if x1 <= x0 or y1 <= y0:
        raise DataError(f"{what} is empty: {x0:g}, {y0:g}, {x1:g}, {y1:g}")
    return x0, y0, x1, y1
