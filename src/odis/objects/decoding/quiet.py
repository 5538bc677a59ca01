"""Pillow, without what it warns of and logs."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# It logs an error for a number of channels that it does not know, before anyone has asked for these.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters: warnings.catch_warnings[None] | None = None


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Nothing that Pillow warns of is shown: what matters is an error, and the rest (a photo of 96
    megapixels, EXIF that is cut off) concerns no pixel. Threads may be in it at the same time.
    """
    global _quiet_depth, _quiet_filters
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_filters is not None:
                _quiet_filters.__exit__(None, None, None)
