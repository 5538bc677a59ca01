"""What `--help` says of options: what may be given and the default, and nothing that says nothing."""

import re
from typing import Any

import pytest

from odis.cli import command_parser, find_command, main, parse_options
from odis.commands import commands
from odis.commands.command import Group
from odis.config.help_format import BEGINNER, short_help
from odis.config.options import new_parser
from odis.errors import OdisError


def every_command(group: Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [
        name
        for one, command in group.commands.items()
        for name in (every_command(command, (*path, one)) if isinstance(command, Group) else [(*path, one)])
    ]


@pytest.mark.parametrize("path", every_command(commands()), ids=" ".join)
def test_no_help_shows_types_of_python_or_defaults_that_are_none(path: tuple[str, ...]) -> None:
    _, command, _ = find_command(list(path))
    assert not isinstance(command, Group)
    parser = new_parser(" ".join(path), command.summary)
    command.add_options(parser)
    text = " ".join(parser.format_help().split())
    assert not re.search(r"lambda|<function|type: |default: null|default: False|default: None|\| null", text)


def test_what_may_be_given_and_the_default() -> None:
    parser = new_parser("x", "")
    parser.add_argument("--name", type=str, help="a name")
    parser.add_argument("--kind", choices=["a", "b"], default="a", help="a kind")
    parser.add_argument("--count", type=int, default=0, help="a count (of things)")
    parser.add_argument("--size", type=int | None, default=None, help="a size")
    parser.add_argument("--share", type=float, default=0.5, help="a share")
    parser.add_argument("--on", action="store_true", help="a flag")
    parser.add_argument("--off", type=bool, default=True, help="a switch")
    text = " ".join(parser.format_help().split())
    for said in (
        "--name NAME a name --kind",
        "--kind {a,b} a kind (default: a)",
        "a count (of things) (whole number, default: 0)",
        "a size (whole number)",
        "a share (number, default: 0.5)",
        "--on a flag --off",
        "a switch (default: True)",
    ):
        assert said in text


def parser_of(*path: str) -> Any:
    command = find_command(list(path))[1]
    assert not isinstance(command, Group)
    return command_parser(list(path), command), command


def test_the_help_of_a_command_with_many_settings_is_what_a_beginner_needs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser, command = parser_of("pretrain")
    text = short_help(parser, command.required)
    lines = text.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 120
    assert lines[0] == "usage: odis pretrain --data DATA --out OUT [options]"
    known = {option for action in parser._actions for option in action.option_strings}
    shown = re.findall(r"^  (--[\w.-]+)", text, re.MULTILINE)
    assert shown[:4] == ["--data", "--out", "--recipe", "--val"]
    assert set(shown) <= known
    assert {f"--{name}" for name in BEGINNER} <= set(shown)
    for words, expected in ((["--help"], text), (["-h"], text), (["--help-all"], parser.format_help())):
        with pytest.raises(SystemExit) as stop:
            main(["pretrain", *words])
        assert stop.value.code == 0
        assert capsys.readouterr().out == expected
    assert parser.format_help().startswith(lines[0])
    assert known - {"-h"} <= set(re.findall(r"--[\w.+-]+", parser.format_help()))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (["index", "coco"], "odis index coco ROOT --out OUT [options]"),
        (["index", "merge"], "odis index merge INDEXES ... --out OUT [options]"),
        (["index", "stats"], "odis index stats INDEX [options]"),
        (["index", "auto"], "odis index auto ROOT [options]"),
    ],
)
def test_what_must_be_given_stands_without_brackets(path: list[str], expected: str) -> None:
    parser, _ = parser_of(*path)
    assert parser.format_usage().split("usage: ", 1)[1].split() == expected.split()


@pytest.mark.parametrize("path", every_command(commands()), ids=" ".join)
def test_what_a_command_requires_is_an_option_of_it_and_is_asked_for(path: tuple[str, ...]) -> None:
    parser, command = parser_of(*path)
    options = {option for action in parser._actions for option in action.option_strings}
    assert {f"--{name}" for name in command.required} <= options
    if command.required:
        positional = ["x"] * sum(not action.option_strings for action in parser._actions)
        with pytest.raises(OdisError, match=rf"^--{command.required[0]} is required"):
            command.run(parse_options(list(path), command, positional))
