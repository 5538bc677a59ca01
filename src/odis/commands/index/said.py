"""What the commands on an index print: results to stdout, everything else to stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odis.types import Skipped


def say(text: str) -> None:
    """A line to stderr, not wrapped."""
    from odis.machine.progress import error_console

    error_console().print(text, soft_wrap=True)


def name_skipped(skipped: Skipped) -> None:
    """Name a file or object that was left out, and why."""
    say(f"skipped {skipped.what}: {skipped.why}")


def wrote(out: str, images: int, objects: int) -> None:
    """What was written, and where to."""
    say(f"{images:,} images, {objects:,} objects")
    print(out)


def show(what: Any) -> None:
    """A table to stdout."""
    from rich.console import Console

    Console(markup=False, emoji=False).print(what)
