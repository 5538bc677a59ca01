"""The README against the code: every command parses, every recipe and path exists, its Python runs."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from odis.backbones.build import build_pair
from odis.backbones.saved import save_model
from odis.cli import main
from odis.config.checks import check
from odis.config.options import load_recipe, parse, recipe_names, to_config
from odis.inference.queries import MODES
from odis.train.loop import model_card

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
EVALUATION = (ROOT / "docs" / "evaluation.md").read_text()
DISCOVERY = (ROOT / "docs" / "discovery.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    """Fenced blocks of a language; the empty one is plain text."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def section(heading: str) -> str:
    """The text under a heading, up to the next."""
    return README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def first_column(text: str) -> list[str]:
    """What stands in backticks at the start of each table row."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def commands(text: str = README) -> list[list[str]]:
    """The arguments of every `odis ...` command, also under `torchrun ... -m`, in shell blocks."""
    words = [shlex.split(line, comments=True) for block in blocks("sh", text) for line in block.splitlines()]
    return [line[line.index("odis") + 1 :] for line in words if "odis" in line]


class ParsedError(Exception):
    """Carries parsed options out of a command before it does anything."""


@pytest.fixture
def only_parse(monkeypatch: pytest.MonkeyPatch):
    def stop(parser, arguments):
        raise ParsedError(parse(parser, arguments))

    for module in (
        "commands.evaluate",
        "commands.embed",
        "commands.report",
        "commands.index",
        "commands.objects",
        "commands.benchmark",
        "commands.detect",
        "config.options",
    ):  # options last: the others import its parse
        monkeypatch.setattr(f"odis.{module}.parse", stop)


@pytest.mark.parametrize(
    "arguments", commands() + commands(EVALUATION) + commands(DISCOVERY), ids=lambda a: " ".join(a)[:60]
)
@pytest.mark.usefixtures("only_parse")
def test_every_command_parses(arguments: list[str]):
    with pytest.raises(ParsedError) as parsed:
        main(arguments)
    options = parsed.value.args[0]
    assert options.out, "a reader's command says where its result goes"
    if "recipe" in options:
        options.data = options.get("index") or options.data
        check(to_config(options))


@pytest.mark.usefixtures("only_parse")
def test_a_command_with_a_wrong_option_would_be_seen():
    with pytest.raises(SystemExit):
        main(["pretrain", "--data", "x", "--optim.base_rate", "1"])


def test_the_walkthroughs_are_whole():
    for data in ("photos", "coco"):
        verbs = [c[0] for c in commands() if any(data in word for word in c)]
        assert verbs[:5] == ["index", "index", "inspect", "pretrain", "evaluate"]


def test_options_in_the_text_exist():
    from odis.config.options import add_config, new_parser

    parser = new_parser("pretrain", "")
    add_config(parser)
    known = {option for action in parser._actions for option in action.option_strings}
    named = set(re.findall(r"--[a-z]+\.[a-z_]+", README))
    assert named
    assert named <= known
    plain = {
        f"--{name}"
        for name in re.findall(r"`((?:train|head|loss|model|views|objects|loader)\.[a-z_]+)[ `]", README)
    }
    plain.discard("--model.safetensors")  # a file
    assert plain
    assert plain <= known


def test_the_table_of_recipes_is_that_of_the_package():
    rows = re.findall(r"^\| `([^`]+)` \| .* \| (\d+|-) \|$", section("Recipes"), re.MULTILINE)
    assert sorted(name for name, _ in rows) == recipe_names()
    for name, batch in rows:
        expected = (
            "-" if name == "demo" else str(load_recipe(name).train.batch_size)
        )  # nobody plans a machine around the demo
        assert batch == expected, name


def test_recipes_in_the_text_exist():
    named = set(re.findall(r"--recipe (?!NAME|my\.yaml)(\S+)", README)) | set(
        re.findall(r"`((?:odis|ibot|dino)-(?:small|tiny|vit)[a-z0-9-]*)`", README)
    )
    assert named
    assert named <= set(recipe_names())


def test_the_modes_are_those_of_the_code():
    assert first_column(section("Evaluation")) == ["--mode", *MODES]


def test_the_annotation_formats_are_those_of_the_code():
    from odis.objects.sources import SOURCES

    assert first_column(section("Your own images: COCO")) == ["odis index", *SOURCES]


def test_the_evaluations_are_those_of_the_code():
    from odis.commands.evaluate import EVALUATIONS

    documented = re.findall(r"`([a-z-]+)`", " ".join(re.findall(r"^## (`.*)$", EVALUATION, re.MULTILINE)))
    assert documented == list(EVALUATIONS)
    assert all(name in section("Evaluation") for name in EVALUATIONS)


def test_features_are_read_back_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import duckdb
    import numpy
    import pyarrow.parquet

    from odis.inference.feature_tables import feature_schema

    rows = [
        {"image": "a", "row": 0, "object": i, "box": [0, 0, 1, 1], "class": "cat", "provenance": "x"}
        for i in range(3)
    ]
    for dtype in ("fp16", "fp32"):
        folder = tmp_path / dtype / "features" / "coco"
        folder.mkdir(parents=True)
        values = [
            row | {"vector": numpy.arange(4, dtype="float16" if dtype == "fp16" else "float32")}
            for row in rows
        ]
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(values, feature_schema(4, dtype)), folder / "part-00000.parquet"
        )
        (folder / "_about.json").write_text("{}")
        monkeypatch.chdir(tmp_path / dtype)
        names: dict = {"pyarrow": pyarrow, "numpy": numpy, "duckdb": duckdb}
        (reading,) = blocks("python", EVALUATION)
        exec(reading, names)
        assert names["table"].num_rows == 3
        assert names["vectors"].tolist() == [[0, 1, 2, 3]] * 3
        assert eval(reading.strip().splitlines()[-1].split("  #")[0], names).fetchall() == [("cat", 3)]


def test_odis_small_is_as_described():
    config = load_recipe("odis-small")
    assert (config.head.norm, config.loss.centering, config.model.object_tokens) == (
        "batch",
        "sinkhorn",
        "read-only",
    )
    assert config.head.prototypes < load_recipe("odis-vits16").head.prototypes
    assert load_recipe("demo").model.object_tokens == "read-only"


def file_map() -> list[str]:
    """Paths of the file map; a file stands two spaces further in than its folder."""
    folders: list[str] = []
    paths = []
    for line in next(b for b in blocks("") if "errors.py" in b).splitlines():
        name = line.split()[0]
        folders = folders[: (len(line) - len(line.lstrip())) // 2]
        paths.append("".join(folders) + name)
        if name.endswith("/"):
            folders.append(name)
    return paths


def test_files_named_in_the_text_exist():
    named = re.findall(
        r"`((?:data|model|train|src|benchmarks|objects)/[\w/]+(?:\.py|/))`|`(losses\.py)`", README
    )
    assert named
    for path in (a or b for a, b in named):
        assert (ROOT / path).exists() or (ROOT / "src" / "odis" / path).exists(), path
    for target in re.findall(r"(?<!!)\[[^\]]*\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = load_recipe("odis-small")
    _, teacher = build_pair(config)
    (tmp_path / "runs" / "coco").mkdir(parents=True)
    run = SimpleNamespace(config=config, patch_size=16, provenance="annotated", step=1, recipe="odis-small")
    save_model(tmp_path / "runs" / "coco" / "model.safetensors", teacher.backbone, model_card(run))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (260, 320, 3), dtype=np.uint8)).save(
        tmp_path / "photo.jpg"
    )
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    three_lines, embed, in_timm = blocks("python")
    assert len([line for line in three_lines.splitlines() if line.strip()]) == 3
    exec(three_lines, names)
    assert names["vector"].shape == (1, 192)
    exec(embed, names)
    one, other = names["found"]
    assert one.objects.shape == (2, 192)
    assert other.objects.shape == (0, 192)
    assert one.patches.shape == (one.grid[0] * one.grid[1], 192)
    exec(in_timm, names)
    ours = teacher.backbone.state_dict()
    assert ours.keys() - names["vit"].state_dict().keys() == {"mask_token", "object_token"}
    assert all((names["vit"].state_dict()[key] == ours[key]).all() for key in names["vit"].state_dict())
