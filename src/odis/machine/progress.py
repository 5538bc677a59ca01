"""The one progress bar, and the console that it shares with what else is said while it moves."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column


def error_console() -> Console:
    """Standard error, where names of files are shown as they are: no markup, no emoji, no colours."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False)


class ProgressBar:
    """A bar for each thing that is counted, on a terminal; elsewhere nothing.

    A command whose log should tell of its progress prints lines where `shown` is false. Lines printed to
    `console` appear above the bars.

    Args:
        console: Where it is shown; by default standard error.
        keep: Leave the bars on the screen at the end.
        shown: False for a rank that is not the first, which shows none.
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
        """Show how far something is.

        Args:
            what: What is counted, as `images`; each has its own bar.
            done: How many are done.
            total: How many there are; None while that is not known.
            text: What else is said of it, until other text is given.
        """
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, completed=done, total=total, text="")
        self._progress.update(self._tasks[what], completed=done, total=total)
        if text is not None:
            self._progress.update(self._tasks[what], text=text)

    def start(self) -> None:
        """Show the bars; `with` does it."""
        self._progress.start()

    def stop(self) -> None:
        """Take the bars away, or leave them as they are."""
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
