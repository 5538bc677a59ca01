"""From the typed config to options and recipe files, and back: each setting is declared once, in `config.py`."""

from __future__ import annotations

import dataclasses
import difflib
from argparse import ArgumentError
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import ActionConfigFile, ArgumentParser

from odis.config import PretrainConfig
from odis.errors import ConfigError, OdisError

RECIPES = Path(__file__).parent / "recipes"


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
    raise ConfigError(f"--recipe: no file and no recipe {name!r}{did_you_mean(name, recipe_names())}; recipes: {', '.join(recipe_names())}")


def did_you_mean(word: str, known: list[str]) -> str:
    """` (did you mean X?)` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def new_parser(command: str, description: str) -> ArgumentParser:
    """A parser whose complaints are raised, for `parse` to word."""
    return ArgumentParser(prog=f"odis {command}", description=description, exit_on_error=False)


def _sections() -> dict[str, type]:
    hints = get_type_hints(PretrainConfig)
    return {f.name: hints[f.name] for f in dataclasses.fields(PretrainConfig) if dataclasses.is_dataclass(hints[f.name])}


def add_config(parser: ArgumentParser) -> None:
    """Declare `--recipe`, `--data`, `--val`, `--strict` and every `--section.key` of the config."""
    parser.add_argument("--recipe", action=ActionConfigFile, help=f"settings to start from: a YAML file or one of {', '.join(recipe_names())}")
    parser.add_argument("--data", type=str, default="", help="object index (.parquet) or folder of images to train on")
    parser.add_argument("--val", type=str | None, default=None, help="held-out object index with labels, for the k-NN during training")
    parser.add_argument("--strict", action="store_true", help="stop at the first file or object that cannot be used")
    for name, section in _sections().items():
        parser.add_class_arguments(section, name)


def parse(parser: ArgumentParser, arguments: list[str]) -> Any:
    """Parse arguments, turning every complaint into one line.

    Raises:
        ConfigError: for an unknown option or key (with the closest known one), or a value of the wrong type.
    """
    try:
        return parser.parse_args(_with_recipe_path(arguments))
    except ArgumentError as e:
        raise ConfigError(_worded(parser, arguments, " ".join(str(e).split()))) from e


def _with_recipe_path(arguments: list[str]) -> list[str]:
    resolved = list(arguments)
    for i, argument in enumerate(arguments):
        if argument == "--recipe" and i + 1 < len(arguments):
            resolved[i + 1] = str(recipe_path(arguments[i + 1]))
        elif argument.startswith("--recipe="):
            resolved[i] = f"--recipe={recipe_path(argument.removeprefix('--recipe='))}"
    return resolved


def _worded(parser: ArgumentParser, arguments: list[str], message: str) -> str:
    known = [option for action in parser._actions for option in action.option_strings]
    for argument in arguments:
        option = argument.split("=", 1)[0]
        if option.startswith("--") and option not in known:
            return f"{option}: no such option{did_you_mean(option, known)}; --help lists them"
    if "does not accept option" in message:  # a key of a recipe file: Group 'views' does not accept option 'global_sizze'
        group, key = message.split("'")[1], message.split("'")[-2]
        keys = [option.removeprefix("--") for option in known if option.startswith(f"--{group}.")]
        return f"{group}.{key}: no such setting{did_you_mean(f'{group}.{key}', keys)}; {group} has {', '.join(k.split('.')[1] for k in keys)}"
    for ugly, plain in (("<class '", ""), ("'>", ""), ("typing.Literal", "one of "), ('Parser key "', ""), ('":', ":")):
        message = message.replace(ugly, plain)
    return message


def to_config(options: Any) -> PretrainConfig:
    """The typed config in parsed options."""
    sections = {name: section(**options[name].as_dict()) for name, section in _sections().items()}
    return PretrainConfig(data=options.data, val=options.val, strict=bool(options.strict), **sections)


def load_recipe(name: str, **overrides: Any) -> PretrainConfig:
    """A recipe by name or path as a config; `overrides` are dotted settings with `__` for the dot (`train__steps=10`).

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
