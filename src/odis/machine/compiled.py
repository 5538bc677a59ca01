"""Python loops compiled to machine code by numba on their first call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(*, reorder: bool = False) -> Callable[[F], F]:
    """A decorator that compiles a function for the types it is called with.

    The machine code is cached on disk: beside the source, in the user's cache folder, or in
    `NUMBA_CACHE_DIR`. The cache is keyed by the function's own file, so a compiled function may call only
    functions of that file.

    Args:
        reorder: Allow vector instructions, which add in another order and fuse products with sums. NaN and
            infinity behave as without.
    """
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "nsz"} if reorder else False,
    }

    def decorate(function: F) -> F:
        try:
            machine_code: F = njit(cache=True, **options)(function)
        except RuntimeError:  # no folder for the cache can be written
            machine_code = njit(**options)(function)
        return machine_code

    return decorate
