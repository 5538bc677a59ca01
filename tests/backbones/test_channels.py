"""Weights of three channels for images of another number: what a grey image gives."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from odis.backbones.build import build_vit
from odis.backbones.channels import PROJECTION, adapt_channels, refused_random_channels
from odis.backbones.published import follow_weights
from odis.backbones.saved import load_model, save_model
from odis.config.checks import check
from odis.config.pixels import PixelFormat
from odis.config.training import ModelConfig, PretrainConfig
from odis.errors import ConfigError

SIZES = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8}
CONFIG = ModelConfig(name="vit_tiny_patch16_224", object_tokens="read-only", **SIZES)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = timm.create_model(CONFIG.name, img_size=32, num_classes=0, **SIZES)
    save_file(model.state_dict(), path := tmp_path_factory.mktemp("weights") / "w.safetensors")
    return path


@pytest.mark.parametrize("channels", [1, 6])
def test_a_grey_image_gives_what_it_gave_in_three_channels(weights: Path, channels: int) -> None:
    asked = replace(CONFIG, weights=str(weights))
    rgb, other = (build_vit(asked, 32, 0.0, channels=c).eval() for c in (3, channels))
    grey, masks = torch.rand(2, 1, 32, 32), torch.ones(2, 1, 16, dtype=torch.bool)
    with torch.no_grad():
        expected = rgb(grey.expand(-1, 3, -1, -1), masks).patches
        found = other(grey.expand(-1, channels, -1, -1), masks).patches
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_weights_are_repeated_and_scaled(weights: Path) -> None:
    state = {PROJECTION: torch.arange(24.0).view(2, 3, 2, 2)}
    five = adapt_channels(state, 5)[PROJECTION]
    assert torch.allclose(five, state[PROJECTION][:, [0, 1, 2, 0, 1]] * (3 / 5))
    assert adapt_channels(state, 3) is state
    with pytest.raises(ValueError, match=r"takes images of 5 channels, but views.channels is 4"):
        adapt_channels({PROJECTION: five}, 4)


def test_a_network_of_five_channels_is_read_back_from_its_file(tmp_path: Path) -> None:
    model = build_vit(CONFIG, 32, 0.0, channels=5)
    card = {"model": vars(CONFIG) | {}, "image_size": 32, **PixelFormat(5).card()}
    save_model(tmp_path / "m.safetensors", model, card)
    again, _ = load_model(tmp_path / "m.safetensors")
    assert torch.equal(again.patch_embed.proj.weight, model.patch_embed.proj.weight)


def test_a_run_from_such_a_network_follows_its_statistics_and_ranges(tmp_path: Path) -> None:
    """Those of the weights hold, or are refused; they never differ in silence."""
    form = PixelFormat(5, ((0.0, 4095.0),))
    card = {"model": vars(CONFIG) | {}, "image_size": 32, "mean": [0.4] * 5, "std": [0.1] * 5, **form.card()}
    save_model(path := tmp_path / "m.safetensors", build_vit(CONFIG, 32, 0.0, channels=5), card)
    start = PretrainConfig(data="x", model=replace(CONFIG, weights=str(path)))
    five = replace(start, views=replace(start.views, channels=5))
    check(five)
    found = follow_weights(five).views
    assert (found.mean, found.std, found.pixels) == ((0.4,) * 5, (0.1,) * 5, form)
    other = replace(five, views=replace(five.views, value_ranges=((0.0, 255.0),)))
    with pytest.raises(ConfigError, match=r"views.value_ranges: .* were trained with \[\(0.0, 4095.0\)\]"):
        follow_weights(other)


def test_random_weights_in_place_of_pretrained_ones_are_an_error() -> None:
    with pytest.raises(ConfigError, match="Unable to convert pretrained conv1"), refused_random_channels():
        logging.getLogger("timm.models._builder").warning("Unable to convert pretrained conv1 weights")
    with refused_random_channels():
        pass


def test_statistics_of_three_channels_say_nothing_of_five(weights: Path) -> None:
    start = PretrainConfig(data="x", model=replace(CONFIG, weights=str(weights)))
    five = replace(start, views=replace(start.views, channels=5))
    with pytest.raises(ConfigError, match=r"views.mean: is not given, and views.channels is 5"):
        follow_weights(five)
    given = replace(five, views=replace(five.views, mean=(0.4,) * 5, std=(0.1,) * 5))
    assert follow_weights(given).views.mean == (0.4,) * 5
