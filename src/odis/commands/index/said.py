"""What the commands on an index print: results to stdout, everything else to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from odis.config.wording import counted

if TYPE_CHECKING:
    from odis.objects.skips import SkipGroups
    from odis.types import Skipped


def say(text: str) -> None:
    """A line to stderr, not wrapped."""
    from odis.machine.progress import error_console

    error_console().print(text, soft_wrap=True)


@contextmanager
def reported() -> Iterator[Callable[[Skipped], None]]:
    """Gives what is called with each file or object that is left out; at the end, also at that of an error,
    they are named by reason: how many, and three of them.
    """
    from odis.objects.skips import SkipGroups

    groups = SkipGroups()
    try:
        yield groups.add
    finally:
        name_groups(groups)


def name_groups(groups: SkipGroups) -> None:
    """Name what was left out, by reason."""
    for line in groups.lines():
        say(line)


def wrote(out: str, images: int, objects: int) -> None:
    """What was written, and where to."""
    say(f"{counted(images, 'image')}, {counted(objects, 'object')}")
    print(out)


def show(what: Any) -> None:
    """A table to stdout."""
    from odis.machine.progress import output_console

    output_console().print(what)
