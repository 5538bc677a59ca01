"""Where a reader takes an image from: a file, or bytes that were fetched; and the package that it needs."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from odis.errors import DataError

Check = Callable[[int, int], object]
"""Called with the width and height of an image that is open, before it is decoded; raises what refuses it."""


@dataclass(frozen=True, slots=True)
class Source:
    """An image file, by its path, or by its content if that was fetched."""

    path: str
    data: bytes | None = None

    def package(self, name: str, extra: str) -> Any:
        """A package that reads it.

        Raises:
            DataError: It is not installed; the message says how to install it.
        """
        try:
            found: ModuleType = import_module(name)
        except ImportError as error:
            raise DataError(f"{self.path}: needs {name}: pip install 'odis[{extra}]'") from error
        return found


def opened_source(source: Source) -> str | io.BytesIO:
    """What readers of Python objects and of paths open."""
    return source.path if source.data is None else io.BytesIO(source.data)
