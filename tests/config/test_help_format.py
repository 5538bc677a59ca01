"""What `--help` says of options: what may be given and the default, and nothing that says nothing."""

import re

import pytest

from odis.cli import find_command
from odis.commands import commands
from odis.commands.command import Group
from odis.config.options import new_parser


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
