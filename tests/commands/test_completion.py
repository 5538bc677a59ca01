"""Completion: the words are those of the parsers, and three real shells offer them."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from odis.cli import command_parser, find_command
from odis.commands import commands
from odis.commands.command import Command, Group
from odis.commands.completion.scripts import SCRIPTS
from odis.commands.completion.words import Words, words_of
from odis.config.help_format import is_long
from odis.config.recipes import recipe_names

FORMATS = ["coco", "coco-panoptic"]
PRECISIONS = ["auto", "bf16", "fp16", "fp32"]

# A command line, and what completes its last word; FILES where the shell offers files.
TYPED = [
    ("odis in", ["index", "inspect"]),
    ("odis index coco", FORMATS),
    ("odis evaluate protocol dav", ["davis"]),
    ("odis index coco data --sp", ["--split"]),
    ("odis pretrain --train.prec", ["--train.precision"]),
    ("odis pretrain --train.precision ''", PRECISIONS),
    ("odis pretrain --strict --dat", ["--data"]),
    ("odis pretrain --recipe odis-p", [name for name in recipe_names() if name.startswith("odis-p")]),
    ("odis pretrain --train.compile t", ["true"]),
    ("odis completion ''", ["bash", "fish", "zsh"]),
    ("odis pretrain --out ''", ["FILES"]),
    ("odis index coco ''", ["FILES"]),
    ("odis nonsense --da", []),
]


@pytest.fixture(scope="module")
def places() -> list[Words]:
    return list(words_of(commands()))


def test_the_words_are_those_of_the_parsers(places: list[Words]) -> None:
    settings = 0
    for one in places:
        path, command, _ = find_command(list(one.path))
        assert tuple(path) == one.path
        if isinstance(command, Group):
            assert [name for name, _ in one.commands] == list(command.commands)
            continue
        assert isinstance(command, Command)
        parser = command_parser(path, command)
        told = set(re.findall(r"^  (?:-\w, )?(--[\w.-]+)", parser.format_help(), re.MULTILINE))
        sections = {name.split(".")[0] for name in told if "." in name}  # `--views FILE` is the parser's own
        told -= sections | {"--print_config"}
        named = {option.name for option in one.options}
        assert named - {"--help-all"} == told
        assert ("--help-all" in named) == is_long(parser)
        settings += sum("." in name for name in named)
    assert len(places) > 60
    assert settings > 300


def test_values_and_flags(places: list[Words]) -> None:
    options = {option.name: option for one in places if one.path == ("pretrain",) for option in one.options}
    assert options["--train.precision"].values == ("auto", "fp32", "bf16", "fp16")
    assert options["--recipe"].values == tuple(recipe_names())
    assert options["--out"].takes_value
    assert not options["--out"].values
    assert not options["--strict"].takes_value
    assert options["--out"].about == "folder of the run"


RUNS = {
    "bash": """
source {script}
ask() {{
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _odis
  if ((${{#COMPREPLY[@]}})); then echo "${{COMPREPLY[@]}}"; else echo NOTHING; fi
}}
""",
    # The completion system needs a terminal: its functions print here what they are given.
    "zsh": """
compdef() {{ }}
begins() {{ local one; for one in "$@"; do [[ $one == "$PREFIX"* ]] && printf "%s " "${{one%%:*}}"; done }}
_describe() {{ local name="${{argv[-1]}}"; begins "${{(@P)name}}" }}
compadd() {{ shift; begins "$@" }}
_files() {{ print -n FILES }}
compset() {{ PREFIX="${{PREFIX#*=}}" }}
source {script}
ask() {{ words=("$@"); CURRENT=$#; PREFIX="${{words[$CURRENT]}}"; _odis; print }}
""",
    "fish": """
source {script}
function ask
    set -l found (complete -C "$argv" | string replace -r '\\t.*' '')
    echo $found
end
""",
}


@pytest.mark.parametrize("shell", RUNS)
def test_a_real_shell_completes(places: list[Words], tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(SCRIPTS[shell](places))
    (tmp_path / "a-file").touch()
    run = RUNS[shell].format(script=tmp_path / "script")
    for line, _ in TYPED:
        # fish is asked with the line as it is typed; the others are given its words
        words = [line.removesuffix("''")] if shell == "fish" else shlex.split(line)
        run += f"ask {shlex.join(words)}\n"
    plain = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [shell, *plain, "-c", run], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.stderr == ""
    offered = [sorted(line.split()) for line in done.stdout.split("\n")[:-1]]
    for (line, expected), found in zip(TYPED, offered, strict=True):
        files = {"bash": ["NOTHING"], "zsh": ["FILES"], "fish": ["a-file", "script"]}[shell]
        wanted = files if expected == ["FILES"] or (not expected and shell == "bash") else sorted(expected)
        assert found == wanted, line


def test_quotes_in_help_end_no_string() -> None:
    places = [Words((), (("one", "it's the user's `own` $HOME: \\"),))]
    for shell, make in SCRIPTS.items():
        if shutil.which(shell) is not None:
            done = subprocess.run([shell, "-n"], input=make(places), capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")
