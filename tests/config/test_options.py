"""Options and recipe files: declared once, precedence, and one helpful line for every mistake."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from odis.config.options import add_config, load_recipe, new_parser, parse, require, to_config
from odis.config.recipes import recipe_names, recipe_path
from odis.config.training import PretrainConfig, as_dict
from odis.config.wording import did_you_mean
from odis.errors import ConfigError, OdisError


def configure(*arguments: str) -> PretrainConfig:
    parser = new_parser("pretrain", "")
    add_config(parser)
    return to_config(parse(parser, list(arguments)))


def complaint(*arguments: str) -> str:
    with pytest.raises(ConfigError) as refusal:
        configure(*arguments)
    message = str(refusal.value)
    assert "\n" not in message
    return message


@pytest.fixture
def recipe(tmp_path: Path):
    """Writes a recipe file, gives its path."""

    def write(text: str | bytes) -> str:
        file = tmp_path / "mine.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(file)

    return write


def test_no_arguments_give_the_defaults():
    assert configure() == PretrainConfig()


def test_command_line_overrides_recipe_overrides_defaults(recipe: Any):
    mine = recipe("views:\n  global_size: 48\n  local_size: 24\ntrain:\n  epochs: 3\n")
    config = configure("--recipe", mine, "--views.global_size", "64", "--data", "here")
    assert config.views.global_size == 64
    assert config.views.local_size == 24
    assert config.train.epochs == 3
    assert config.train.batch_size == PretrainConfig().train.batch_size
    assert config.data == "here"


@pytest.mark.parametrize("given", [["--recipe", "{}"], ["--recipe={}"]])
def test_command_line_overrides_a_recipe_that_follows_it(recipe: Any, given: list[str]):
    mine = recipe("views:\n  global_size: 48\n")
    assert (
        configure("--views.global_size", "64", *[word.format(mine) for word in given]).views.global_size == 64
    )


def test_of_two_recipes_the_later_wins(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("train:\n  epochs: 3\n  seed: 1\n")
    (tmp_path / "b.yaml").write_text("train:\n  epochs: 5\n")
    train = configure("--recipe", str(tmp_path / "a.yaml"), "--recipe", str(tmp_path / "b.yaml")).train
    assert (train.epochs, train.seed) == (5, 1)


def test_recipe_by_name_is_the_file_that_comes_with_odis():
    assert (
        configure("--recipe", "debug")
        == load_recipe("debug")
        == configure("--recipe", str(recipe_path("debug")))
    )
    assert configure("--recipe", "debug") != PretrainConfig()


def test_recipe_may_name_data_and_strictness(recipe: Any):
    config = configure("--recipe", recipe("data: train.parquet\nval: val.parquet\nstrict: true\n"))
    assert (config.data, config.val, config.strict) == ("train.parquet", "val.parquet", True)


def test_strict_is_a_flag():
    assert configure("--strict").strict is True
    assert configure().strict is False


@pytest.mark.parametrize(
    ("text", "value"),
    [("[0.1,0.5]", (0.1, 0.5)), ("[0.1, 0.5]", (0.1, 0.5)), ("[1e-1,1]", (0.1, 1.0))],
)
def test_intervals_are_written_as_lists(text: str, value: tuple[float, float]):
    assert configure("--views.global_scale", text).views.global_scale == value


def test_values_have_their_declared_types():
    config = configure(
        "--objects.use",
        "false",
        "--train.steps",
        "7",
        "--optim.base_lr",
        "1e-3",
        "--model.weights",
        "null",
        "--train.epochs",
        "3",
    )
    assert config.objects.use is False
    assert config.train.steps == 7
    assert config.optim.base_lr == 1e-3
    assert config.model.weights is None
    assert isinstance(config.train.epochs, float)


@pytest.mark.parametrize(
    ("arguments", "begins", "says"),
    [
        (
            ["--views.global_sizze", "96"],
            "--views.global_sizze: no such option",
            "did you mean --views.global_size?",
        ),
        (
            ["--views.global_sizze=96"],
            "--views.global_sizze: no such option",
            "did you mean --views.global_size?",
        ),
        (
            ["--vews.global_size", "96"],
            "--vews.global_size: no such option",
            "did you mean --views.global_size?",
        ),
        (["--views.global", "96"], "--views.global: no such option", "--help"),  # nothing is abbreviated
        (["--xyzzy", "96"], "--xyzzy: no such option", "--help"),
        (["--loader.kep", "[memory]"], "--loader.kep: no such option", "did you mean --loader.keep?"),
        (["--loader.keep", "memory"], "loader.keep: must be a list, such as [memory]", ""),
        (["--loader.keep", "[disk: x]"], "loader.keep: must be str", "got {'disk': 'x'}"),
        (["--loader.cache", "true"], "--loader.cache: is now --loader.keep [memory]", ""),
        (["--loader.copies=folder"], "--loader.copies: is now --loader.keep [disk:DIR]", ""),
        (["--views.grey=1"], "--views.grey: is now --views.grayscale", ""),
        (["--views.global_size", "large"], "views.global_size: must be int", "got large"),
        (["--views.global_size", "1.5"], "views.global_size: must be int", "got 1.5"),
        (["--train.steps", "1.5"], "train.steps: must be one of [int, null]", "got 1.5"),
        (["--optim.base_lr", "fast"], "optim.base_lr: must be float", "got fast"),
        (
            ["--optim.freeze_last_layer_epochs", "ever"],
            "optim.freeze_last_layer_epochs: must be a float or one of ['always']",
            "got ever",
        ),
        (["--objects.use", "perhaps"], "objects.use: must be bool", "got perhaps"),
        (
            ["--train.precision", "fp8"],
            "train.precision: must be one of ['auto', 'fp32', 'bf16'",
            "got fp8",
        ),
        (["--views.global_scale", "[0.1]"], "views.global_scale: must be tuple with 2 elements", "got [0.1]"),
        (["--views.global_scale", "0.1"], "views.global_scale: must be tuple", "got 0.1"),
        (["--views.global_size"], "argument --views.global_size:", "expected one argument"),
        (["--recipe"], "argument --recipe:", "expected one argument"),
        (
            ["--recipe", "odis-vits"],
            "--recipe: no file and no recipe 'odis-vits'",
            "did you mean odis-vits16?",
        ),
        (["--recipe=nowhere/mine.yaml"], "--recipe: no file and no recipe 'nowhere/mine.yaml'", "debug"),
        (["--recipe", "."], "--recipe: no file and no recipe '.'", "debug"),
        (["stray"], "unrecognized arguments: stray", ""),
    ],
)
def test_mistake_on_the_command_line_is_one_line(arguments: list[str], begins: str, says: str):
    message = complaint(*arguments)
    assert message.startswith(begins)
    assert says in message


@pytest.mark.parametrize(
    ("text", "begins", "says"),
    [
        (
            "views:\n  global_sizze: 96\n",
            "views.global_sizze: no such setting",
            "did you mean views.global_size?",
        ),
        ("vews:\n  global_size: 96\n", "vews: no such section", "did you mean views?"),
        ("loader:\n  resident_gib: 2\n", "loader.resident_gib: is now loader.keep [device:20GiB]", ""),
        (
            "loader:\n  kep: [memory]\n",
            "loader.kep: no such setting",
            "loader has workers, prefetch, keep, fetch_cache, render",
        ),
        ("recipe: debug\n", "recipe: no such section", "loader"),
        ("3: 4\n", "3: no such section", "loader"),
        ("views: 3\n", "views: is 3", "must hold settings"),
        ("views:\n", "views: is None", "must hold settings"),
        ("views:\n  global_size: large\n", "views.global_size: must be int", "got large"),
        ("views:\n  jitter: yes\n", "views.jitter: must be float", "got True"),
        ("views:\n  blur: [1, 2]\n", "views.blur: must be tuple with 3 elements", "got [1, 2]"),
        ("train:\n  precision: fp8\n", "train.precision: must be one of", "got fp8"),
        ("views: [1\n", "--recipe: ", "cannot be read as YAML"),
        (b"\xff\xfe\x00", "--recipe: ", "cannot be read as YAML"),
        ("", "--recipe: ", "holds no settings"),
        ("# nothing yet\n", "--recipe: ", "holds no settings"),
        ("- views\n", "--recipe: ", "holds no settings"),
        ("views\n", "--recipe: ", "holds no settings"),
    ],
)
def test_mistake_in_a_recipe_is_one_line(recipe: Any, text: str | bytes, begins: str, says: str):
    message = complaint("--recipe", recipe(text))
    assert message.startswith(begins)
    assert says in message


def test_mistakes_about_the_file_name_it(recipe: Any):
    for text in ("", "views: [1\n", "vews: {}\n", "views: 3\n"):
        file = recipe(text)
        assert file in complaint("--recipe", file)


@pytest.mark.parametrize(
    ("arguments", "text", "line"),
    [
        (["--views.grey", "0.2"], "views: {grey: 0.2}", "views.grey: is now views.grayscale"),
        (
            ["--views.solarise=[0,0,0]"],
            "views: {solarise: [0, 0, 0]}",
            "views.solarise: is now views.solarize",
        ),
        (
            ["--loss.centring", "centre"],
            "loss: {centring: centre}",
            "loss.centring: is now loss.centering center",
        ),
        (
            ["--loss.centering=centre"],
            "loss: {centering: centre}",
            "loss.centering centre: is now loss.centering center",
        ),
        (
            ["--discover.centre", "true"],
            "discover: {centre: true}",
            "discover.centre: is now discover.center",
        ),
        (["--loader.cache", "true"], "loader: {cache: true}", "loader.cache: is now loader.keep [memory]"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(recipe: Any, arguments: list[str], text: str, line: str):
    old, now = line.split(": is now ")
    assert complaint(*arguments) == f"--{old}: is now --{now}"
    file = recipe(text + "\n")
    assert complaint("--recipe", file) == f"{line} (in {file})"


def test_overrides_of_load_recipe_are_dotted_names():
    config = load_recipe(
        "debug",
        data="x",
        train__steps=3,
        views__global_scale=(0.2, 0.9),
        objects__use=False,
        strict=True,
        val=None,
    )
    assert (config.data, config.val, config.strict) == ("x", None, True)
    assert (config.train.steps, config.views.global_scale, config.objects.use) == (3, (0.2, 0.9), False)
    with pytest.raises(ConfigError, match=r"^--train.stepz: no such option \(did you mean --train.steps\?\)"):
        load_recipe("debug", train__stepz=3)


def test_resolved_config_read_back_is_the_config(recipe: Any):
    config = load_recipe("odis-vitb16", data="x", val="y", train__steps=12)
    assert load_recipe(recipe(yaml.safe_dump(as_dict(config)))) == config


def test_recipe_names_are_the_files():
    assert recipe_names() == sorted(recipe_names())
    assert {"debug", "odis-vits16", "ibot-vits16", "dino-vits16"} <= set(recipe_names())
    assert all(recipe_path(name).is_file() for name in recipe_names())


def test_did_you_mean_offers_only_what_is_close():
    assert did_you_mean("vews", ["views", "train"]) == " (did you mean views?)"
    assert did_you_mean("xyzzy", ["views", "train"]) == ""


def test_require_names_the_missing_option():
    parser = new_parser("x", "")
    parser.add_argument("--out_file", type=str, default="")
    options = parse(parser, [])
    with pytest.raises(OdisError, match=r"^--out-file is required"):
        require(options, "out_file")
    require(parse(parser, ["--out_file", "a"]), "out_file")


def test_every_field_is_an_option_of_pretrain_with_its_help():
    help_text = subprocess.run(
        [sys.executable, "-m", "odis", "pretrain", "--help-all"], capture_output=True, text=True, check=True
    ).stdout
    for section, keys in as_dict(PretrainConfig()).items():
        for key in keys if isinstance(keys, dict) else ():
            assert f"--{section}.{key}" in help_text
    assert "Probability of mirroring a view." in help_text
    assert "UNKNOWN" not in help_text


def test_mistake_exits_with_two_and_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "odis", "pretrain", "--data", "x", "--out", "y", "--train.stepz", "3"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "odis pretrain: --train.stepz: no such option (did you mean --train.steps?); --help lists them"
    ]


@pytest.mark.parametrize("text", ["[device:20GiB, memory]", '["device:20GiB","memory"]'])
def test_lists_are_written_in_brackets(recipe: Any, text: str):
    parser = new_parser("pretrain", "")
    add_config(parser)
    for arguments in (
        [f"--loader.keep={text}"],
        ["--loader.keep", text],
        ["--recipe", recipe(f"loader:\n  keep: {text}\n")],
        ["--recipe", recipe("loader:\n  keep:\n  - device:20GiB\n  - memory\n")],
        ["--loader.keep", "[device:20GiB]", "--loader.keep+", "memory"],
    ):
        assert to_config(parse(parser, arguments)).loader.keep == ["device:20GiB", "memory"]
    assert to_config(parse(parser, [])).loader.keep == []
