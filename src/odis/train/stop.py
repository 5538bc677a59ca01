"""Ctrl-C, SIGTERM and SIGUSR1 during training: they stop it between two steps, and a wait at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from odis.errors import Preempted
from odis.machine.ranks import Ranks

PREEMPTION: signal.Signals | None = getattr(signal, "SIGUSR1", None)
"""What SLURM is told to send before the time of a job is up; Windows has none."""


class Interrupted(KeyboardInterrupt):
    """A signal ended a wait: no step was under way, so that the state can be saved."""


class Stop:
    """Whether a signal asked training to stop.

    Args:
        ranks: This rank. Several must stop after the same step, so that none of their waits is interrupted.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.asked, self._waits, self._preempted = ranks, False, False, False

    def is_set(self) -> bool:
        """Whether to stop now: whether any rank was asked to. All ranks call it after each step."""
        return self.ranks.any(self.asked)

    def interruption(self) -> KeyboardInterrupt:
        """What to raise once the state is saved. All ranks call it."""
        return Preempted() if self.ranks.any(self._preempted) else KeyboardInterrupt()

    @contextlib.contextmanager
    def at_once(self, *, alone: bool = False) -> Iterator[None]:
        """While this block runs, a signal interrupts it; among several ranks only if `alone`.

        Args:
            alone: What this rank does in the block the others do not: they wait for its end.

        Raises:
            Interrupted: A signal came.
        """
        if self.ranks.distributed and not alone:
            yield
            return
        self._waits = True
        try:
            if self.asked:
                raise Interrupted
            yield
        finally:
            self._waits = False

    def ask(self, signum: int, frame: Any) -> None:
        """The handler of the signals: the first asks, a second one interrupts whatever runs. A scheduler may
        send SIGUSR1 several times, which is once.
        """
        if self.asked:
            if signum == PREEMPTION:
                return
            raise KeyboardInterrupt
        self.asked, self._preempted = True, signum == PREEMPTION
        if self._waits:
            raise Interrupted


@contextlib.contextmanager
def stop_signals(ranks: Ranks) -> Iterator[Stop]:
    """Ctrl-C, SIGTERM and SIGUSR1 ask the loop to stop instead of ending the process."""
    stop = Stop(ranks)
    kinds = [signal.SIGINT, signal.SIGTERM, *([] if PREEMPTION is None else [PREEMPTION])]
    try:
        previous = {s: signal.signal(s, stop.ask) for s in kinds}
    except ValueError:  # not the main thread, which alone may handle signals
        yield stop
        return
    try:
        yield stop
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)
