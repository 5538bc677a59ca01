"""Where the ranks of a start meet: a word of their own in the store of `torchrun`, which keeps what ranks of
earlier starts wrote.

torch shares one store among all starts of a job, and puts each rank's address under the same key in all of
them: a rank that is faster than another would connect to where that one was before it was killed.
"""

from __future__ import annotations

import secrets
import time
from datetime import timedelta
from typing import Protocol

from odis.errors import OdisError

LIMIT = 1800.0
"""Seconds that ranks wait for each other at a start, as torch's do."""

_WORD = "odis/start"
_PAUSE = 0.5  # seconds between two looks, at most


class SharedStore(Protocol):
    """What is used of torch's stores."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def multi_get(self, keys: list[str]) -> list[bytes]: ...
    def check(self, keys: list[str]) -> bool: ...
    def wait(self, keys: list[str], timeout: timedelta) -> None: ...


def meet(store: SharedStore, rank: int, world_size: int, *, limit: float = LIMIT) -> str:
    """A word that all ranks of this start get, and none of another start.

    The first rank offers a new word. The others answer each word that they find with a number of their own,
    since it may be one of an earlier start, and take that whose answers hold theirs.

    Args:
        store: Of all ranks, and perhaps of earlier starts.
        rank: This rank.
        world_size: How many there are.
        limit: Seconds to wait.

    Raises:
        OdisError: The others did not come in time.
    """
    mine, until = secrets.token_hex(8), time.monotonic() + limit
    if rank == 0:
        store.set(_WORD, mine)
        answers = [f"{_WORD}/{mine}/{one}" for one in range(1, world_size)]
        _wait(store, answers, limit)
        found = [one.decode() for one in store.multi_get(answers)] if answers else []
        store.set(f"{_WORD}/{mine}/all", " ".join(found))
        return mine
    _wait(store, [_WORD], limit)
    answered, pause = "", _PAUSE / 64
    while time.monotonic() < until:
        word = store.get(_WORD).decode()
        if word != answered:
            store.set(f"{_WORD}/{word}/{rank}", mine)
            answered = word
        everyone = f"{_WORD}/{word}/all"
        if store.check([everyone]) and mine in store.get(everyone).decode().split():
            return word
        time.sleep(pause)
        pause = min(2 * pause, _PAUSE)
    raise _late(limit)


def _wait(store: SharedStore, keys: list[str], limit: float) -> None:
    try:
        store.wait(keys, timedelta(seconds=limit))
    except RuntimeError as error:  # of torch's stores
        raise _late(limit) from error


def _late(limit: float) -> OdisError:
    return OdisError(f"not all ranks came within {limit:g} s of the start")
