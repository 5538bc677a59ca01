"""What becomes of a run whose data workers are killed, which is how an exhausted memory mostly shows."""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from collections.abc import Iterator
from typing import Any

from odis.errors import WorkerError

# The sentence with which torch begins, from its `DataLoader` or out of its handler of SIGCHLD, wherever the
# main thread then is.
_DIED = "DataLoader worker (pid"
# An error that a worker itself raised arrives with its type and these words.
_RAISED_THERE = "in DataLoader worker process"


def watched(batches: Iterator[Any], workers: int) -> Iterator[Any]:
    """The batches of a `DataLoader`.

    Args:
        batches: The loader's iterator; nobody else should keep it, so that its other workers end with the one
            that was killed.
        workers: Its processes.

    Raises:
        WorkerError: A worker was killed.
    """
    # One that dies between its answer and the handing over of the memory that holds it leaves a socket at
    # which nobody answers.
    unanswered = (EOFError, ConnectionError, FileNotFoundError) if workers else ()
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, *unanswered) as error:
            cause = error
            break
        yield batch

    def let_go() -> WorkerError | None:
        """The death that the error tells of; then the iterator is dropped, so that the other workers end."""
        nonlocal batches
        if (death := _death_in(cause)) is not None:
            with _unaware_of_children():
                traceback.clear_frames(cause.__traceback__)  # they hold the iterator
                batches = iter(())
        return death

    try:
        death = let_go()
    except RuntimeError:  # torch's handler of SIGCHLD tells of a death that `next` has told of
        death = let_go()
    if death is None:
        raise cause
    raise death from cause


def worker_error(error: RuntimeError) -> WorkerError | None:
    """What torch says of a worker that was killed, as an error of odis; None for any other `RuntimeError`."""
    said = str(error).strip()
    return _death(said.rstrip(". ")) if said.startswith(_DIED) else None


def _death_in(error: Exception) -> WorkerError | None:
    """As `worker_error`, also for errors that come from a socket at which nobody answers."""
    if isinstance(error, RuntimeError):
        return worker_error(error)
    if _RAISED_THERE in str(error):
        return None
    return _death(f"a DataLoader worker was gone before its answer was read ({type(error).__name__})")


def _death(what: str) -> WorkerError:
    return WorkerError(f"{what}. Mostly the system ran out of memory: fewer workers need less")


@contextlib.contextmanager
def _unaware_of_children() -> Iterator[None]:
    """No handler of SIGCHLD: torch's raises anew at the end of any child, for as long as the iterator of the
    dead worker exists.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield  # the handler runs in the main thread only
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)
