"""What may be typed at each place of a command line, for completion."""

from __future__ import annotations

import re
from argparse import Action
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from odis.commands.command import Command, Group
from odis.config.help_format import is_long
from odis.config.options import new_parser
from odis.config.recipes import recipe_names

_HIDDEN = ("print_config",)  # of the parser, for itself


@dataclass(frozen=True, slots=True)
class Option:
    """An option.

    Args:
        name: With its dashes.
        about: The beginning of its help.
        takes_value: Whether a value follows.
        values: The values there are; none if anything may follow, then files are offered.
    """

    name: str
    about: str
    takes_value: bool
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Words:
    """What may follow the names of a command.

    Args:
        path: The names; none for `odis` itself.
        commands: Name and summary of what is in a group.
        options: The options of a command.
        values: What its first argument may be; none if it is a file or anything.
    """

    path: tuple[str, ...]
    commands: tuple[tuple[str, str], ...] = ()
    options: tuple[Option, ...] = ()
    values: tuple[str, ...] = ()


def words_of(command: Command | Group, path: tuple[str, ...] = ()) -> Iterator[Words]:
    """The words behind a command, and behind each one in it."""
    if isinstance(command, Group):
        yield Words(path, tuple((name, one.summary) for name, one in command.commands.items()))
        for name, one in command.commands.items():
            yield from words_of(one, (*path, name))
        return
    parser = new_parser(" ".join(path), "")
    command.add_options(parser)
    actions = [action for action in parser._actions if action.dest not in _HIDDEN]
    sections = {action.dest.partition(".")[0] for action in actions if "." in action.dest}
    named = [action for action in actions if action.option_strings and action.dest not in sections]
    options = [_option(action) for action in named]
    if is_long(parser):
        options.append(Option("--help-all", "show every setting", False))
    first = next((action for action in actions if not action.option_strings), None)
    yield Words(path, (), tuple(options), () if first is None else _values(first))


def _option(action: Action) -> Option:
    name = next(one for one in action.option_strings if one.startswith("--") and not one.endswith("+"))
    about = re.split(r"[:;.] |\.$", " ".join(str(action.help or "").split()))[0].replace("%%", "%")
    return Option(name, about, action.nargs != 0, _values(action))


def _values(action: Action) -> tuple[str, ...]:
    if action.dest == "recipe":
        return tuple(recipe_names())
    if action.choices is not None:
        return tuple(map(str, action.choices))
    return _named(getattr(action, "_typehint", None))


def _named(hint: Any) -> tuple[str, ...]:
    """The values of a type that has names for them."""
    if hint is bool:
        return ("true", "false")
    if get_origin(hint) is Literal:
        return tuple(map(str, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return tuple(value for one in get_args(hint) for value in _named(one))
    return ()
