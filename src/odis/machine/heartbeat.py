"""Whether the other ranks are still there: each counts up in the store that started the group, and reads what
the others count.

A process that is killed closes its connections, and collectives of the others fail at once, without saying
who it was. A node that loses power or network closes nothing: the others would wait as long as a collective
may take.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

import torch.distributed as dist

BEAT = 2.0
"""Seconds between two beats."""

LIMIT = 60.0
"""Seconds without a beat after which a rank is given up, and with it the others."""

_LEFT = "left"


class Store(Protocol):
    """What is used of torch's `TCPStore`."""

    def set(self, key: str, value: str) -> None: ...
    def multi_get(self, keys: list[str]) -> list[bytes]: ...


def open_store() -> Store:
    """The store of the process group, over a connection of its own: `torchrun`'s, or the first rank's."""
    store: Store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None, False, timedelta(seconds=LIMIT / 2)
    )
    return store


def end_now(line: str) -> None:
    """End this process with a line: its main thread may wait in a collective for good."""
    print(f"error: {line}", file=sys.stderr, flush=True)
    os._exit(1)


class Heartbeat:
    """A thread that beats, and looks at the beats of the others.

    Args:
        store: Where the beats are.
        rank: This rank.
        world_size: How many there are.
        end: Called with a line when a rank was silent for too long.
        beat: Seconds between two beats.
        limit: Seconds of silence.
    """

    def __init__(
        self, store: Store, rank: int, world_size: int, *, end: Callable[[str], None] = end_now,
        beat: float = BEAT, limit: float = LIMIT,
    ) -> None:  # fmt: skip
        self._store, self._rank, self._end, self._beat, self._limit = store, rank, end, beat, limit
        # torchrun's store outlives a start of its ranks.
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._keys = [f"odis/beat/{start}/{one}" for one in range(world_size)]
        self._host = socket.gethostname()
        self._seen: dict[int, tuple[str, float]] = {}
        self._hosts: dict[int, str] = {}
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._set("0")
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Beat from now on. All ranks have been made."""
        self._thread.start()

    def stop(self, why: str = "") -> None:
        """Beat no more. This rank is missed by nobody then.

        Args:
            why: What went wrong, for the others to say.
        """
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(self._beat + self._limit)
        try:
            self._set(f"{_LEFT} {why}".strip())
        except Exception:  # the store is gone: nobody is there to be told
            return

    def missing(self) -> str | None:
        """Who has ended, after a collective failed, in words: a rank that said so, or has stopped beating.
        It takes a few beats. None if all are there.
        """
        before = after = self._read()
        for _ in range(4):
            time.sleep(self._beat)
            after = self._read()
            if before is None or after is None:
                return self._store_line()
            for one, text in after.items():
                if text.startswith(f"{_LEFT} "):
                    return f"{self._name(one)} ended: {text.removeprefix(_LEFT).strip()}"
        assert before is not None
        assert after is not None
        gone = [one for one in before if one != self._rank and before[one] == after[one]]
        return f"{self._name(gone[0])} is gone" if gone else None

    def _run(self) -> None:
        count, fails_since = 0, None
        while not self._stopped.wait(self._beat):
            count += 1
            values = self._beat_once(count)
            now = time.monotonic()
            if values is None:
                fails_since = fails_since or now
                if now - fails_since >= self._limit:
                    return self._end(self._store_line())
                continue
            fails_since = None
            for one, value in values.items():
                if one == self._rank or value.startswith(_LEFT) or self._seen.get(one, ("", 0.0))[0] != value:
                    self._seen[one] = (value, now)
                elif now - self._seen[one][1] >= self._limit:
                    return self._end(
                        f"{self._name(one)} was not heard of for {self._limit:g} s: it or its node is gone. "
                        f"The same command resumes from the newest checkpoint"
                    )

    def _beat_once(self, count: int) -> dict[int, str] | None:
        try:
            self._set(str(count))
        except Exception:  # whatever the client raises: there is no answer
            return None
        return self._read()

    def _set(self, text: str) -> None:
        with self._lock:
            self._store.set(self._keys[self._rank], f"{self._host}\n{text}")

    def _read(self) -> dict[int, str] | None:
        """What each rank says now; None if the store does not answer."""
        try:
            with self._lock:
                found = self._store.multi_get(self._keys)
        except Exception:
            return None
        texts: dict[int, str] = {}
        for one, value in enumerate(found):
            self._hosts[one], _, texts[one] = value.decode(errors="replace").partition("\n")
        return texts

    def _name(self, rank: int) -> str:
        return f"rank {rank} of {len(self._keys)}, on {self._hosts.get(rank, 'an unknown host')},"

    def _store_line(self) -> str:
        where = os.environ.get("MASTER_ADDR", "unknown")
        return (
            f"the first node ({where}) does not answer: it is gone. The same command resumes from the newest "
            f"checkpoint"
        )


def is_of_a_peer(error: Any) -> bool:
    """Whether an exception is that of a collective whose other end is gone."""
    words = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
