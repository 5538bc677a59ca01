"""Dataclasses as options: each field once, values back as they were, help from the docstring."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from odis.config.arguments import add_arguments, read_arguments, with_values
from odis.config.options import new_parser, parse
from odis.config.query import QueryConfig, ReadConfig
from odis.errors import ConfigError, OdisError


@dataclass(frozen=True)
class Inner:
    """Inner settings.

    Args:
        step_size: How far `one` step goes.
    """

    step_size: float = 0.5
    hidden: int = 3


@dataclass(frozen=True)
class Base:
    """Base settings.

    Args:
        seed: Of the draw.
    """

    seed: int = 0


@dataclass(frozen=True)
class Settings(Base):
    """All kinds of fields.

    Args:
        data: Where the data is.
        folds: Parts of the data;
            again for the next.
        ks: Numbers of neighbours.
        rates: Rates to try.
        names: Some names.
        flag: A flag.
        maybe: Yes, no or unknown.
        limit: At most so many.
        inner: Inner settings.
    """

    data: str = ""
    folds: Sequence[str] = field(default=(), metadata={"option": "fold", "repeat": True})
    ks: Sequence[int] = (10, 20)
    rates: Sequence[float] = (1e-5, 0.1)
    names: Sequence[str] = ("a",)
    flag: bool = False
    maybe: bool | None = None
    limit: int | None = 4
    inner: Inner = field(default=Inner(), metadata={"only": ("step_size",)})


def read(*arguments: str, settings: object = Settings()) -> object:
    parser = new_parser("test", "")
    add_arguments(parser, settings)
    return read_arguments(settings, parse(parser, list(arguments)))


def test_without_options_everything_stays():
    assert read() == Settings()
    changed = Settings(7, "x", (), (1,), (0.25,), ("b", "c"), False, True, None, Inner(2.0, 9))
    assert read(settings=changed) == changed


def test_every_option_arrives_in_its_field_and_type():
    found = read(
        "--data=folder", "--fold=one", "--fold=two", "--ks=1,2", "--rates=1,1e-3", "--names=x, y", "--flag",
        "--maybe=false", "--limit=null", "--step-size=3", "--seed=5",
    )  # fmt: skip
    assert found == Settings(
        5, "folder", ("one", "two"), (1, 2), (1.0, 0.001), ("x", "y"), True, False, None, Inner(3.0, 3)
    )


def test_help_is_the_docstring_of_the_class_and_its_bases_and_leaves_out_what_is_not_asked_for():
    parser = new_parser("test", "")
    add_arguments(parser, Settings())
    text = " ".join(parser.format_help().split())
    for words in ("of the draw", "parts of the data; again for the next", "how far one step goes"):
        assert words in text
    assert "--hidden" not in text
    assert "--inner" not in text


def test_values_from_python_arrive_by_the_names_of_the_options():
    values = {"data": Path("a"), "fold": ["one"], "ks": 3, "names": "x", "step_size": 2.0, "other": 1}
    found, names = with_values(Settings(), values)
    assert found == Settings(data="a", folds=("one",), ks=(3,), names=("x",), inner=Inner(2.0, 3))
    assert names == [
        "seed", "data", "fold", "ks", "rates", "names", "flag", "maybe", "limit", "step_size",
    ]  # fmt: skip


def test_only_some_fields():
    parser = new_parser("test", "")
    add_arguments(parser, QueryConfig(), ["size"])
    add_arguments(parser, ReadConfig(workers=2), ["workers"])
    options = parse(parser, ["--size=64"])
    assert read_arguments(QueryConfig(), options) == QueryConfig(size=64)
    options.images = 4  # an option of the command itself
    assert read_arguments(QueryConfig(), options, ["size"]) == QueryConfig(size=64)
    assert read_arguments(ReadConfig(), options) == ReadConfig(workers=2)
    with pytest.raises(ConfigError, match="--batch-size: no such option"):
        parse(parser, ["--batch-size=3"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--ks=1,x", "ks '1,x' must be whole numbers, such as 10,20"),
        ("--ks=1.5", "ks '1.5' must be whole numbers"),
        ("--rates=a", "rates 'a' must be numbers, such as 0.01,0.1"),
    ],
)
def test_a_list_of_something_else_is_refused(argument: str, message: str):
    with pytest.raises(OdisError, match=message):
        read(argument)
