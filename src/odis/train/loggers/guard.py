"""What keeps a run safe from its loggers: each works in a thread of its own, behind a queue.

Starting one may take minutes or fail, a server may go away and come back: the run does not wait. What a
logger could not take is counted, and said at the end. `metrics.jsonl` has it.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from odis.config.wording import counted
from odis.train.loggers.sent import SentLines

PATIENCE = 60.0
"""Seconds that the end of a run waits for a logger that is still busy."""

_HELD = 10_000  # entries that wait for a logger; further ones are lost

_GIVE_UP = 20  # entries in a row that fail


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """What a logger is told of a run.

    Args:
        folder: The run's folder.
        name: What the run is called.
        config: Its settings, flat: `train.batch_size`.
        start_step: Steps taken before; what was logged behind it is logged again.
        sent: What earlier calls sent; a logger keeps the id of its run in it.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    start_step: int
    sent: SentLines = field(compare=False)


class MetricLogger(Protocol):
    """A logger. Any method may raise anything, and take any time."""

    rewinds: bool
    """Whether it forgets by itself what lies behind the step that a run is resumed from."""

    def start(self, run: LoggedRun) -> None:
        """Begin, or go on with the run of an earlier call."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Log the values after `step` steps. None is NaN or infinite, unless the logger can show them."""

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Log pictures, uint8 (height, width, 3)."""

    def finish(self, complete: bool) -> None:
        """End; the run is complete, or it will be resumed."""


class GuardedLogger:
    """A logger in its thread.

    Args:
        name: As in `train.loggers`.
        make: Makes the logger; called in the thread.
        run: What it is told.
        warn: Called with one line if it fails; from the thread.
    """

    def __init__(
        self, name: str, make: Callable[[], MetricLogger], run: LoggedRun, warn: Callable[[str], None]
    ) -> None:
        self.name, self.lost = name, 0
        self._make, self._run, self._warn = make, run, warn
        self._queue: queue.Queue[Callable[[MetricLogger], None] | None] = queue.Queue(_HELD)
        self._complete = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"odis-{name}", daemon=True)
        self._thread.start()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Hand over values, unless an earlier call sent those of this step; returns at once."""
        kind = "steps" if "loss" in values else "scores"

        def log(logger: MetricLogger) -> None:
            if not logger.rewinds and self._run.sent.has(self.name, kind, step):
                return
            logger.scalars(step, values)
            self._run.sent.note(self.name, kind, step)

        self._put(log)

    def pictures(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Hand over pictures likewise."""

        def log(logger: MetricLogger) -> None:
            if not logger.rewinds and self._run.sent.has(self.name, "pictures", step):
                return
            logger.pictures(step, pictures)
            self._run.sent.note(self.name, "pictures", step)

        self._put(log)

    def close(self, complete: bool, patience: float | None = None) -> None:
        """End the logger, and say what it lost; waits so many seconds at most."""
        self._complete = complete
        seconds = PATIENCE if patience is None else patience
        try:
            self._queue.put(None, timeout=seconds)
            self._done.wait(seconds)
        except queue.Full:
            pass
        if not self._done.is_set():
            self._warn(f"{self.name}: is still busy after {seconds:g} seconds, and is left behind")
            self.lost += self._queue.qsize()
        if self.lost:
            self._warn(
                f"{self.name}: {counted(self.lost, 'entry was', 'entries were')} lost; metrics.jsonl has "
                f"every value"
            )

    def _put(self, entry: Callable[[MetricLogger], None]) -> None:
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            self.lost += 1

    def _work(self) -> None:
        logger = self._started()
        failed = 0
        while (entry := self._queue.get()) is not None:
            if logger is None or failed >= _GIVE_UP:
                self.lost += 1
                continue
            try:
                entry(logger)
                failed = 0
            except Exception as error:  # a server that is away, a full disk, a value it does not like
                self.lost += 1
                failed += 1
                if failed in (1, _GIVE_UP):
                    given_up = "; it is not tried any more" if failed == _GIVE_UP else ""
                    self._warn(f"{self.name}: {_line(error)}{given_up}")
        if logger is not None:
            self._finish(logger)
        self._done.set()

    def _started(self) -> MetricLogger | None:
        try:
            logger = self._make()
            logger.start(self._run)
        except (Exception, SystemExit) as error:
            self._warn(f"{self.name}: could not start ({_line(error)}); the run goes on without it")
            return None
        return logger

    def _finish(self, logger: MetricLogger) -> None:
        try:
            self._run.sent.flush()
            logger.finish(self._complete)
        except (Exception, SystemExit) as error:
            self._warn(f"{self.name}: could not end ({_line(error)})")


def finite(values: dict[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """The values that are numbers, and the others as text."""
    good = {name: float(value) for name, value in values.items() if math.isfinite(value)}
    return good, {name: str(value) for name, value in values.items() if name not in good}


def cut(value: Any, longest: int) -> str:
    """A setting as text that a server takes."""
    text = str(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _line(error: BaseException) -> str:
    said = " ".join((str(error) or type(error).__name__).split())
    return said if len(said) <= 200 else f"{said[:197]}..."
