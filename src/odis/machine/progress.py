"""The one progress bar, and the console that it shares with other output."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

from odis.errors import printable


class _PipedConsole(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which ends the same way whoever wrote; rich would exit with 1."""
        raise BrokenPipeError(errno.EPIPE, "the reader of the output has gone")


class _OutputConsole(_PipedConsole):
    """Tables: what is no character to look at is shown as Python writes it in cells too."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text
            if segment.control or text.replace("\n", "").isprintable():
                yield segment
            else:
                yield Segment("\n".join(map(printable, text.split("\n"))), segment.style)


class _PrintableConsole(_PipedConsole):
    """Shows what is no character to look at as Python writes it: names from files never move the cursor."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*map(_shown, objects), **options)


def _shown(what: Any) -> Any:
    if isinstance(what, Text):
        return what if what.plain.isprintable() else Text(printable(what.plain))
    return printable(what) if isinstance(what, str) else what


_FIRST, _EVERY = 10.0, 30.0  # seconds to the first line of a unit of work, and between two


def error_console() -> Console:
    """Standard error without markup, emoji or highlighting: each text is one line, and file names are shown
    as they are, but for line ends and control characters (`printable`).

    It is interactive if it is a screen: FORCE_COLOR, which services set that keep logs, asks for colours in a
    pipe, and gets them without bars.
    """
    console = _PrintableConsole(stderr=True, markup=False, emoji=False, highlight=False)
    console.is_interactive = console.is_interactive and console.file.isatty()
    return console


def output_console() -> Console:
    """Standard output, for tables, without markup and emoji."""
    return _OutputConsole(markup=False, emoji=False)


class ProgressBar:
    """Progress bars on a terminal, one for each unit of work; elsewhere, a line now and then.

    Lines printed to `console` appear above the bars. A command that reports to log files itself prints its
    own lines where `shown` is false, and turns those off.

    Args:
        console: By default standard error.
        keep: Leave the bars on the screen at the end.
        shown: False on every rank but the first.
        lines: Off a terminal, print a line with the time left after 10 seconds of a unit of work, and every
            30 seconds from then on.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        keep: bool = False,
        shown: bool = True,
        lines: bool = True,
    ) -> None:
        self.console = error_console() if console is None else console
        self.shown = shown and self.console.is_interactive
        self._lines = lines and shown and not self.shown
        self._since: dict[str, tuple[float, int]] = {}  # when a unit of work was first met, and where it was
        self._next: dict[str, float] = {}  # when its next line is due
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn(),
            console=self.console, transient=not keep, disable=not self.shown,
        )  # fmt: skip

    def __call__(self, what: str, done: int, total: int | None, text: str | None = None) -> None:
        """Update a bar; the first call makes it.

        Args:
            what: Unit of work, for example `images`.
            done: Units done.
            total: Units in all; None while unknown.
            text: Text behind the bar, which stays until the next.
        """
        if self._lines:
            self._line(what, done, total)
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, completed=done, total=total, text="")
        self._progress.update(self._tasks[what], completed=done, total=total)
        if text is not None:
            self._progress.update(self._tasks[what], text=text)

    def say(self, text: str) -> None:
        """Print a line above the bars, on a terminal or not."""
        if self.shown or self._lines:
            self.console.print(text, soft_wrap=True)

    def _line(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        start, before = self._since.setdefault(what, (now, done))
        if now < self._next.setdefault(what, now + _FIRST) or done == total:
            return
        self._next[what] = now + _EVERY
        counted = f"{what}: {done:,}" if total is None else f"{what}: {done:,} of {total:,}"
        if total is not None and done > before:
            left = timedelta(seconds=round((now - start) * (total - done) / (done - before)))
            counted += f", {left} left"
        self.console.print(counted, soft_wrap=True)

    def start(self) -> None:
        """Show the bars. A `with` block does it."""
        self._progress.start()

    def stop(self) -> None:
        """Remove the bars, or leave them if `keep`."""
        self._progress.stop()

    def __enter__(self) -> ProgressBar:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.stop()
