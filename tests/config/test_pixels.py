"""Formats of pixels: what may be set, and what is kept with a network."""

import json
from dataclasses import replace

import pytest

from odis.config.checks import check
from odis.config.options import load_recipe
from odis.config.pixels import RGB, PixelFormat
from odis.config.training import PretrainConfig, as_dict
from odis.errors import ConfigError

FIVE = {"mean": (0.5,) * 5, "std": (0.2,) * 5}


def config(**views: object) -> PretrainConfig:
    start = PretrainConfig(data="x.parquet")
    return replace(start, views=replace(start.views, **views))


@pytest.mark.parametrize("form", [RGB, PixelFormat(1), PixelFormat(2, ((0.0, 4095.0), (-1.5, 3.0)))])
def test_a_card_gives_the_format_back(form: PixelFormat) -> None:
    assert PixelFormat.of_card(json.loads(json.dumps({"other": 1} | form.card()))) == form


def test_a_card_of_rgb_says_nothing() -> None:
    """Networks of earlier versions had no other, and their fingerprints stay."""
    assert RGB.card() == {}
    assert PixelFormat.of_card({}) == RGB


@pytest.mark.parametrize(
    ("card", "why"),
    [
        ({"channels": 0}, "0 channels"),
        ({"channels": 21}, "21 channels"),
        ({"channels": True}, "True channels"),
        ({"value_ranges": 3}, "pairs of numbers"),
        ({"value_ranges": [[2, 1]]}, "two rising numbers"),
        ({"value_ranges": [[0, float("inf")]]}, "both finite"),
    ],
)
def test_a_card_with_something_else_is_refused(card: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        PixelFormat.of_card(card)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"channels": 0}, "views.channels: is 0, must be from 1 to 20"),
        ({"channels": 21}, "views.channels: is 21, must be from 1 to 20"),
        ({"channels": 5}, "views.mean: is not given, and views.channels is 5; .*index stats --pixels"),
        ({"channels": 5, **FIVE, "std": (0.2,) * 3}, "views.std: has 3 numbers, must have 5"),
        ({"std": (0.2, 0.2, 0.0)}, "views.std: .* must be above 0"),
        ({"value_ranges": ((5.0, 5.0),)}, r"views.value_ranges: has \[5, 5\], must be two rising numbers"),
        ({"value_ranges": ((0.0, 1.0),) * 2}, "has 2 pairs, must have one, or 3 for as many channels"),
    ],
)
def test_settings_that_cannot_be_are_refused(views: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(config(**views))


def test_settings_of_any_channels_pass_and_are_written_plainly() -> None:
    asked = config(channels=5, **FIVE, value_ranges=((0, 4095),))
    check(asked)
    assert as_dict(asked)["views"]["value_ranges"] == [[0, 4095]]
    given = {f"views__{name}": value for name, value in FIVE.items()}
    made = load_recipe(None, data="x", views__channels=5, views__value_ranges=[[0, 4095]] * 5, **given)
    assert made.views.pixels == PixelFormat(5, ((0.0, 4095.0),) * 5)


def test_discovery_in_training_is_of_colours() -> None:
    asked = config(channels=5, **FIVE)
    with pytest.raises(ConfigError, match=r"objects.rediscover_every: .*views.channels is 5"):
        check(replace(asked, objects=replace(asked.objects, rediscover_every=2.0)))
