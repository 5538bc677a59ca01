"""Read numbers, text and numpy arrays from a pickle without running it.

A pickle is a program. Here none of it runs: opcodes are checked first, and every name in the file becomes one
of a few inert stand-ins, or is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from odis.errors import DataError

MOST_BYTES = 4 << 20
"""Size of the largest file that is read."""

_MOST_COPIED = 1 << 28  # bytes: a file may make many arrays of one text
_DEEPEST = 8  # tuples in tuples; a numpy array takes three

# Opcodes that no ground truth needs. Those that load names and call them pass: `_Unpickler` refuses by name.
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


def kind(value: Any) -> str:
    """A value's type, for messages. The value itself may be endless."""
    return "a numpy array" if isinstance(value, PickledArray) else f"of type {type(value).__name__}"


def unpickle(data: bytes) -> Any:
    """What a pickle holds; numpy arrays come as `PickledArray`.

    Raises:
        DataError: if it is no pickle, is not whole, or asks for anything else.
    """
    if len(data) > MOST_BYTES:
        raise DataError(f"has more than {MOST_BYTES >> 20} MiB, too much for a ground truth")
    try:
        _check_opcodes(data)
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except DataError:
        raise
    except Exception as error:  # pickle promises no particular ones for bad data
        reason = " ".join(ascii(str(error)).split())[:120]
        raise DataError(f"not a ground truth, or not whole ({type(error).__name__}: {reason})") from error


def _check_opcodes(data: bytes) -> None:
    """Refuse opcodes that would exhaust memory or crash the process, before anything is built.

    Python's own unpickler allocates for any memo index and any length in the file, and overflows the stack
    when it hashes deep tuples. So an index is at most the number of opcodes so far, a length ends in the file
    (`genops` checks it), and the depth of tuples is tracked through stack and memo. A call copies at most the
    longest text.
    """
    stack: list[int] = []  # depth in tuples of each item; a result is as deep as the deepest operand
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
        """The stand-in of a name; other names are refused."""
        make = _STAND_INS.get((module, name))
        if make is None:
            raise DataError(
                f"asks to load {f'{module}.{name}'[:80]!a}, which no ground truth needs; it was not loaded"
            )
        return _StandIn(make)

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse references to objects outside the file."""
        raise DataError("refers to an object outside the file")


class _StandIn:
    """What a name of the file becomes: a callable that is no type and takes no attributes."""

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


class PickledArray:
    """A numpy array of the file; `values` is None until its state is read."""

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
        raise DataError(f"holds a numpy array that is not whole: a part is {kind(value)}")
    return value


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    """How numpy writes arrays in pickle protocol 5."""
    array = PickledArray()
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
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",  # how Python 3 writes no bytes in protocols 0 to 2
}
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = PickledArray
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _scalar
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _from_buffer
