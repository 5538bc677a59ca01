"""Loops over pixels, runs and candidates, compiled to machine code when they are first called (numba)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(*, reorder: bool = False) -> Callable[[F], F]:
    """A decorator: the function, compiled for the types that it is called with.

    The machine code is kept on disk (beside the source, or in the user's cache folder; `NUMBA_CACHE_DIR` says
    otherwise), so that no process compiles what another has. It is made anew when its own file has changed,
    not when another has: compiled functions call only those of their own file.

    Args:
        reorder: Whether sums may be taken in another order and products added unrounded, as vector
            instructions do it. NaN and infinity are what they are without.
    """
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "nsz"} if reorder else False,
    }

    def decorate(function: F) -> F:
        try:
            machine_code: F = njit(cache=True, **options)(function)
        except RuntimeError:  # a file can be written neither beside the source nor in the user's folder
            machine_code = njit(**options)(function)
        return machine_code

    return decorate
