"""A dataclass as options of a command: names and types from its fields, help from its docstring."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from odis.errors import OdisError

T = TypeVar("T")


def add_arguments(
    parser: ArgumentParser,
    settings: Any,
    only: Collection[str] | None = None,
    helps: Mapping[str, str] | None = None,
) -> None:
    """Add one option for each field of a dataclass; a field that is a dataclass adds its own fields.

    `batch_size` becomes `--batch-size`; a bool that is False becomes a flag; a sequence is written with
    commas (`--k 10,20`). The field's metadata may say `option` (another name), `repeat` (a sequence given by
    repeating the option), `only` (of a dataclass: which of its fields) or `offered` (false: it is no option,
    since a command for which it means nothing shares the dataclass).

    Args:
        parser: Gets the options.
        settings: An instance; its values are the defaults.
        only: Names of the fields to add; by default all.
        helps: Help of some fields in place of their docstrings, where a command has a default of its own.
    """
    hints, helps = get_type_hints(type(settings)), _helps(type(settings)) | dict(helps or {})
    for one in fields(settings):
        if not _is_offered(one, only):
            continue
        value, hint = getattr(settings, one.name), hints[one.name]
        name = f"--{_option(one).replace('_', '-')}"
        if is_dataclass(value):
            add_arguments(parser, value, one.metadata.get("only"), helps)
        elif hint is bool:
            assert value is False, f"{one.name}: a flag is off by default"
            parser.add_argument(name, action="store_true", help=helps[one.name])
        elif one.metadata.get("repeat"):
            parser.add_argument(name, action="append", help=helps[one.name])
        elif get_origin(hint) is Sequence:
            text = ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
            parser.add_argument(name, type=str, default=text, help=helps[one.name])
        else:
            default = None if value == "" else value
            parser.add_argument(name, type=hint, default=default, help=helps[one.name])


def read_arguments(settings: T, options: Any, only: Collection[str] | None = None) -> T:
    """The dataclass with the values of the options that `add_arguments` added; other fields stay.

    Args:
        settings: As given to `add_arguments`.
        options: What the parser made.
        only: As given to `add_arguments`.

    Raises:
        OdisError: a list holds something of another type; the message names the option.
    """
    assert is_dataclass(settings)
    assert not isinstance(settings, type)
    hints = get_type_hints(type(settings))
    changes: dict[str, Any] = {}
    for one in fields(settings):
        if not _is_offered(one, only):
            continue
        value, name = getattr(settings, one.name), _option(one)
        if is_dataclass(value):
            changes[one.name] = read_arguments(value, options, one.metadata.get("only"))
        elif name in options:
            given = options[name]
            if one.metadata.get("repeat"):
                changes[one.name] = tuple(given or ())
            elif get_origin(hints[one.name]) is Sequence:
                changes[one.name] = _items(given, name, get_args(hints[one.name])[0])
            else:
                changes[one.name] = "" if given is None and hints[one.name] is str else given
    return cast(T, replace(cast(Any, settings), **changes))


def with_values(settings: T, values: Mapping[str, Any]) -> tuple[T, list[str]]:
    """The dataclass with values by the names of its options (`_` for `-`), and the names that it has.

    A sequence may be given as one value: `mode="crop"`.

    Raises:
        OdisError: a value of another type; the message names it.
    """
    assert is_dataclass(settings)
    assert not isinstance(settings, type)
    hints = get_type_hints(type(settings))
    changes: dict[str, Any] = {}
    names: list[str] = []
    for one in fields(settings):
        if not _is_offered(one):
            continue
        value, name = getattr(settings, one.name), _option(one)
        if is_dataclass(value):
            fields_of = one.metadata.get("only")
            only = None if fields_of is None else [_option(f) for f in fields(value) if f.name in fields_of]
            own = values if only is None else {name: values[name] for name in only if name in values}
            changes[one.name], more = with_values(value, own)
            names += more if only is None else [other for other in more if other in only]
            continue
        names.append(name)
        if name not in values:
            continue
        given = values[name]
        if get_origin(hints[one.name]) is Sequence:
            single = isinstance(given, str) or not isinstance(given, Sequence)
            given = (given,) if single else tuple(given)
        given = str(given) if isinstance(given, Path) else given
        if not _fits(given, hints[one.name]):
            raise OdisError(f"{name}: is {values[name]!r}, must be {_words(hints[one.name])}")
        changes[one.name] = given
    return cast(T, replace(cast(Any, settings), **changes)), names


def _is_offered(one: Field[Any], only: Collection[str] | None = None) -> bool:
    return bool(one.metadata.get("offered", True)) and (only is None or one.name in only)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; numbers of numpy are numbers."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Sequence:
        return isinstance(value, Sequence) and all(_fits(one, get_args(hint)[0]) for one in value)
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint in (int, float):
        number = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    if hint is str:
        return value is None or isinstance(value, str)  # what is required is asked for elsewhere
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_words(one) for one in get_args(hint))
    if get_origin(hint) is Sequence:
        return f"one or more of {_words(get_args(hint)[0])}"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    known = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}
    return known.get(hint, getattr(hint, "__name__", str(hint)))


def _option(one: Field[Any]) -> str:
    """The name in the options: that of the field, or the one in its metadata."""
    return str(one.metadata.get("option", one.name))


def _helps(kind: type) -> dict[str, str]:
    """Help of each field, from the docstrings of the class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for item in parse_docstring(base.__doc__ or "").params:
            if item.description:
                text = " ".join(item.description.split()).replace("`", "")
                found[item.arg_name] = text[:1].lower() + text[1:].removesuffix(".")
    return found


_NOUNS = {int: "whole numbers, such as 10,20", float: "numbers, such as 0.01,0.1"}


def _items(text: str, name: str, kind: Any) -> tuple[Any, ...]:
    """A comma-separated list, each item of a type."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if kind not in _NOUNS:
        return tuple(parts)
    try:
        return tuple(kind(part) for part in parts)
    except ValueError as error:
        raise OdisError(f"{name.replace('_', '-')} {text!r} must be {_NOUNS[kind]}") from error
