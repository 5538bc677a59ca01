"""What a module states of its evaluation: name, data, settings, function and titles. Docstrings of data and
settings are the help of the command.

Nothing heavy is imported here or at the top of such a module: `odis evaluate NAME --help` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from odis.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from odis.inference import Encoder

Progress = Callable[[str, int, int], None]
"""Called with what is read, the images read so far, and all of them."""


@runtime_checkable
class Says(Protocol):
    """A progress that prints lines too."""

    def say(self, text: str) -> None:
        """Print a line."""
        ...


OnRow = Callable[[dict[str, Any]], None]
"""Called with the results so far after each row."""

Models = Callable[[], "Sequence[Encoder]"]
"""Loads the models. An evaluation calls it once its data is open: a missing file shows before minutes of
loading."""

D = TypeVar("D")
S = TypeVar("S", bound=EvaluationSettings)


@dataclass(frozen=True, slots=True)
class Titles:
    """How results are headed.

    Args:
        table: Title of the table on screen; `{train}`, `{test}` and `{gallery}` stand for the parts.
        heading: Heading in the report.
        reading: How to read the table, below that heading.
    """

    table: str
    heading: str
    reading: str


@dataclass(frozen=True, slots=True)
class Evaluation(Generic[D, S]):
    """One evaluation: `odis evaluate NAME`.

    Args:
        name: Of the command, and `evaluation` in its results.
        summary: One line for `--help`.
        data: What is read; a dataclass whose fields become options. Holds the defaults.
        settings: How it is measured; its fields become options too. Holds the defaults.
        run: Opens the data, loads the models and measures; returns what `results.json` holds.
        titles: For each value of `evaluation` that its results may have.
        needs_model: Whether there is nothing to measure without a model.
    """

    name: str
    summary: str
    data: D
    settings: S
    run: Callable[[Models, D, S, Progress | None, OnRow | None], dict[str, Any]]
    titles: Mapping[str, Titles]
    needs_model: bool = field(default=True, kw_only=True)
