"""Recipe files: those that come with odis, and what a file must be to be one."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from odis.config.renamed import refuse_old
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
        ConfigError: It cannot be read, has a section that there is not, or a setting of an earlier version.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError(f"--recipe: {path} cannot be read as YAML: {' '.join(str(e).split())}") from e
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
        return
    if not isinstance(value, dict):
        raise ConfigError(
            f"{name}: is {value!r} {where}, must hold settings, for example `train: {{epochs: 100}}`"
        )
    for key, setting in value.items():
        refuse_old(f"{name}.{key}", setting, where=f" {where}")
