"""What every protocol states: source, settings, figures, differences; its options, page and titles."""

import ast
import math
from pathlib import Path

import pytest

from odis.cli import main
from odis.commands.functions import evaluate
from odis.config.arguments import add_arguments
from odis.config.options import new_parser
from odis.errors import OdisError
from odis.evaluation import EVALUATIONS, TITLES
from odis.evaluation.protocols import PROTOCOLS

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "src" / "odis" / "evaluation" / "protocols"

SHARED = {
    "--batch-size", "--workers", "--device", "--precision", "--strict", "--seed", "--as-published",
}  # fmt: skip

WITHOUT = {  # a train part, or images that may be left out
    "overcluster": {"--max-train"},
    "corloc": {"--max-train"},
    "maskcut": {"--max-train"},
    "davis": {"--max-train"},
    "roxford": {"--max-train", "--max-test"},
    "rparis": {"--max-train", "--max-test"},
}


def test_the_list_has_every_module_that_states_a_protocol():
    stating = {
        path.stem.replace("_", "-")
        for path in PACKAGE.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PROTOCOL"
    }
    assert stating == set(PROTOCOLS)
    assert not set(PROTOCOLS) & set(EVALUATIONS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_says_where_it_is_from_and_what_differs(name: str):
    about = PROTOCOLS[name].about
    assert len(about.source) > 10
    assert about.settings
    assert all(about.settings.values())
    assert about.chosen
    assert about.memory
    assert about.time
    assert about.differences
    for one in about.differences:
        assert one.ours
        assert one.reference
    for figure in about.figures:
        assert figure.source
        assert figure.values
        assert all(math.isfinite(value) for value in figure.values.values())
    followed = about.as_dict(True)["differs"]
    assert followed == [d.ours for d in about.differences if not d.followed]
    assert about.as_dict(False)["differs"] == [d.ours for d in about.differences]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_options_have_their_help_and_those_of_queries_are_the_protocols_own(name: str):
    parser = new_parser(name, "")
    add_arguments(parser, PROTOCOLS[name].data)
    add_arguments(parser, PROTOCOLS[name].settings)
    helps = {a.option_strings[0]: a.help for a in parser._actions if a.option_strings[0] != "-h"}
    assert set(helps) >= SHARED
    assert not set(helps) & {"--mode", "--images", "--context"}
    assert {"--max-train", "--max-test"} - set(helps) == WITHOUT.get(name, set())
    assert all(text and "\n" not in text for text in helps.values())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_default_settings_pass_their_own_check(name: str):
    PROTOCOLS[name].settings.check()
    assert PROTOCOLS[name].settings.as_dict()["as_published"] is False


@pytest.mark.parametrize("name", WITHOUT)
def test_what_means_nothing_in_a_protocol_is_no_setting_of_it(name: str):
    for option in WITHOUT[name]:
        setting = option.removeprefix("--").replace("-", "_")
        with pytest.raises(OdisError, match=f"{setting}: {name} has no such setting"):
            evaluate(name, "timm:x", **{setting: 3})
        assert setting not in PROTOCOLS[name].settings.as_dict()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_titles_name_the_parts_of_the_results(name: str):
    assert name in PROTOCOLS[name].titles
    for kind, titles in PROTOCOLS[name].titles.items():
        assert TITLES[kind] is titles
        assert "{" not in titles.table.format(train="<train>", test="<test>", gallery="<gallery>")
        assert titles.reading.endswith(".")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_has_its_page(name: str):
    page = (ROOT / "docs" / "evaluation" / f"{name}.md").read_text()
    assert page.startswith(f"# `{name}`\n")
    assert f"<!-- generated: protocol-{name} -->" in page
    assert f"\n{name}\n" in (ROOT / "docs" / "evaluation" / "protocols.md").read_text()


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["evaluate", "protocol", "no-such"])
    assert "no-such" in capsys.readouterr().err
    main(["evaluate", "protocol", "--help"])
    out = capsys.readouterr().out
    for name, one in PROTOCOLS.items():
        assert name in out
        assert one.summary.split(":")[0] in " ".join(out.split())
