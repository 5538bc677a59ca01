"""What an evaluation states: all are listed, options are those users know, titles fit the results."""

import ast
import dataclasses
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from odis.cli import main
from odis.config.arguments import add_arguments
from odis.config.options import new_parser
from odis.config.query import QueryConfig
from odis.evaluation import EVALUATIONS, TITLES
from odis.evaluation.evaluation import Evaluation, Titles
from odis.evaluation.runner import EvaluationRun
from odis.evaluation.scores import Score
from odis.evaluation.settings import EvaluationSettings, TrainTest
from odis.evaluation.subset import Subset

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "odis" / "evaluation"

QUERY = {"--mode", "--images", "--size", "--context", "--readout", "--mask-coverage", "--mask-margin"}
READ = {"--batch-size", "--workers", "--device", "--precision", "--strict"}
DRAWN = {"--max-train", "--max-test", "--seed"}
GRID = {"--lrs", "--weight-decays", "--steps", "--batch", "--held-out"}
DENSE = {"--train", "--test", "--train-split", "--test-split", "--boxes", "--max-patches", "--size"}
OPTIONS = {
    "knn": QUERY | {"--train", "--test", "--k", "--temperature"},
    "linear": QUERY | GRID | {"--train", "--test", "--multi-label"},
    "transfer": QUERY | {"--train", "--test", "--name", "--costs", "--held-out"},
    "retrieval": QUERY | {"--test", "--gallery", "--landmarks", "--jpg", "--k", "--same-image"},
    "dense-knn": DENSE | {"--k", "--temperature"},
    "segment": DENSE | GRID,
}


def test_the_list_has_every_module_that_states_an_evaluation():
    stating = {
        path.stem.replace("_", "-")
        for path in PACKAGE.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EVALUATION"
    }
    assert stating == set(EVALUATIONS)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_options_are_those_of_data_and_settings_each_with_its_help(name: str):
    one = EVALUATIONS[name]
    parser = new_parser(name, "")
    add_arguments(parser, one.data)
    add_arguments(parser, one.settings)
    helps = {a.option_strings[0]: a.help for a in parser._actions if a.option_strings[0] != "-h"}
    assert set(helps) == OPTIONS[name] | READ | DRAWN
    assert all(text and "\n" not in text for text in helps.values())


@pytest.mark.parametrize("name", EVALUATIONS)
def test_titles_name_the_parts_of_the_results(name: str):
    for kind, titles in EVALUATIONS[name].titles.items():
        assert TITLES[kind] is titles
        title = titles.table.format(train="<train>", test="<test>", gallery="<gallery>")
        assert "{" not in title
        assert all((titles.heading, titles.reading.endswith(".")))


@pytest.mark.parametrize("name", EVALUATIONS)
def test_default_settings_pass_their_own_check_and_are_written_without_how_images_are_read(name: str):
    settings = EVALUATIONS[name].settings
    settings.check()
    written = settings.as_dict()
    own = {one.name for one in dataclasses.fields(settings)} - {"query", "read"}
    assert set(written) == own | {one.name for one in dataclasses.fields(QueryConfig)}


@dataclass(frozen=True, kw_only=True)
class CountSettings(EvaluationSettings):
    """Settings of a new evaluation.

    Args:
        factor: What the count is multiplied with.
    """

    factor: float = 1.0


def count(models, data, settings, progress, on_row):
    """A new evaluation: counts test objects of each model."""
    (train, test), encoders = data.open(), models()
    run = EvaluationRun("count", encoders, settings, progress, on_row)
    for encoder, mode in run.models():
        found = run.features(encoder, mode, Subset.of(test, settings.max_test, settings.seed), "test")
        run.add(encoder, mode, {"count": Score(settings.factor * len(found), math.nan, math.nan)})
    return run.results() | {"train": {"images": len(train), "provenance": "x", "classes": 1}}


def test_a_new_evaluation_is_its_statement_and_one_entry_in_the_list(
    encoder, squares, tmp_path, monkeypatch, capsys
):
    titles = {"count": Titles("{test}, counted", "Count", "A count.")}
    new = Evaluation("count", "Count objects", TrainTest(), CountSettings(), count, titles)
    monkeypatch.setitem(EVALUATIONS, "count", new)
    monkeypatch.setitem(TITLES, "count", titles["count"])
    monkeypatch.setattr("odis.commands.functions.load", lambda source, **_: encoder(source))
    index, out = squares(tmp_path / "squares", ["red", "blue"], 5).path, tmp_path / "count.json"
    arguments = ["--model", "a", "--train", index, "--test", index, "--workers", "0", "--out", str(out)]
    main(["evaluate", "count", *arguments, "--mode", "crop,whole-image", "--max-test", "3", "--factor", "2"])
    assert "6 objects (annotated, 2 classes), counted" in " ".join(capsys.readouterr().out.split())
    written = json.loads(out.read_text())
    assert [row["scores"]["count"]["value"] for row in written["rows"]] == [12.0, 12.0]
    assert written["settings"] == {
        "modes": ["crop", "whole-image"], "images": False, "size": None, "context": None, "readout": "obj",
        "mask_coverage": None, "mask_margin": None, "max_train": None, "max_test": 3, "seed": 0,
        "factor": 2.0,
    }  # fmt: skip
    assert written["complete"] is True
    main(["evaluate", "--help"])
    assert "count      Count objects" in capsys.readouterr().out


def test_no_help_of_evaluate_imports_anything_heavy():
    code = (
        "import sys\nfrom odis.cli import main\n"
        f"for name in {['', *EVALUATIONS]!r}:\n"
        "    try: main(['evaluate', *name.split(), '--help'])\n"
        "    except SystemExit: pass\n"
        "print('MODULES', *{m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("usage: odis evaluate") == 1 + len(EVALUATIONS)
    heavy = {"torch", "torchvision", "timm", "pyarrow", "sklearn", "scipy", "matplotlib"}
    assert not set(done.stdout.splitlines()[-1].split()) & heavy
