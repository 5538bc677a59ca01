"""Usage lines: what a command asks for stands in them without brackets, and nothing else does."""

import re
from pathlib import Path

import pytest

from odis.cli import command_parser, main
from odis.commands import commands
from odis.commands.command import Command, Group

COMMANDS: list[tuple[str, ...]] = []
BY_PATH: dict[tuple[str, ...], Command] = {}


def collect(group: Group, path: tuple[str, ...] = ()) -> None:
    for name, one in group.commands.items():
        if isinstance(one, Group):
            collect(one, (*path, name))
        else:
            BY_PATH[(*path, name)] = one


collect(commands())
ASKS_NOTHING = {("demo",), ("completion",)}
WRONG = {("scenes",): ["--count", "0"]}  # lest it succeeds


def usage_of(path: tuple[str, ...]) -> str:
    return str(command_parser(list(path), BY_PATH[path]).usage)


def asked_for(path: tuple[str, ...], positional: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The options that a command asks for, one error after the other."""
    given = [*path, *["x"] * positional, *WRONG.get(path, [])]
    names: list[str] = []
    for _ in range(8):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(given)
        assert stop.value.code == 2, path
        asked = re.search(r": --([a-z-]+) is required", capsys.readouterr().err)
        if asked is None:
            return names
        names.append(asked[1])
        given += [f"--{asked[1]}", "x"]
    raise AssertionError(f"{path}: asks without end")


@pytest.mark.parametrize("path", sorted(BY_PATH.keys() - ASKS_NOTHING), ids=" ".join)
def test_what_a_command_asks_for_is_in_its_usage(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = usage_of(path).removeprefix(f"odis {' '.join(path)} ").removesuffix("[options]").split()
    plain = [word for word in words if word.isupper() and not word.startswith("[")]
    options = [word.removeprefix("--") for word in words if word.startswith("--")]
    assert sorted(options) == sorted(asked_for(path, len(plain) - len(options), capsys)), usage_of(path)
