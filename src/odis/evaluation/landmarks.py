"""Retrieval of landmarks: the Revisited Oxford and Paris protocol, its ground-truth files and its scores.

Radenovic et al., "Revisiting Oxford and Paris", CVPR 2018, arXiv 1803.11285; the numbers are those of the
published `revisitop` code. This module knows no image and no model. The published ground truth is a pickle,
and a pickle is a program. Here none of it runs: the opcodes are checked first, and then every name that the
file asks for is either one of a few inert stand-ins or refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from odis.errors import DataError, OdisError
from odis.types import Box

SETUPS = {
    "easy": (("easy",), ("hard", "junk")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("easy", "junk")),
}
"""For each setup of the protocol: the lists of a query that are positives, and those that are ignored."""

_MOST_BYTES = 4 << 20  # the published files are far below 1 MB
_MOST_INDICES = 1 << 22  # of all queries together: a file may name one list many times
_MOST_COPIED = 1 << 28  # bytes: a file may make many arrays of one text
_LARGEST = 1 << 40  # of numbers
_DEEPEST = 8  # tuples in tuples; a numpy array takes three


@dataclass(frozen=True, slots=True, eq=False)
class LandmarkQuery:
    """One query: an image's name without extension, the landmark's box in it, and what the database holds of
    the landmark.

    `easy`, `hard` and `junk` are int64 (n,), indices of database images, in the file's order; no index is in
    two of them.
    """

    name: str
    box: Box
    easy: np.ndarray
    hard: np.ndarray
    junk: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """A ground truth: the names of the database images, without extension, and the queries. Indices count in
    `images`.
    """

    images: list[str]
    queries: list[LandmarkQuery]


def load_ground_truth(path: str | Path) -> Landmarks:
    """Read `gnd_roxford5k.pkl`, `gnd_rparis6k.pkl`, or a file like them, of any pickle protocol. No code in
    it is run.

    Raises:
        DataError: if the file cannot be read, is not such a file, is not whole, or asks for anything but
            numbers, text and arrays.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        return _landmarks(_unpickle(data))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def landmark_scores(
    similarity: Tensor | np.ndarray, truth: Landmarks, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, dict[str, np.ndarray]]:
    """Average precision and precision at k of every query, in each setup of the protocol.

    All database images are ranked by similarity, ignored ones are taken out, and the precision before and
    after each positive is averaged (`compute_ap`). Precision at k looks at the first min(k, rank of the last
    positive) images (`compute_map`). Of equally similar images the one with the lower index comes first; the
    published example leaves that order to its sort.

    Args:
        similarity: (queries, images), any float type; higher is more similar.
        truth: The ground truth, in the same order.
        ks: Ranks of the precisions, each at least 1.

    Returns:
        For `easy`, `medium` and `hard`: `ap` and one `p@k` for each k, float64 (queries,), from 0 to 1; nan
        where a query has no positive in the setup.

    Raises:
        OdisError: if a k is below 1, or the similarities have another shape or are not finite.
    """
    if min(ks, default=1) < 1:
        raise OdisError(f"k {min(ks)} must be at least 1")
    if isinstance(similarity, Tensor):
        similarity = similarity.detach().cpu().double().numpy()
    similarity = np.asarray(similarity, dtype=np.float64)
    wanted = (len(truth.queries), len(truth.images))
    if similarity.shape != wanted:
        raise OdisError(
            f"similarities are {similarity.shape}, must be {wanted}: one row a query, one column a "
            f"database image"
        )
    if not np.isfinite(similarity).all():
        raise OdisError(
            "similarities hold values that are not finite: the model's weights or its precision are at fault"
        )
    names = ["ap", *(f"p@{k}" for k in ks)]
    scores = {setup: {name: np.full(len(truth.queries), np.nan) for name in names} for setup in SETUPS}
    for row, query in enumerate(truth.queries):
        order = np.argsort(-similarity[row], kind="stable")
        for setup, (positive, ignored) in SETUPS.items():
            ranks = _ranks(
                order,
                *(np.concatenate([getattr(query, name) for name in lists]) for lists in (positive, ignored)),
            )
            if len(ranks):
                scores[setup]["ap"][row] = _average_precision(ranks)
                for k in ks:
                    first = min(int(ranks[-1]) + 1, k)
                    scores[setup][f"p@{k}"][row] = np.count_nonzero(ranks < first) / first
    return scores


def landmark_means(scores: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    """`mAP` and `mP@k` in percent, for each setup, over the queries that have positives in it; nan if none
    has.

    Args:
        scores: Of `landmark_scores`.
    """
    means: dict[str, dict[str, float]] = {}
    for setup, arrays in scores.items():
        known = {name: values[~np.isnan(values)] for name, values in arrays.items()}
        means[setup] = {
            f"m{name.upper()}": 100 * float(v.mean()) if len(v) else math.nan for name, v in known.items()
        }
    return means


def _ranks(order: np.ndarray, positive: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Ranks of the positives in `order` (images,) without the ignored, from 0, ascending, int64
    (positives,).
    """
    sought, kept = np.zeros(len(order), dtype=bool), np.ones(len(order), dtype=bool)
    sought[positive], kept[ignored] = True, False
    return np.flatnonzero(sought[order[kept[order]]])


def _average_precision(ranks: np.ndarray) -> float:
    """Area under precision over recall by trapezoids; before the first image the precision counts as 1."""
    found = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, found / np.maximum(ranks, 1))
    after = (found + 1) / (ranks + 1)
    return float(((before + after) / 2).mean())


def _landmarks(content: Any) -> Landmarks:
    """The ground truth that unpickled content stands for; a DataError, without the file's name, if it is
    none.
    """
    imlist, qimlist, gnd = _entries(content, ("imlist", "qimlist", "gnd"), "the file")
    images, names = _names(imlist, "imlist"), _names(qimlist, "qimlist")
    if not isinstance(gnd, list | tuple):
        raise DataError(f"gnd is {_kind(gnd)}, must be a list")
    if len(gnd) != len(names):
        raise DataError(f"gnd has {len(gnd)} entries for the {len(names)} names of qimlist")
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


def _kind(value: Any) -> str:
    """A value's type, for messages. The value itself may be endless."""
    return "a numpy array" if isinstance(value, _Array) else f"of type {type(value).__name__}"


def _entries(value: Any, keys: tuple[str, ...], what: str) -> list[Any]:
    """The values of a dict under some keys, all of which it must have."""
    if not isinstance(value, dict):
        raise DataError(f"{what} is {_kind(value)}, must be a dict of {', '.join(keys)}")
    if missing := [key for key in keys if key not in value]:
        raise DataError(f"{what} has no {missing[0]}")
    return [value[key] for key in keys]


def _names(value: Any, what: str) -> list[str]:
    """Names of images. They become file names, so none may lead to another folder."""
    if not isinstance(value, list | tuple) or not value:
        raise DataError(
            f"{what} is {'empty' if isinstance(value, list) else _kind(value)}, must be a list of names"
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
            shown = f"{name[:60]!a}" if isinstance(name, str) else _kind(name)
            raise DataError(f"{what} {k} is {shown}, must be the plain name of an image")
        names.append(name)
    return names


def _values(value: Any, types: tuple[type, ...], what: str) -> np.ndarray:
    """The numbers of a list or tuple, or of an array of one dimension: (n,), in the array's type, int64 or
    float64.
    """
    if (
        isinstance(value, _Array)
        and value.values is not None
        and (value.values.ndim == 1 or not value.values.size)
    ):
        return value.values.reshape(-1)
    if not isinstance(value, list | tuple):
        raise DataError(f"{what} is {_kind(value)}, must be a list or an array of one dimension")
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


# Opcodes that no ground truth needs. Those that load names and call them pass: `_Unpickler` decides, and says
# the name.
_REFUSED = {
    "POP",
    "POP_MARK",
    "DUP",
    "EXT1",
    "EXT2",
    "EXT4",
    "EMPTY_SET",
    "ADDITEMS",
    "FROZENSET",
    "NEXT_BUFFER",
    "READONLY_BUFFER",
}


def _unpickle(data: bytes) -> Any:
    """What a pickle holds; numpy arrays come as `_Array`.

    Raises:
        DataError: if it is no pickle, is not whole, or asks for anything else.
    """
    if len(data) > _MOST_BYTES:
        raise DataError(f"has more than {_MOST_BYTES >> 20} MiB, too much for a ground truth")
    try:
        _check_opcodes(data)
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except DataError:
        raise
    except Exception as error:  # pickle promises no particular ones for bad data
        reason = " ".join(ascii(str(error)).split())[:120]
        raise DataError(f"not a ground truth, or not whole ({type(error).__name__}: {reason})") from error


def _check_opcodes(data: bytes) -> None:
    """Walk through a pickle's opcodes, building nothing, and stop at those that would cost memory or the
    process.

    Python's own unpickler makes room for any memo index and any length that a file names, and hashes tuples
    of any depth on the stack of the process, which ends it. So indices are at most the number of opcodes so
    far, lengths end in the file (`genops` sees to that), and the depth of tuples is followed through stack
    and memo. A call copies at most the longest text.
    """
    stack: list[
        int
    ] = []  # how deep in tuples each item is; what an opcode leaves is as deep as the deepest it took
    marks: list[int] = []
    memo: dict[int, int] = {}
    calls = longest = 0
    value: Any
    for count, (opcode, value, _) in enumerate(pickletools.genops(data)):
        name, before = opcode.name, opcode.stack_before
        if name in _REFUSED or opcode.proto > 5:
            raise DataError(f"uses the pickle opcode {name}, which no ground truth needs")
        calls += name in ("REDUCE", "BUILD", "OBJ", "INST")
        longest = max(longest, len(value)) if isinstance(value, str | bytes | bytearray) else longest
        if calls * longest > _MOST_COPIED:
            raise DataError("makes too many arrays of too many bytes")
        if name == "MARK":
            marks.append(len(stack))
        elif name == "MEMOIZE" or name.endswith("PUT"):
            place = len(memo) if value is None else value
            if not 0 <= place <= count:
                raise DataError("names a place in the pickle's memo that is out of range")
            memo[place] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[value])
        else:
            marked = pickletools.markobject in before
            start = marks.pop() - before.index(pickletools.markobject) if marked else len(stack) - len(before)
            if start < (marks[-1] if marks else 0):
                raise DataError("is not a whole pickle: an opcode takes more than there is")
            depth = max(stack[start:], default=0) + ("TUPLE" in name)
            if depth > _DEEPEST:
                raise DataError(f"nests tuples more than {_DEEPEST} deep")
            stack[start:] = [depth] * len(opcode.stack_after)


class _Unpickler(pickle.Unpickler):
    """An unpickler that imports nothing and knows only the stand-ins below."""

    def find_class(self, module: str, name: str, /) -> _StandIn:
        """The stand-in of a name; any other name is an error that says it."""
        make = _STAND_INS.get((module, name))
        if make is None:
            raise DataError(
                f"asks to load {f'{module}.{name}'[:80]!a}, which no ground truth needs; it was not loaded"
            )
        return _StandIn(make)

    def persistent_load(self, pid: Any) -> NoReturn:
        """No file may refer to anything outside it."""
        raise DataError("refers to an object outside the file")


class _StandIn:
    """What a name of the file becomes: something the file can call, and nothing more. Not a type, and it
    takes no attributes.
    """

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise DataError("tries to change a function")


class _DType:
    """A numpy dtype of the file: its code, such as `i8`, then (`__setstate__`) its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        if _of(str, code) not in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"):
            raise DataError(f"holds a numpy array of type {code[:20]!a}, must be int or float")
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|") or any(part is not None for part in state[2:5]):
            raise DataError("holds a numpy dtype that is not a plain number")
        self.order = order

    def decode(self, data: Any) -> np.ndarray:
        """The numbers in some bytes, (n,) in the byte order of this machine."""
        raw = data.encode("latin1") if isinstance(data, str) else bytes(memoryview(data))
        size = int(self.code[1])
        if len(raw) % size or (size > 1 and self.order == "|"):
            raise DataError("holds a numpy array that is not whole")
        return np.frombuffer(raw, self.order + self.code).astype(self.code) if raw else np.empty(0, self.code)


class _Array:
    """A numpy array of the file; `values` is None until its state was read."""

    __slots__ = ("values",)

    def __init__(self, *_: Any) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        values = _of(_DType, dtype).decode(data)
        if math.prod(_of(tuple, shape)) != len(values):
            raise DataError("holds a numpy array that is not whole")
        self.values = values.reshape(shape, order="F" if fortran else "C")


def _of(wanted: type[Any], value: Any) -> Any:
    """The value, which must be of a type."""
    if not isinstance(value, wanted):
        raise DataError(f"holds a numpy array that is not whole: a part is {_kind(value)}")
    return value


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """How numpy writes arrays in pickle protocol 5."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _scalar(dtype: Any, data: Any) -> int | float:
    """A number of numpy's."""
    number: int | float = _of(_DType, dtype).decode(data).reshape(()).item()
    return number


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes in protocols 0 to 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise DataError("encodes something that is not latin1 text")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",  # how Python 3 writes no bytes in protocols 0 to 2
}
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _Array
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _scalar
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _from_buffer
