"""From the typed config to options and recipe files, and back: each setting is declared once, in
`config.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from argparse import ArgumentError
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser

from odis.config.renamed import new_spelling
from odis.config.training import PretrainConfig
from odis.errors import ConfigError, OdisError

RECIPES = Path(__file__).parents[1] / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that come with odis."""
    return sorted(p.stem for p in RECIPES.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe, given by name or path.

    Raises:
        ConfigError: if there is none; the message lists the names.
    """
    if (RECIPES / f"{name}.yaml").is_file():
        return RECIPES / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    raise ConfigError(
        f"--recipe: no file and no recipe {name!r}{did_you_mean(name, recipe_names())}; recipes: "
        f"{', '.join(recipe_names())}"
    )


def did_you_mean(word: str, known: list[str]) -> str:
    """` (did you mean X?)` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def new_parser(command: str, description: str) -> ArgumentParser:
    """A parser whose complaints are raised, for `parse` to word."""
    return ArgumentParser(
        prog=f"odis {command}", description=description, exit_on_error=False, allow_abbrev=False
    )


def _sections() -> dict[str, type]:
    hints = get_type_hints(PretrainConfig)
    return {
        f.name: hints[f.name]
        for f in dataclasses.fields(PretrainConfig)
        if dataclasses.is_dataclass(hints[f.name])
    }


def add_config(parser: ArgumentParser) -> None:
    """Declare `--recipe`, `--data`, `--val`, `--strict` and every `--section.key` of the config."""
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
        "--strict", action="store_true", help="stop at the first file or object that cannot be used"
    )
    for name, section in _sections().items():
        parser.add_class_arguments(section, name)


def parse(parser: ArgumentParser, arguments: list[str]) -> Any:
    """Parse arguments, turning every complaint into one line.

    Raises:
        ConfigError: for an unknown option or key (with the closest known one), a value of the wrong type, or
            a negative `--seed`.
    """
    try:
        options = parser.parse_args(_recipes_first(arguments))
    except ArgumentError as e:
        raise ConfigError(_worded(parser, arguments, " ".join(str(e).split()))) from e
    if (seed := options.get("seed", 0)) < 0:
        raise ConfigError(f"seed: is {seed}, must be 0 or more")
    return options


def _recipes_first(arguments: list[str]) -> list[str]:
    """Recipes resolved to files and moved to the front, so that the command line overrides them in any
    order.
    """
    recipes, rest = [], []
    words = iter(arguments)
    for word in words:
        if word.startswith("--recipe="):
            recipes.append(word.removeprefix("--recipe="))
        elif word == "--recipe" and (name := next(words, None)) is not None:
            recipes.append(name)
        else:
            rest.append(word)
    return [f"--recipe={_checked(recipe_path(name))}" for name in recipes] + rest


def _checked(path: Path) -> Path:
    """A recipe file whose outline is right; keys and values of its sections are the parser's to check."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError(f"--recipe: {path} cannot be read as YAML: {' '.join(str(e).split())}") from e
    if not isinstance(recipe, dict):
        raise ConfigError(f"--recipe: {path} holds no settings; write for example `train: {{epochs: 100}}`")
    known = [f.name for f in dataclasses.fields(PretrainConfig)]
    for name, value in recipe.items():
        if name not in known:
            raise ConfigError(
                f"{name}: no such section{did_you_mean(str(name), known)} (in {path}); a recipe has "
                f"{', '.join(known)}"
            )
        if name in _sections() and not isinstance(value, dict):
            raise ConfigError(
                f"{name}: is {value!r} (in {path}), must hold settings, for example `train: {{epochs: 100}}`"
            )
    return path


def _worded(parser: ArgumentParser, arguments: list[str], message: str) -> str:
    options = [option for action in parser._actions for option in action.option_strings]
    known = [option for option in options if not option.endswith("+")]  # `--loader.keep+ memory` appends
    for argument in arguments:
        option = argument.split("=", 1)[0]
        if option.startswith("--") and option not in options:
            if (now := new_spelling(option[2:])) is not None:
                return f"{option}: is now --{now}"
            return f"{option}: no such option{did_you_mean(option, known)}; --help lists them"
    # A key of a recipe file: Group 'views' does not accept option 'global_sizze'.
    if "does not accept option" in message:
        group, key = message.split("'")[1], message.split("'")[-2]
        if (now := new_spelling(f"{group}.{key}")) is not None:
            return f"{group}.{key}: is now {now}"
        keys = [option.removeprefix("--") for option in known if option.startswith(f"--{group}.")]
        return (
            f"{group}.{key}: no such setting{did_you_mean(f'{group}.{key}', keys)}; {group} has "
            f"{', '.join(k.split('.')[1] for k in keys)}"
        )
    message = re.sub(r"Expected a <class 'list'>\. Got value: (.*)", r"must be a list, such as [\1]", message)
    message = re.sub(
        r"Does not validate .* Subtypes: \[(.*?)\] .* Given value: (.*)",
        r"must be one of [\1]; got \2",
        message,
    )
    for ugly, plain in (
        ("<class '", ""),
        ("'>", ""),
        ("Expected a ", "must be "),
        ("typing.Literal", "one of "),
        (". Got value: ", "; got "),
        ("NoneType", "null"),
        ('Parser key "', ""),
        ('":', ":"),
    ):
        message = message.replace(ugly, plain)
    return message


def to_config(options: Any) -> PretrainConfig:
    """The typed config in parsed options."""
    sections = {name: section(**options[name].as_dict()) for name, section in _sections().items()}
    return PretrainConfig(data=options.data, val=options.val, strict=bool(options.strict), **sections)


def recipe_name(options: Any) -> str:
    """Name of the last recipe in parsed options; empty if there is none."""
    return Path(str(options.recipe[-1])).stem if options.recipe else ""


def load_recipe(name: str, **overrides: Any) -> PretrainConfig:
    """A recipe by name or path as a config; `overrides` are dotted settings with `__` for the dot
    (`train__steps=10`).

    Raises:
        ConfigError: for an unknown recipe, setting, or value of the wrong type.
    """
    parser = new_parser("pretrain", "")
    add_config(parser)
    arguments = ["--recipe", name]
    for key, value in overrides.items():
        if key == "strict":
            arguments += ["--strict"] if value else []
        elif value is not None:
            arguments.append(f"--{key.replace('__', '.')}={_as_text(value)}")
    return to_config(parse(parser, arguments))


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def require(options: Any, *names: str) -> None:
    """Raise an OdisError for the first of `names` that was not given."""
    for name in names:
        if options[name] in (None, "", []):
            raise OdisError(f"--{name.replace('_', '-')} is required; --help lists the options")
