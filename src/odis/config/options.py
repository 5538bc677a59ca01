"""Options of a command, and the config that they make. Each setting is declared once, in `training.py`."""

from __future__ import annotations

from argparse import ArgumentError
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser

from odis.config.help_format import HelpFormatter
from odis.config.recipes import check_recipe, recipe_names, recipe_path, sections
from odis.config.renamed import refuse_old
from odis.config.training import PretrainConfig
from odis.config.wording import one_line
from odis.errors import ConfigError, OdisError


def new_parser(command: str, description: str) -> ArgumentParser:
    """A parser whose complaints are raised, for `parse` to word."""
    return ArgumentParser(
        prog=f"odis {command}",
        description=description,
        formatter_class=HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )


def add_config(parser: ArgumentParser) -> None:
    """Declare `--recipe`, `--data`, `--val`, `--root`, `--strict` and every `--section.key` of the config."""
    parser.add_argument(
        "--recipe",
        action=ActionConfigFile,
        help=f"settings to start from: a YAML file or one of {', '.join(recipe_names())}",
    )
    parser.add_argument(
        "--data", type=str, default="", help="object index (.parquet) or folder of images to train on"
    )
    parser.add_argument(
        "--val",
        type=str | None,
        default=None,
        help="held-out object index with labels, for the k-NN during training",
    )
    parser.add_argument(
        "--root",
        type=str | None,
        default=None,
        help="folder the images of the index are in now, if they were moved, or one above it",
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first file or object that cannot be used"
    )
    for name, section in sections().items():
        parser.add_class_arguments(section, name)


def parse(parser: ArgumentParser, arguments: list[str]) -> Any:
    """Parse arguments; every complaint is one line.

    Raises:
        ConfigError: An option or key is unknown (the message names the closest), has another name now, or a
            value of the wrong type; or `--seed` is negative.
    """
    _refuse_old_names(arguments)
    try:
        options = parser.parse_args(_recipes_first(arguments))
    except ArgumentError as e:
        names = [option for action in parser._actions for option in action.option_strings]
        raise ConfigError(one_line(str(e), arguments, names)) from e
    if (seed := options.get("seed", 0)) < 0:
        raise ConfigError(f"seed: is {seed}, must be 0 or more")
    return options


def _refuse_old_names(arguments: list[str]) -> None:
    for word, following in zip(arguments, [*arguments[1:], ""]):
        name, equals, value = word.partition("=")
        if name.startswith("--") and "." in name:
            refuse_old(name.removeprefix("--"), value if equals else following, dashes="--")


def _recipes_first(arguments: list[str]) -> list[str]:
    """Recipes as files, moved to the front: the command line overrides them wherever they stand."""
    recipes, rest = [], []
    words = iter(arguments)
    for word in words:
        if word.startswith("--recipe="):
            recipes.append(recipe_path(word.removeprefix("--recipe=")))
        elif word == "--recipe" and (name := next(words, None)) is not None:
            recipes.append(recipe_path(name))
        else:
            rest.append(word)
    for path in recipes:
        check_recipe(path)
    return [*(f"--recipe={path}" for path in recipes), *rest]


def to_config(options: Any) -> PretrainConfig:
    """The typed config in parsed options."""
    settings = {name: section(**options[name].as_dict()) for name, section in sections().items()}
    return PretrainConfig(
        data=options.data, val=options.val, root=options.root, strict=bool(options.strict), **settings
    )


def recipe_name(options: Any) -> str:
    """Name of the last recipe in parsed options; empty if there is none."""
    return Path(str(options.recipe[-1])).stem if options.recipe else ""


def load_recipe(name: str | Path | None, **overrides: Any) -> PretrainConfig:
    """A recipe by name or path as a config; None is the defaults.

    In the names of `overrides`, `__` stands for the dot: `train__steps=10`.

    Raises:
        ConfigError: There is no such recipe or setting, or a value has the wrong type.
    """
    parser = new_parser("pretrain", "")
    add_config(parser)
    arguments = [] if name is None else ["--recipe", str(name)]
    for key, value in overrides.items():
        if key == "strict":
            arguments += ["--strict"] if value else []
        elif value is not None:
            arguments.append(f"--{key.replace('__', '.')}={_as_text(value)}")
    return to_config(parse(parser, arguments))


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(_as_text, value))}]" if isinstance(value, list | tuple) else str(value)


def require(options: Any, *names: str) -> None:
    """Raise an OdisError for the first of `names` that was not given."""
    for name in names:
        if options[name] in (None, "", []):
            raise OdisError(f"--{name.replace('_', '-')} is required; --help lists the options")
