"""The one way to read with worker processes: what they share, how they end, and what is said when no batch
comes.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing.queues
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from odis.config.wording import counted
from odis.data.handover import Packed, Packer
from odis.errors import OdisWarning, UnreachableError, WorkerError
from odis.machine.allocator import keep_freed_memory
from odis.machine.processes import processor_seconds, state_of
from odis.machine.shared_memory import shared_memory

LOOK_EVERY = 5.0
"""Seconds between two looks at workers that do not answer."""

ASLEEP = 120.0
"""Seconds without a batch after which workers that compute nothing are given up."""

BUSY = 1800.0
"""Seconds without a batch after which workers are given up whatever they do."""

_GRACE = 0.5  # seconds that workers get to end by themselves, then again to end on SIGTERM
_ALIVE = 0.05  # seconds of processor time that show work; waking up now and then takes less
_FEW_FREE = 2**25  # bytes of shared memory below which a death is blamed on it

# How torch's messages begin: of a death, be it from `DataLoader` or from its SIGCHLD handler, which raises
# wherever the main thread is; and of a wait that was long.
_DIED = "DataLoader worker (pid"
_WAITED = "DataLoader timed out after"
# An error raised inside a worker arrives with its type and these words.
_RAISED_THERE = "in DataLoader worker process"
_UNREACHABLE = f"{UnreachableError.__module__}.{UnreachableError.__qualname__}"


class WorkerLoader(DataLoader[Any]):
    """A `DataLoader` whose workers leave Ctrl-C to this process, whose waits end, and whose batches need no
    more shared memory than there is.

    Args:
        dataset: What the workers read.
        workers: Processes; 0 reads in this one.
        option: How workers are set, for messages.
        collate_fn: Makes a batch of items.
        prefetch: Batches that each worker prepares ahead.
        more: Of `DataLoader`: `batch_size` or `batch_sampler`, `pin_memory`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        workers: int,
        option: str = "--workers",
        collate_fn: Callable[[Any], Any] | None = None,
        prefetch: int = 2,
        **more: Any,
    ) -> None:
        collate_fn = collate_fn or _same
        self.option = option
        super().__init__(
            dataset,
            num_workers=workers,
            collate_fn=Packer(collate_fn, ahead=workers * prefetch) if workers else collate_fn,
            prefetch_factor=prefetch if workers else None,
            timeout=LOOK_EVERY if workers else 0,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # without one, making an iterator draws from the global state
            **more,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch's own class is private
        try:
            with _ctrl_c_later():
                _try_locks(self.num_workers)
                batches = super().__iter__()  # workers start now, not at the first batch
        except OSError as error:
            if not self.num_workers:
                raise
            raise WorkerError(_not_started(error, self.option)) from error
        return self._unpacked(watched(batches, self.num_workers, self.option))

    def _unpacked(self, batches: Iterator[Any]) -> Iterator[Any]:
        said = False
        for batch in batches:
            if not isinstance(batch, Packed):
                yield batch
                continue
            if not said:
                how = (
                    f"batches go from the workers through pipes, which is slower ({self.option} 0 needs none)"
                )
                warnings.warn(f"{batch.why}: {how}", OdisWarning, stacklevel=2)
                said = True
            whole = batch.unpack()
            yield whole.pin_memory() if self.pin_memory and hasattr(whole, "pin_memory") else whole


def watched(batches: Iterator[Any], workers: int, option: str = "--workers") -> Iterator[Any]:
    """The batches of a `DataLoader`, with a worker that is killed or does not answer as a `WorkerError`.

    Args:
        batches: The loader's iterator. Keep no other reference: dropping it is what ends the other workers.
        workers: Its processes.
        option: How workers are set, for messages.

    Raises:
        WorkerError: A worker was killed, or none answers.
    """
    # A worker that dies after its answer, before handing over the memory that holds it, leaves a socket on
    # which nobody answers.
    unanswered = (EOFError, ConnectionError, FileNotFoundError) if workers else ()
    while True:
        try:
            batch = _answer(batches, option)
        except StopIteration:
            return
        except (RuntimeError, *unanswered) as error:
            cause = error
            break
        except BaseException:  # Ctrl-C, above all
            end_workers(batches)
            raise
        try:
            yield batch
        except GeneratorExit:
            end_workers(batches)
            raise

    def let_go() -> WorkerError | None:
        """The worker's death, if the error reports one; the iterator is then dropped to end the other
        workers.
        """
        nonlocal batches
        if (death := _death_in(cause)) is not None:
            with _unaware_of_children():
                traceback.clear_frames(cause.__traceback__)  # they hold the iterator
                end_workers(batches)
                batches = iter(())
        return death

    try:
        death = let_go()
    except RuntimeError:  # torch's SIGCHLD handler reports the death a second time
        death = let_go()
    if death is None:
        raise cause
    raise death from (None if death is cause else cause)


def _answer(batches: Iterator[Any], option: str) -> Any:
    """The next batch, however long it takes, as long as somebody works on it.

    Raises:
        WorkerError: Nobody does.
        UnreachableError: The store of an image does not answer.
    """
    began = quiet_since = time.monotonic()
    seen = 0.0
    while True:
        try:
            return next(batches)
        except UnreachableError as error:  # a worker's error comes with its traceback in front
            raise UnreachableError(str(error).strip().rpartition(f"{_UNREACHABLE}: ")[2]) from None
        except RuntimeError as error:
            if not str(error).startswith(_WAITED):
                raise
        now = time.monotonic()
        pids = [worker.pid for worker in getattr(batches, "_workers", [])]
        spent = processor_seconds(pids)
        states = {state_of(pid) for pid in pids}
        # Reading from a disk or a network folder takes no processor time: the system says `D` meanwhile.
        if spent is None or spent > seen + _ALIVE or "D" in states:
            quiet_since, seen = now, spent or 0.0
        if now - quiet_since > ASLEEP or now - began > BUSY:
            raise WorkerError(_no_answer(len(pids), now - began, states, option))


def _no_answer(workers: int, seconds: float, states: set[str | None], option: str) -> str:
    doing = "they compute, but no batch comes"
    if states <= {"S", "T"}:
        doing = "all are asleep" if states == {"S"} else "some are stopped"
    elif "D" in states:
        doing = "some wait for a disk or a network folder"
    memory = f"; {there}" if (there := shared_memory()) is not None else ""
    return (
        f"none of {counted(workers, 'data worker')} has answered for {seconds:.0f} s: {doing}{memory}; "
        f"{option} 0 reads in this process and shows what stops them"
    )


def _not_started(error: OSError, option: str) -> str:
    there = shared_memory()
    memory = ""
    if there is not None and error.errno in (errno.ENOSPC, errno.ENOENT, errno.EROFS, errno.EACCES):
        memory = f"; their locks lie in shared memory: {there} (docker run --shm-size 2g gives more)"
    return (
        f"data workers cannot be started ({error.strerror or error}){memory}; {option} 0 reads in this "
        f"process"
    )


def _try_locks(workers: int) -> None:
    """Make as many locks as the queues of these workers need: torch's iterator prints a traceback of its own
    if it fails half-way.

    Raises:
        OSError: There is no room for them.
    """
    if workers:
        locks = [multiprocessing.Lock() for _ in range(8 + 3 * (workers + 1))]
        del locks


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Ctrl-C waits for the end of this block, and for ever in processes that are started in it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # or the system may clear every page of every image and view anew
    # Ctrl-C reaches the whole process group; the main process ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):  # SLURM sends it to all processes of a job
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    # By default a batch that cannot be handed over is printed and lost, and the main process waits for it.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_give_up)  # type: ignore[attr-defined]


def _leave(signum: int, frame: Any) -> None:
    raise SystemExit(0)  # so that half-written files are removed on the way


def _give_up(error: Exception, item: Any) -> None:
    os._exit(1)  # which the main process notices


def _same(item: Any) -> Any:
    return item


def end_workers(batches: Iterator[Any]) -> None:
    """End the workers of a `DataLoader`'s iterator at once, rather than after their present batches."""
    workers, end = getattr(batches, "_workers", []), getattr(batches, "_shutdown_workers", None)
    if end is None or threading.current_thread() is not threading.main_thread():
        return  # torch ends them when the iterator goes
    timers = [
        threading.Timer(_GRACE, lambda: [worker.terminate() for worker in workers]),
        threading.Timer(2 * _GRACE, lambda: [worker.kill() for worker in workers]),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        with _unaware_of_children(), _ctrl_c_again():
            end()
    finally:
        for timer in timers:
            timer.cancel()


@contextlib.contextmanager
def _ctrl_c_again() -> Iterator[None]:
    """Ctrl-C during this block is heard shortly after it: a generator that is dropped would swallow it."""
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
        if heard:
            later = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
            later.daemon = True
            later.start()


def worker_error(error: RuntimeError) -> WorkerError | None:
    """Torch's error about a killed worker as an error of odis; None for any other `RuntimeError`."""
    if isinstance(error, WorkerError):
        return error
    said = " ".join(str(error).split()).partition(" Details are lost")[0]
    return _death(said.rstrip(". ")) if said.startswith(_DIED) else None


def _death_in(error: Exception) -> WorkerError | None:
    """As `worker_error`, also for errors from a socket on which nobody answers."""
    if isinstance(error, RuntimeError):
        return worker_error(error)
    if _RAISED_THERE in str(error):
        return None
    return _death(f"a DataLoader worker was gone before its answer was read ({type(error).__name__})")


def _death(what: str) -> WorkerError:
    there = shared_memory()
    if "Bus error" in what or (there is not None and there.free < _FEW_FREE):
        return WorkerError(
            f"{what}. Shared memory is full: {there}; docker run --shm-size 2g gives more, fewer workers "
            f"need less"
        )
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
