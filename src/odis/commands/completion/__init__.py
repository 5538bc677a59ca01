"""`odis completion SHELL`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SUMMARY = "Print what makes a shell complete commands and options: bash, zsh or fish"

_SHELLS = ("bash", "zsh", "fish")


def add_options(parser: ArgumentParser) -> None:
    """The shell."""
    parser.add_argument(
        "shell", choices=_SHELLS, help="bash, zsh or fish; put what is printed where it looks for completions"
    )


def run(options: Any) -> None:
    """Print the script."""
    from odis.commands import commands
    from odis.commands.completion.scripts import SCRIPTS
    from odis.commands.completion.words import words_of

    print(SCRIPTS[options.shell](list(words_of(commands()))), end="")
