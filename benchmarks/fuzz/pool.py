"""Inputs in processes that may hang, die or fill the memory, and are replaced when they do."""

from __future__ import annotations

import contextlib
import resource
import shutil
import time
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fuzz.check import Outcome, layouts, run_input, scratch
from fuzz.files import FILES

MEMORY = 3 * 2**30  # bytes that an input may take on top

CONTEXT = get_context("forkserver")


def _serve(connection: Connection, seed: int, form: str | None, work: str) -> None:
    """Run inputs as their numbers come; first a word that this process is ready."""
    if FILES.keys() & set(layouts(form)):
        import torch  # noqa: F401  # its libraries are no memory of an input
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.RLIM_INFINITY))
    with contextlib.suppress(EOFError):
        connection.send(None)
        while True:
            connection.send(run_input(connection.recv(), seed, Path(work), form))


class _Worker:
    """A process, and the input it is at."""

    def __init__(self, seed: int, form: str | None, work: Path) -> None:
        self.connection, theirs = CONTEXT.Pipe()
        arguments = (theirs, seed, form, str(work))
        self.process = CONTEXT.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.ready = False
        self.number: int | None = None
        self.began = 0.0

    def give(self, number: int) -> None:
        self.number, self.began = number, time.monotonic()
        self.connection.send(number)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run_inputs(
    numbers: Iterable[int], seed: int, *, workers: int, seconds: float, form: str | None = None
) -> Iterator[Outcome]:
    """The outcomes of inputs, as they come.

    Args:
        numbers: Which inputs.
        seed: As `run_input` takes it.
        workers: Processes at a time.
        seconds: An input that takes longer hangs.
        form: Only layouts of this format.
    """
    names, todo = layouts(form), iter(numbers)
    base = scratch()

    def new(k: int) -> _Worker:
        return _Worker(seed, form, base / str(k))

    crew: dict[int, _Worker] = {k: new(k) for k in range(workers)}
    try:
        for k in list(crew):
            _next(crew, k, todo)
        while crew:
            ready: list[Any] = wait([w.connection for w in crew.values()], timeout=0.2)
            for k, worker in list(crew.items()):
                number = worker.number
                assert number is not None
                fault = ""
                if worker.connection in ready:
                    try:
                        outcome = worker.connection.recv()
                        if outcome is None:
                            worker.ready, worker.began = True, time.monotonic()
                            continue
                        yield outcome
                    except (EOFError, ConnectionError):
                        fault = "traceback"
                elif worker.ready and time.monotonic() - worker.began > seconds:
                    fault = "hang"
                else:
                    continue
                if fault:
                    worker.end()
                    died = f"the process ended ({worker.process.exitcode})"
                    said = f"no answer within {seconds:g} s" if fault == "hang" else died
                    yield Outcome(number, names[number % len(names)], [], fault, said)
                    crew[k] = new(k)
                _next(crew, k, todo)
    finally:
        for worker in crew.values():
            worker.end()
        shutil.rmtree(base, ignore_errors=True)


def _next(crew: dict[int, _Worker], k: int, todo: Iterator[int]) -> None:
    number = next(todo, None)
    if number is None:
        crew.pop(k).end()
    else:
        crew[k].give(number)
