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
_LOOKS = 4  # in a beat, where a failure is to be explained


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
    """A thread that beats, and looks at the beats of the others; and one that sees whether the store answers.

    Args:
        store: Where the beats are.
        rank: This rank.
        world_size: How many there are.
        start: Of these ranks, in a word: `torchrun`'s store outlives a start of its ranks.
        end: Called with a line when a rank was silent for too long.
        beat: Seconds between two beats.
        limit: Seconds of silence. Those of a rank are counted in looks at the store that it answered: while
            this process is stopped, or the store is away, the others can say nothing. Those of the store are
            counted in beats of this process.
    """

    def __init__(
        self, store: Store, rank: int, world_size: int, start: str, *,
        end: Callable[[str], None] = end_now, beat: float = BEAT, limit: float = LIMIT,
    ) -> None:  # fmt: skip
        self._store, self._rank, self._end, self._beat, self._limit = store, rank, end, beat, limit
        self._keys = [f"odis/beat/{start}/{one}" for one in range(world_size)]
        self._host = socket.gethostname()
        self._seen: dict[int, tuple[str, int]] = {}  # what each said last, and in how many looks since
        self._hosts: dict[int, str] = {}
        self._lock, self._stopped, self._left = threading.Lock(), threading.Event(), threading.Event()
        self._answers = 0
        self._set("0")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Beat from now on. All ranks have been made."""
        self._thread.start()
        self._watcher.start()

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
        finally:
            self._left.set()

    def missing(self) -> str | None:
        """Who has ended, after a collective failed, in words: a rank that said so, or has stopped beating.
        It takes four beats at most. None if all are there.
        """
        first = self._read()
        changed: set[int] = {self._rank}
        for _ in range(4 * _LOOKS):
            time.sleep(self._beat / _LOOKS)
            now = self._read()
            if first is None or now is None:
                return self._store_line()
            for one, text in now.items():
                if text.startswith(f"{_LEFT} "):
                    return f"{self._name(one)} ended: {text.removeprefix(_LEFT).strip()}"
            changed |= {one for one, text in now.items() if text != first[one]}
        gone = sorted(set(range(len(self._keys))) - changed)
        return f"{self._name(gone[0])} is gone" if gone else None

    def _run(self) -> None:
        count = 0
        while not self._stopped.wait(self._beat):
            count += 1
            if (values := self._beat_once(count)) is None:
                continue
            self._answers += 1
            if (gone := self._silent(values)) is not None:
                return self._end(
                    f"{self._name(gone)} was not heard of for {self._limit:g} s: it or its node is gone. "
                    f"The same command resumes from the newest checkpoint"
                )

    def _watch(self) -> None:
        """End this process if the store has not answered for so many beats. A look at one that is cut off may
        take minutes, whatever its timeout.
        """
        beats, before = 0, -1
        while not self._left.wait(self._beat):
            beats = beats + 1 if self._answers == before else 0
            before = self._answers
            if beats * self._beat >= self._limit:
                return self._end(self._store_line())

    def _silent(self, values: dict[int, str]) -> int | None:
        """A rank that has said the same in all looks of the limit, of which this is one."""
        for one, value in values.items():
            said, looks = self._seen.get(one, ("", 0))
            same = said == value and one != self._rank and not value.startswith(_LEFT)
            self._seen[one] = (value, looks + 1 if same else 0)
            # A beat is at most one look older than the first look that saw it.
            if self._seen[one][1] >= max(1, round(self._limit / self._beat) - 1):
                return one
        return None

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
