"""Errors for killed data workers, which is how exhausted memory mostly shows."""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from collections.abc import Iterator
from typing import Any

from odis.errors import WorkerError

# How torch's message begins, be it from `DataLoader` or from its SIGCHLD handler, which raises wherever the
# main thread is.
_DIED = "DataLoader worker (pid"
# An error raised inside a worker arrives with its type and these words.
_RAISED_THERE = "in DataLoader worker process"


def watched(batches: Iterator[Any], workers: int) -> Iterator[Any]:
    """The batches of a `DataLoader`, with a killed worker as a `WorkerError`.

    Args:
        batches: The loader's iterator. Keep no other reference: dropping it is what ends the other workers.
        workers: Its processes.

    Raises:
        WorkerError: A worker was killed.
    """
    # A worker that dies after its answer, before handing over the memory that holds it, leaves a socket on
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
        """The worker's death, if the error reports one; the iterator is then dropped to end the other
        workers.
        """
        nonlocal batches
        if (death := _death_in(cause)) is not None:
            with _unaware_of_children():
                traceback.clear_frames(cause.__traceback__)  # they hold the iterator
                batches = iter(())
        return death

    try:
        death = let_go()
    except RuntimeError:  # torch's SIGCHLD handler reports the death a second time
        death = let_go()
    if death is None:
        raise cause
    raise death from cause


def worker_error(error: RuntimeError) -> WorkerError | None:
    """Torch's error about a killed worker as an error of odis; None for any other `RuntimeError`."""
    said = str(error).strip()
    return _death(said.rstrip(". ")) if said.startswith(_DIED) else None


def _death_in(error: Exception) -> WorkerError | None:
    """As `worker_error`, also for errors from a socket on which nobody answers."""
    if isinstance(error, RuntimeError):
        return worker_error(error)
    if _RAISED_THERE in str(error):
        return None
    return _death(f"a DataLoader worker was gone before its answer was read ({type(error).__name__})")


def _death(what: str) -> WorkerError:
    return WorkerError(f"{what}. Mostly the system ran out of memory: fewer workers need less")


@contextlib.contextmanager
def _unaware_of_children() -> Iterator[None]:
    """Without a SIGCHLD handler: torch's raises again whenever a child ends while the dead worker's iterator
    is alive."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield  # the handler runs in the main thread only
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)
