"""A Sphinx extension: pages that are made from the code when the site is built.

A page holds a marker, `<!-- generated: settings -->`. The Markdown that the code yields takes its place
before the page is parsed. So no setting, option or recipe is described twice.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

from docstring_parser import parse

from odis.commands import commands as all_commands
from odis.commands.command import Command, Group
from odis.config.options import new_parser
from odis.config.query import QueryConfig, ReadConfig
from odis.config.recipes import recipe_names, recipe_path
from odis.config.training import PretrainConfig
from odis.evaluation import PROTOCOLS

_MARKER = re.compile(r"^<!-- generated: ([a-z0-9-]+) -->$", re.MULTILINE)

_WORDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    types.NoneType: "none",
}


def kind(hint: Any) -> str:
    """A type as a reader of the settings says it: `number or none`, `cpu or device`, `2 numbers`."""
    if hint in _WORDS:
        return _WORDS[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(kind(argument) for argument in arguments)
    if origin is tuple and arguments[1:] == (...,):
        return f"list of {kind(arguments[0])}"
    if origin is tuple and len(set(arguments)) == 1:
        return f"{len(arguments)} {kind(arguments[0])}s"
    if origin in (list, Sequence):
        return f"list of {kind(arguments[0])}"
    raise TypeError(f"no words for the type {hint}")


def shown(value: Any) -> str:
    """A default as it is typed in a recipe or on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(shown, value))}]"
    return str(value) if value != "" else '""'


def default(field: dataclasses.Field[Any]) -> Any:
    """The default of a dataclass's field."""
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]


def described(section: type) -> tuple[str, dict[str, str]]:
    """What the docstring of a dataclass says of it, and of each of its fields.

    Raises:
        ValueError: a field is not described, or something is that is no field.
    """
    text = parse(section.__doc__ or "")
    between = "\n\n" if text.blank_after_short_description else " "
    about = between.join(filter(None, (text.short_description, text.long_description)))
    fields = {p.arg_name: p.description or "" for p in text.params}
    names = [field.name for field in dataclasses.fields(section)]
    missing = [name for name in names if not fields.get(name) and not _is_section(section, name)]
    unknown = sorted(fields.keys() - set(names))
    if missing or unknown:
        raise ValueError(f"{section.__name__}: not described {missing}; described but no field {unknown}")
    return about, fields


def _is_section(section: type, name: str) -> bool:
    return dataclasses.is_dataclass(typing.get_type_hints(section)[name])


def setting(name: str, hint: Any, value: Any, text: str) -> str:
    """One setting, with an anchor."""
    about = f"{kind(hint)}; default `{shown(value)}`"
    return f"````{{confval}} {name}\n{' '.join(text.split())}\n\n{about}\n````\n"


def settings() -> str:
    """Every setting of a pretraining run, section by section."""
    hints = typing.get_type_hints(PretrainConfig)
    _, texts = described(PretrainConfig)
    plain = [f for f in dataclasses.fields(PretrainConfig) if not dataclasses.is_dataclass(hints[f.name])]
    page = ["### Top level\n", *(setting(f.name, hints[f.name], default(f), texts[f.name]) for f in plain)]
    for name, section in hints.items():
        if dataclasses.is_dataclass(section):
            page += [f"### {name}\n", _section(name, typing.cast(type, section))]
    return "\n".join(page)


def queries() -> str:
    """What embed, evaluate, report and discover ask of a network, and how they read images."""
    page = []
    for section in (QueryConfig, ReadConfig):
        about, texts = described(section)
        hints = typing.get_type_hints(section)
        page.append(f"### {section.__name__}\n\n{about}\n")
        for field in dataclasses.fields(section):
            name = field.metadata.get("option", field.name).replace("_", "-")
            page.append(setting(f"--{name}", hints[field.name], default(field), texts[field.name]))
    return "\n".join(page)


def _section(name: str, section: type) -> str:
    about, texts = described(section)
    hints = typing.get_type_hints(section)
    fields = (
        setting(f"{name}.{f.name}", hints[f.name], default(f), texts[f.name])
        for f in dataclasses.fields(section)
    )
    return "\n".join([f"{about}\n", *fields])


def recipes() -> str:
    """Every recipe in full: what it reproduces, its data, its cost, its settings."""
    page = []
    for name in recipe_names():
        page += [f"## {name}\n", "```yaml", recipe_path(name).read_text().rstrip(), "```\n"]
    return "\n".join(page)


def commands() -> str:
    """Every command and its options, as its `--help` has them; settings are on a page of their own."""
    return "\n".join(_commands([], all_commands()))


def _commands(path: list[str], group: Group) -> Iterator[str]:
    first_with: dict[str, str] = {}  # options -> the first command of the group that has them
    for name, command in group.commands.items():
        words = " ".join(["odis", *path, name])
        yield f"{'#' * (2 + len(path))} {words}\n\n{sentence(command.summary)}\n"
        if isinstance(command, Group):
            yield from _commands([*path, name], command)
            continue
        options = _options(words, command)
        first = first_with.setdefault(options, words)
        link = f"[`{first}`](#{first.replace(' ', '-')})"
        yield (
            f"```{{program}} {words}\n```\n\n{options}" if first == words else f"Options: those of {link}.\n"
        )


def _options(words: str, command: Command) -> str:
    parser = new_parser(words.removeprefix("odis "), command.summary)
    command.add_options(parser)
    dotted = [word for action in parser._actions for word in action.option_strings if "." in word]
    sections = list(dict.fromkeys(word.split(".")[0] for word in dotted))
    aside = {"-h", *dotted, *sections}  # settings are on a page of their own
    page = [option(action) for action in parser._actions if not aside & set(action.option_strings)]
    if sections:
        links = (f"[`{name[2:]}`](settings.md#{name[2:]})" for name in sections)
        page.append(f"Settings, as `--section.name VALUE`: {', '.join(links)}.\n")
    return "\n".join(page)


def option(action: argparse.Action) -> str:
    """One option of a command, with an anchor."""
    metavar = re.sub(r"[\x00-\x1f]", "", str(action.metavar or action.dest.upper()))
    value = f" {metavar}" if action.nargs != 0 else ""
    names = [name + value for name in action.option_strings] or [action.dest]
    hint = getattr(action, "_typehint", None) or action.type
    about = []
    if action.choices:
        about.append("one of " + ", ".join(f"`{choice}`" for choice in action.choices))
    elif action.nargs != 0 and (hint in _WORDS or typing.get_origin(hint) is not None):
        about.append(kind(hint))
    if isinstance(action, argparse._AppendAction):
        about.append("may be given again")
    if action.default not in (None, argparse.SUPPRESS) and action.nargs != 0:
        about.append(f"default `{shown(action.default)}`")
    last = f"\n{'; '.join(about)}\n" if about else ""
    return f"````{{option}} {', '.join(names)}\n{sentence(action.help or '')}\n{last}````\n"


def sentence(text: str) -> str:
    """Words of a `--help` as a sentence: `i/n` and `timm:NAME` stay in small letters."""
    text = " ".join(text.split())
    first = text[:1].upper() if re.match(r"[a-z]+[ ,.-]", text) else text[:1]
    return f"{first}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""


def protocol(name: str) -> str:
    """What a protocol states: source, settings, published figures, what differs, what it costs."""
    one = PROTOCOLS[name]
    about = one.about
    measures = list(dict.fromkeys(key for figures in about.figures for key in figures.values))
    page = [f"**Source.** {about.source}.\n", f"```sh\nodis evaluate protocol {name} --help\n```\n"]
    page += ["## Settings of the reference\n", "| setting | value |", "| --- | --- |"]
    page += [f"| {key} | {value} |" for key, value in about.settings.items()]
    page += ["\n## What ours does otherwise\n"]
    page += ["| odis | the reference | with `--as-published` |", "| --- | --- | --- |"]
    page += [
        f"| {d.ours} | {d.reference} | {'as the reference' if d.followed else 'as odis'} |"
        for d in about.differences
    ]
    page += ["\n## Published figures\n", f"Chosen: {about.chosen}.\n"]
    page += [f"| network | {' | '.join(measures)} | source |", "| --- " * (len(measures) + 2) + "|"]
    page += [
        f"| {f.network} | {' | '.join(f'{f.values[m]:g}' if m in f.values else '' for m in measures)} "
        f"| {f.source} |"
        for f in about.figures
    ]
    page += ["\n## Cost\n", f"Memory: {about.memory}.\n", f"Time: {about.time}.\n"]
    return "\n".join(page)


MADE: dict[str, Callable[[], str]] = {
    "settings": settings,
    "queries": queries,
    "commands": commands,
    "recipes": recipes,
    **{f"protocol-{name}": partial(protocol, name) for name in PROTOCOLS},
}


def fill(text: str) -> str:
    """A page with what its markers name in their place; other comments stay."""
    return _MARKER.sub(lambda found: MADE[found[1]](), text)


def _read(app: Any, name: str, source: list[str]) -> None:
    source[0] = fill(source[0])


_FIELDS = {"Args": "param", "Raises": "raises", "Returns": "returns", "Yields": "yields"}
_HEADING = re.compile(rf"({'|'.join(_FIELDS)}):")


def rest(lines: list[str]) -> list[str]:
    """A docstring of the house as reStructuredText: sections become field lists, and code in single backticks
    stands in double ones.

    (Sphinx's napoleon takes the words before a colon for a type, in what is returned and in a property.)
    """

    def doubled(code: re.Match[str]) -> str:  # a letter that follows asks for an escape
        return f"``{code[1]}``" + ("\\ " if code[2] else "")

    text = re.sub(r"(?<!`)`([^`]+)`(?!`)(?=(\w?))", doubled, "\n".join(lines))
    made, kind_of_field = [], ""
    for line in text.split("\n"):
        if heading := _HEADING.fullmatch(line):
            kind_of_field = _FIELDS[heading[1]]
            made.append("" if kind_of_field in ("param", "raises") else f":{kind_of_field}:")
        elif not kind_of_field or not line.startswith("    "):
            kind_of_field = kind_of_field if not line.strip() else ""
            made.append(line)
        elif kind_of_field in ("param", "raises") and line[4] != " ":
            name, _, what = line.strip().partition(": ")
            made.append(f":{kind_of_field} {name}: {what}")
        else:
            made.append(line)
    return made


def _to_rst(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = rest(lines)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _to_rst)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
