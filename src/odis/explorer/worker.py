"""One thread that runs the networks: a question at a time, and embedding while there is none."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from odis.errors import OdisWarning
from odis.explorer.refusal import RefusedError

WAITING = 32
"""Questions that wait at most; each page has one of a kind."""

Pause = Callable[[], None]
"""What a job calls between two pieces of work: it answers the questions that wait."""


class SupersededError(RefusedError):
    """A question that a newer one of the same page took the place of while it waited."""

    def __init__(self) -> None:
        super().__init__(409, "a newer question took its place")


class StoppedError(BaseException):
    """The worker is being closed: a job ends where it pauses. `except Exception` does not take it."""


class NetworkWorker:
    """Runs questions and jobs in a thread of its own; use it as a context manager.

    Questions go first, in the order in which they came. A job, such as embedding an index, calls `pause`
    between its pieces; questions that wait are answered there.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._questions: OrderedDict[Hashable, tuple[Callable[[], Any], Future[Any]]] = OrderedDict()
        self._jobs: deque[Callable[[Pause], None]] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="odis-networks", daemon=True)

    def __enter__(self) -> NetworkWorker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._closing = True
            waiting = [future for _, future in self._questions.values()]
            self._questions.clear()
            self._change.notify()
        for future in waiting:
            _fail(future, RefusedError(503, "the explorer is closing"))
        self._thread.join()

    def ask(self, key: Hashable, work: Callable[[], Any]) -> Future[Any]:
        """Run a question when its turn comes.

        Args:
            key: Who asks what kind of question: one that waits with the same key is given up.
            work: Answers it.

        Returns:
            Its answer, or `SupersededError`, or what `work` raises.

        Raises:
            RefusedError: too many wait already.
        """
        future: Future[Any] = Future()
        with self._change:
            if self._closing:
                raise RefusedError(503, "the explorer is closing")
            older = self._questions.pop(key, None)
            if older is None and len(self._questions) >= WAITING:
                raise RefusedError(503, f"{WAITING} questions wait already; try again later")
            self._questions[key] = (work, future)
            self._change.notify()
        if older is not None:
            _fail(older[1], SupersededError())
        return future

    def add_job(self, job: Callable[[Pause], None]) -> None:
        """Run a job when no question waits and the jobs before it have ended."""
        with self._change:
            self._jobs.append(job)
            self._change.notify()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._questions or self._jobs or self._closing)
                if self._closing:
                    return
                job = None if self._questions else self._jobs.popleft()
            try:
                self._answer() if job is None else job(self._pause)
            except StoppedError:
                return
            except Exception as error:  # the questions after it are still to be answered
                warnings.warn(f"embedding stopped: {error}", OdisWarning, stacklevel=1)

    def _pause(self) -> None:
        self._answer()
        if self._closing:
            raise StoppedError

    def _answer(self) -> None:
        """Answer all questions that wait."""
        while True:
            with self._change:
                if not self._questions or self._closing:
                    return
                _, (work, future) = self._questions.popitem(last=False)
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)


def _fail(future: Future[Any], error: Exception) -> None:
    if future.set_running_or_notify_cancel():  # else who asked has gone
        future.set_exception(error)
