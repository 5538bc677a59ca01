"""What a command is, and a group of commands.

A module of this package is a command if it has

    OPENS_INDEX           optional, True: the command gets `--root`, where the images of indexes are now
    REQUIRED              optional: names of the options that must be given, as its `run` asks with `require`
    SUMMARY               one line: in the list of commands, and above the options in `--help`
    add_options(parser)   declares the options
    run(options)          does the work

It is a group if it has `group()` instead, which returns its commands by name. What is heavy (torch, timm,
pyarrow, ...) is imported inside `run`, so that `--help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


ROOT_HELP = (
    "folder the images of the index are in now, if they were moved: the one written in it, or one above"
)


@dataclass(frozen=True, slots=True)
class Command:
    """One command: `run` is given what the parser made of its options."""

    summary: str
    add_options: Callable[[ArgumentParser], None]
    run: Callable[[Any], None]
    required: tuple[str, ...] = ()  # options that must be given, without dashes


@dataclass(frozen=True, slots=True)
class Group:
    """Commands behind one name, under the headings of its `--help`."""

    summary: str
    sections: Mapping[str, Mapping[str, Command | Group]]  # heading -> name -> command
    noun: str = "command"  # what one of them is called
    moved: Mapping[str, str] = field(default_factory=dict)  # old name -> what to type now

    @property
    def commands(self) -> dict[str, Command | Group]:
        """All commands by name, in the order of `--help`."""
        return {name: command for section in self.sections.values() for name, command in section.items()}


def from_module(name: str) -> Command | Group:
    """The command or group that `odis.commands.NAME` is."""
    module = import_module(f"odis.commands.{name}")
    if hasattr(module, "group"):
        found: Group = module.group()
        return found
    required = tuple(getattr(module, "REQUIRED", ()))
    command = Command(module.SUMMARY, module.add_options, module.run, required)
    return with_root(command) if getattr(module, "OPENS_INDEX", False) else command


def with_root(command: Command) -> Command:
    """The command with an option `--root`: where the images of all indexes that it opens are now."""

    def add_options(parser: ArgumentParser) -> None:
        command.add_options(parser)
        parser.add_argument("--root", type=str | None, default=None, help=ROOT_HELP)

    def run(options: Any) -> None:
        if options.root is None:
            command.run(options)
            return
        from odis.objects.roots import images_moved_to

        with images_moved_to(options.root):
            command.run(options)

    return Command(command.summary, add_options, run, command.required)
