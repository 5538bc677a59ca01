"""No blank and no setting of another type is silently taken for something else."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from odis.config.checks import check
from odis.config.options import load_recipe
from odis.config.recipes import check_recipe, sections
from odis.config.training import PretrainConfig
from odis.errors import ConfigError

SETTINGS = [
    (name, one.name, get_type_hints(section)[one.name])
    for name, section in sections().items()
    for one in fields(section)
]


def test_a_blank_setting_is_named_wherever_null_is_no_value(tmp_path: Path) -> None:
    path, blank = tmp_path / "r.yaml", 0
    for section, name, hint in SETTINGS:
        path.write_text(f"{section}:\n  {name}:\n")
        if type(None) in get_args(hint):
            check_recipe(path)
            continue
        blank += 1
        with pytest.raises(ConfigError, match=rf"^{section}\.{name}: is blank \(in .*r\.yaml\)"):
            check_recipe(path)
    assert blank > 80


@pytest.mark.parametrize("text", ["views:\n  ratio: [0.5, null]\n", "data:\n", "loader: {keep: [null]}\n"])
def test_blanks_elsewhere(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match="is blank"):
        load_recipe(tmp_path / "r.yaml")


def test_strict_is_true_or_false(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("strict: 3\n")
    with pytest.raises(ConfigError, match=r"strict: is 3 .*must be true or false"):
        load_recipe(tmp_path / "r.yaml")


def test_a_config_made_in_python_is_held_to_the_types() -> None:
    config = PretrainConfig(data="x")
    check(config)
    for section, name, hint in SETTINGS:
        wrong: list[Any] = [object()] if type(None) in get_args(hint) else [None, object()]
        for value in wrong:
            changed = replace(config, **{section: replace(getattr(config, section), **{name: value})})
            with pytest.raises(ConfigError, match=rf"^{section}\.{name}: is "):
                check(changed)
    for name in (one.name for one in fields(config) if not is_dataclass(getattr(config, one.name))):
        with pytest.raises(ConfigError, match=rf"^{name}: is "):
            check(replace(config, **{name: 3}))


def test_a_number_without_end_is_refused() -> None:
    config = PretrainConfig(data="x")
    for value in (2**31, 10**30, 10**5000):
        with pytest.raises(ConfigError, match=r"^train\.steps: is .*must be at most 2147483647") as refused:
            check(replace(config, train=replace(config.train, steps=value)))
        assert len(str(refused.value)) < 150
    check(replace(config, train=replace(config.train, seed=2**62)))
