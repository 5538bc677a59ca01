"""Settings follow what weights were trained with; the expected numbers are the publications'."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from odis.backbones.published import follow_weights, published_size, say_default_tag, start_weights
from odis.config.training import ModelConfig, PretrainConfig, ViewsConfig
from odis.errors import ConfigError, OdisWarning

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def config(name: str, weights: str | None = "timm", **views: tuple[float, float, float]) -> PretrainConfig:
    return PretrainConfig(data="x", model=ModelConfig(name, weights=weights), views=ViewsConfig(**views))


@pytest.mark.parametrize(
    ("name", "statistics", "licence"),
    [
        ("vit_small_patch16_224", HALF, "apache-2.0"),  # AugReg, timm's default tag
        ("vit_small_patch16_224.dino", IMAGENET, "apache-2.0"),
        ("vit_small_patch14_dinov2", IMAGENET, "apache-2.0"),
        ("vit_base_patch16_224.mae", IMAGENET, "cc-by-nc-4.0"),
        ("vit_base_patch16_clip_224.openai", CLIP, "apache-2.0"),
        ("vit_base_patch16_siglip_224", HALF, "apache-2.0"),
        ("deit3_small_patch16_224", IMAGENET, "apache-2.0"),
        ("eva02_tiny_patch14_224", CLIP, "mit"),
        ("vit_small_patch16_dinov3", IMAGENET, "dinov3-license"),
        ("vit_large_patch16_dinov3.sat493m", ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143)), "dinov3-license"),
    ],
)
def test_statistics_and_licence_are_those_of_the_weights(
    name: str, statistics: tuple[tuple[float, ...], tuple[float, ...]], licence: str
) -> None:
    views = follow_weights(config(name)).views
    assert views.statistics == (pytest.approx(statistics[0]), pytest.approx(statistics[1]))
    start = start_weights(config(name).model)
    assert start is not None
    assert start.certain
    assert (start.license, start.source) == (licence, "timm")


def test_without_weights_they_are_imagenets_or_those_given() -> None:
    assert follow_weights(config("vit_small_patch16_224", None)).views.statistics == IMAGENET
    own = follow_weights(config("vit_small_patch16_224", None, mean=(0.1, 0.2, 0.3))).views
    assert (own.mean, own.std) == ((0.1, 0.2, 0.3), IMAGENET[1])
    assert start_weights(ModelConfig("vit_small_patch16_224")) is None


@pytest.mark.parametrize("weights", ["timm", "dino.pth"])
def test_a_contradiction_is_one_line_that_says_what_to_give(weights: str) -> None:
    for name in ("mean", "std"):
        asked = config("vit_small_patch16_224.augreg_in21k", weights, **{name: IMAGENET[name == "std"]})
        with pytest.raises(ConfigError) as refusal:
            follow_weights(asked)
        given = "[0.485, 0.456, 0.406]" if name == "mean" else "[0.229, 0.224, 0.225]"
        assert str(refusal.value) == (
            f"views.{name}: is {given}, but the weights (vit_small_patch16_224.augreg_in21k) were trained "
            f"with [0.5, 0.5, 0.5]; leave views.mean and views.std out"
        )
    same = config("vit_small_patch16_224.augreg_in21k", weights, mean=HALF[0], std=HALF[1])
    assert follow_weights(same).views.statistics == HALF


def test_of_a_file_without_a_tag_the_default_tag_is_said_or_both_are_given() -> None:
    asked = config("vit_small_patch16_224", "file.pth")
    assert follow_weights(asked).views.statistics == HALF
    start = start_weights(asked.model)
    assert start is not None
    assert start.license == "unknown"
    with pytest.warns(OdisWarning, match=r"file\.pth: .*ft_in1k, timm's default tag.*\(as in vit_s"):
        say_default_tag(start)
    given = replace(asked, views=ViewsConfig(mean=IMAGENET[0], std=IMAGENET[1]))
    assert follow_weights(given).views.statistics == IMAGENET
    with pytest.raises(ConfigError, match=r"leave views\.mean and views\.std out; or give both"):
        follow_weights(replace(asked, views=ViewsConfig(mean=IMAGENET[0])))


def test_a_model_of_odis_brings_its_own(tmp_path: Path) -> None:
    card = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    before = {"start_weights": {"source": "timm", "tag": "vit_x.y", "license": "dinov3-license"}}
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"odis": json.dumps(card | before)})
    views = follow_weights(config("vit_small_patch16_224", str(path))).views
    assert views.statistics == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    start = start_weights(ModelConfig("vit_small_patch16_224", weights=str(path)))
    assert start is not None
    assert (start.license, start.tag) == ("dinov3-license", "vit_x.y")  # the licence travels on
    with pytest.raises(ConfigError, match=r"views\.mean: is \[0\.485"):
        follow_weights(config("vit_small_patch16_224", str(path), mean=IMAGENET[0]))


def test_weights_of_another_interpolation_are_refused() -> None:
    assert timm.get_pretrained_cfg("vit_base_patch16_224_miil.in21k").interpolation == "bilinear"
    with pytest.raises(ConfigError, match=r"images resized by bilinear interpolation, views are .* bicubic"):
        follow_weights(config("vit_base_patch16_224_miil.in21k"))


def test_names_that_timm_has_not_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.name: timm has no model vit_smal"):
        follow_weights(config("vit_smal_patch16_224"))


def test_the_size_is_timms() -> None:
    assert (published_size("vit_small_patch14_dinov2"), published_size("vit_small_patch16_dinov3")) == (
        518,
        256,
    )
