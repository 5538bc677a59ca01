"""The pages that are made from the code: every setting, option and recipe is in them, as the code has it."""

import dataclasses
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from odis.commands import commands
from odis.commands.command import Command, Group
from odis.config.options import (
    add_config,
    load_recipe,
    new_parser,
    parse,
    recipe_names,
    recipe_path,
    to_config,
)
from odis.config.query import QueryConfig, ReadConfig
from odis.evaluation import PROTOCOLS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def reference():
    """The Sphinx extension."""
    spec = importlib.util.spec_from_file_location("odis_reference", ROOT / "docs/_ext/odis_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_setting_is_there_with_its_default(reference):
    made = reference.settings()
    parser = new_parser("pretrain", "")
    add_config(parser)
    settings = {o[2:] for a in parser._actions for o in a.option_strings if re.fullmatch(r"--\w+\.\w+", o)}
    for setting in settings | {"data", "val", "strict"}:
        assert f"{{confval}} {setting}\n" in made
    defaults = dict(re.findall(r"\{confval\} (\w+\.\w+)\n.*?default `([^`]*)`\n", made, re.DOTALL))
    assert defaults.keys() == settings
    untouched = to_config(parse(parser, []))
    typed = to_config(parse(parser, [f"--{name}={value}" for name, value in defaults.items()]))
    for name in defaults:
        group, key = name.split(".")
        expected, value = (getattr(getattr(config, group), key) for config in (untouched, typed))
        number = isinstance(expected, float | tuple)
        assert value == (pytest.approx(expected, rel=1e-3) if number else expected)


def test_every_query_setting_is_there(reference):
    made = reference.queries()
    for field in (*dataclasses.fields(QueryConfig), *dataclasses.fields(ReadConfig)):
        name = field.metadata.get("option", field.name).replace("_", "-")
        assert f"{{confval}} --{name}\n" in made
    assert "list of text; default `masked-attention`" in made


def test_a_setting_without_words_stops_the_reference(reference):
    @dataclasses.dataclass
    class Section:
        """About.

        Args:
            said: What it is.
        """

        said: int = 1
        unsaid: int = 2

    with pytest.raises(ValueError, match="unsaid"):
        reference.described(Section)


def leaves(group: Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Command]]:
    """Every command that runs, by its words."""
    for name, command in group.commands.items():
        if isinstance(command, Group):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join(["odis", *path, name]), command


def test_every_command_and_option_is_there(reference):
    made = reference.commands()
    sections = dict(re.findall(r"^#+ (odis .*)\n((?:(?!#+ odis ).*\n)*)", made, re.MULTILINE))
    for words, command in leaves(commands()):
        about = sections[words]
        if other := re.search(r"Options: those of \[`(.*)`\]", about):
            about = sections[other[1]]
        parser = new_parser(words, "")
        command.add_options(parser)
        known = {name for action in parser._actions for name in action.option_strings or [action.dest]}
        settings = {name for name in known if "." in name}
        settings |= {name.split(".")[0] for name in settings}
        for name in known - settings - {"-h", "--help"}:
            assert re.search(rf"\{{option\}} {re.escape(name)}[ \n]", about), (words, name)
        linked = set(re.findall(r"\(settings\.md#(\w+)\)", about))
        assert linked == {name[2:] for name in settings if "." not in name}


def test_options_are_worded_as_they_are_typed(reference):
    parser = new_parser("x", "")
    parser.add_argument("data", type=str, help="an index")
    parser.add_argument("--size", type=int | None, default=None, help="pixels, ...")
    parser.add_argument("--shard", type=str, default="1/1", help="i/n: make every n-th part")
    parser.add_argument("--strict", action="store_true", help="stop.")
    data, size, shard, strict = map(reference.option, parser._actions[1:])
    assert data == "````{option} data\nAn index.\n\ntext\n````\n"
    assert size == "````{option} --size SIZE\nPixels, ...\n\nwhole number or none\n````\n"
    assert shard == "````{option} --shard SHARD\ni/n: make every n-th part.\n\ntext; default `1/1`\n````\n"
    assert strict == "````{option} --strict\nStop.\n````\n"


def test_every_recipe_is_there_in_full(reference):
    made = reference.recipes()
    for name in recipe_names():
        assert f"## {name}\n\n```yaml\n{recipe_path(name).read_text().rstrip()}\n```\n" in made
    assert load_recipe(recipe_names()[0])


def test_markers_are_filled_and_other_comments_stay(reference):
    page = "a\n<!-- generated: recipes -->\n<!-- made: core scenes -->\n"
    assert reference.fill(page) == f"a\n{reference.recipes()}\n<!-- made: core scenes -->\n"
    with pytest.raises(KeyError, match="nothing"):
        reference.fill("<!-- generated: nothing -->\n")


def test_no_page_keeps_a_marker(reference):
    pages = (ROOT / "docs").rglob("*.md")
    marked = [page for page in pages if "<!-- generated: " in page.read_text()]
    assert len(marked) > len(PROTOCOLS)
    for page in marked:
        assert "<!-- generated: " not in reference.fill(page.read_text()), page


def test_docstrings_become_restructured_text(reference):
    lines = """What `a` is: one of the `Object`s.

Args:
    x: First: with a colon,
        and a second line.
    y: Second.

Returns:
    A list, one for each (one: no list).

Raises:
    ValueError: if `x` is wrong.

After."""
    assert reference.rest(lines.split("\n")) == [
        "What ``a`` is: one of the ``Object``\\ s.",
        "",
        "",
        ":param x: First: with a colon,",
        "        and a second line.",
        ":param y: Second.",
        "",
        ":returns:",
        "    A list, one for each (one: no list).",
        "",
        "",
        ":raises ValueError: if ``x`` is wrong.",
        "",
        "After.",
    ]
