"""Recipe files: those that come with odis, and what a file must be to be one."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from odis.config.renamed import refuse_old
from odis.config.strict_yaml import read_yaml
from odis.config.training import PretrainConfig
from odis.config.wording import did_you_mean
from odis.errors import ConfigError

RECIPES = Path(__file__).parents[1] / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that come with odis."""
    return sorted(p.stem for p in RECIPES.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe, given by name or path.

    Raises:
        ConfigError: There is none; the message lists the names.
    """
    if (RECIPES / f"{name}.yaml").is_file():
        return RECIPES / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    raise ConfigError(
        f"--recipe: no file and no recipe {name!r}{did_you_mean(name, recipe_names())}; recipes: "
        f"{', '.join(recipe_names())}"
    )


def sections() -> dict[str, type]:
    """The sections of a config and their dataclasses."""
    hints = get_type_hints(PretrainConfig)
    return {f.name: hints[f.name] for f in fields(PretrainConfig) if is_dataclass(hints[f.name])}


def check_recipe(path: Path) -> None:
    """Refuse a file that is no recipe. Keys and values of its sections are the parser's to check.

    Raises:
        ConfigError: It cannot be read, has a section that there is not, a setting of an earlier version, or
            one that is blank and may not be.
    """
    try:
        recipe = read_yaml(path.read_bytes())
    except OSError as e:
        raise ConfigError(f"--recipe: {path} cannot be read ({e.strerror or e})") from e
    except ValueError as e:
        raise ConfigError(f"--recipe: {path} cannot be read as YAML: {e}") from e
    if not isinstance(recipe, dict):
        raise ConfigError(f"--recipe: {path} holds no settings; write for example `train: {{epochs: 100}}`")
    for name, value in recipe.items():
        _check_section(str(name), value, f"(in {path})")


def _check_section(name: str, value: Any, where: str) -> None:
    known = [f.name for f in fields(PretrainConfig)]
    if name not in known:
        raise ConfigError(
            f"{name}: no such section{did_you_mean(name, known)} {where}; a recipe has {', '.join(known)}"
        )
    if name not in sections():
        _refuse_blank(name, value, get_type_hints(PretrainConfig)[name], where)
        if name == "strict" and not isinstance(value, bool):
            raise ConfigError(f"strict: is {value!r} {where}, must be true or false")
        return
    if not isinstance(value, dict):
        raise ConfigError(
            f"{name}: is {value!r} {where}, must hold settings, for example `train: {{epochs: 100}}`"
        )
    hints = get_type_hints(sections()[name])
    for key, setting in value.items():
        if not isinstance(key, str):
            raise ConfigError(f"{name}.{key}: no such setting {where}; {name} has {', '.join(hints)}")
        refuse_old(f"{name}.{key}", setting, where=f" {where}")
        if key in hints:
            _refuse_blank(f"{name}.{key}", setting, hints[key], where)


def _refuse_blank(name: str, value: Any, hint: Any, where: str) -> None:
    """A blank value is YAML's null: nothing, where that is a value, and else a mistake."""
    items = value if isinstance(value, list) else [value]
    if None in items and type(None) not in get_args(hint):
        raise ConfigError(f"{name}: is blank {where}; give a value, or remove the line for the default")
