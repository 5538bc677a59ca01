"""The one progress bar, and the console that it shares with other output."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column


def error_console() -> Console:
    """Standard error without markup, emoji or highlighting, so that file names are shown as they are."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False)


class ProgressBar:
    """Progress bars on a terminal, one for each unit of work; nothing elsewhere.

    Lines printed to `console` appear above the bars. A command that also reports to log files prints lines
    where `shown` is false.

    Args:
        console: By default standard error.
        keep: Leave the bars on the screen at the end.
        shown: False on every rank but the first.
    """

    def __init__(self, console: Console | None = None, *, keep: bool = False, shown: bool = True) -> None:
        self.console = error_console() if console is None else console
        self.shown = shown and self.console.is_terminal
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
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, completed=done, total=total, text="")
        self._progress.update(self._tasks[what], completed=done, total=total)
        if text is not None:
            self._progress.update(self._tasks[what], text=text)

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
