"""A finder: images of any size in, objects of each out; the model is left alone."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from odis.backbones.baseline import TimmBaseline
from odis.backbones.build import build_vit
from odis.backbones.features import patch_features
from odis.commands.objects.discover import build_discoverer
from odis.config.discovery import DiscoverConfig
from odis.config.training import ModelConfig
from odis.data.views import normalize_pixels
from odis.errors import ConfigError
from odis.evaluation.protocols.localization.discovery import OurDiscovery
from odis.finding.discover.discoverer import Discoverer
from odis.finding.discover.objects import discover
from odis.finding.discover.refine import luminance
from odis.inference import Encoder
from odis.method.vit import ObjectViT
from odis.objects.clean import object_problem

MEAN, STD = (0.4, 0.4, 0.4), (0.25, 0.25, 0.25)
LOOSE = DiscoverConfig(tau=0.6, min_score=0, min_area=0, max_area=1)


@pytest.fixture(scope="module")
def model() -> ObjectViT:
    torch.manual_seed(0)
    return build_vit(
        ModelConfig(name="vit_tiny_patch16_224", patch_size=8, embed_dim=24, depth=2, num_heads=3), 64
    )


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    """A bright rectangle on a dark ground with grain, for each (height, width)."""
    rng = np.random.default_rng(0)
    images = []
    for height, width in sizes:
        image = rng.integers(20, 60, (height, width, 3))
        image[height // 4 : height // 2, width // 3 : 2 * width // 3] += np.array([180, 140, 20])
        images.append(image.astype(np.uint8))
    return images


def test_a_finder_says_what_it_is(model: ObjectViT):
    finder = Discoverer(model, MEAN, STD, replace(LOOSE, method="seeds"), name="teacher")
    assert finder.provenance == "discovered:seeds@teacher"
    assert finder.classes == []
    assert finder.facet == "key"
    assert finder.size == 64
    assert Discoverer(model, MEAN, STD, replace(LOOSE, size=128), name="x").size == 128
    assert Discoverer(model, MEAN, STD, LOOSE, name="x", image_size=96).size == 96


@pytest.mark.parametrize("method", ["spectral", "seeds"])
def test_objects_are_those_of_the_features_of_each_image_alone(model: ObjectViT, method: str):
    """Slowly: every image resized, embedded and searched by itself."""
    sizes = [(64, 64), (40, 120), (64, 64), (200, 50), (70, 64), (1, 1), (64, 64), (3, 500)]
    images = pictures(*sizes)
    settings = replace(LOOSE, method=method, batch_size=2, facet="value", center=True)
    found = Discoverer(model, MEAN, STD, settings, name="x")(images)
    assert len(found) == len(images)
    for image, objects in zip(images, found):
        height, width = image.shape[:2]
        scale = 8 / (height * width) ** 0.5
        grid = tuple(min(max(round(length * scale), 1), 64) for length in (height, width))
        pixels = tv.resize(
            torch.from_numpy(image).permute(2, 0, 1),
            [8 * n for n in grid],
            tv.InterpolationMode.BICUBIC,
            antialias=True,
        )
        features, seen = patch_features(model, normalize_pixels(pixels[None], MEAN, STD), "value")
        assert seen == grid
        expected = discover(features, grid, [(width, height)], settings, [luminance(image)])[0]
        assert [(o.box, o.mask) for o in objects] == [(o.box, o.mask) for o in expected]
        assert [o.score for o in objects] == pytest.approx([o.score for o in expected], abs=1e-5)
        assert all(object_problem(o, width, height) is None for o in objects)


def test_a_bright_rectangle_is_an_object_even_for_an_untrained_network(model: ObjectViT):
    [image] = pictures((96, 96))
    [[item, *_]] = Discoverer(model, MEAN, STD, replace(LOOSE, size=96, center=True, tau=0.2), name="x")(
        [image]
    )
    x0, y0, x1, y1 = item.box
    both = max(0, min(x1, 64) - max(x0, 32)) * max(0, min(y1, 48) - max(y0, 24))
    assert both / ((x1 - x0) * (y1 - y0) + 32 * 24 - both) > 0.6


def test_masks_are_drawn_to_edges_if_they_shall_be(model: ObjectViT):
    images = pictures((70, 90))
    patchy, drawn = (
        Discoverer(model, MEAN, STD, replace(LOOSE, edge_radius=r), name="x")(images)[0] for r in (0, 1)
    )
    assert [o.score for o in patchy] == [o.score for o in drawn]
    assert patchy != drawn


def test_a_network_may_be_shown_grey_images(model: ObjectViT):
    images = pictures((64, 64), (50, 80))
    grey = [
        tv.rgb_to_grayscale(torch.from_numpy(i).permute(2, 0, 1), 3).permute(1, 2, 0).numpy() for i in images
    ]
    in_colour, in_grey = (
        Discoverer(model, MEAN, STD, replace(LOOSE, edge_radius=0, grayscale=g), name="x")
        for g in (False, True)
    )
    assert in_grey(images) == in_colour(grey)
    assert in_grey(images) != in_colour(images)


@pytest.mark.parametrize("how", ["bicubic", "bilinear"])
def test_images_are_resized_as_in_the_networks_training(
    model: ObjectViT, how: str, monkeypatch: pytest.MonkeyPatch
):
    [image] = pictures((50, 70))
    seen: list[torch.Tensor] = []
    finder = Discoverer(model, MEAN, STD, LOOSE, name="x", interpolation=how)
    monkeypatch.setattr(
        "odis.finding.discover.discoverer.patch_features",
        lambda model, pixels, facet: seen.append(pixels) or patch_features(model, pixels, facet),
    )
    finder([image])
    pixels = Image.fromarray(image).resize((72, 56), getattr(Image.Resampling, how.upper()))
    shown = (seen[0][0] * STD[0] + MEAN[0]) * 255  # (3, 56, 72)
    expected = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float()
    # Pillow's antialiased resize and torch's round to whole levels, each in its own way.
    assert (shown - expected).abs().max() < 2
    with pytest.raises(ValueError, match="is not a valid InterpolationMode"):
        Discoverer(model, MEAN, STD, LOOSE, name="x", interpolation="cubic")


def test_the_command_and_the_protocol_follow_the_weights(model: ObjectViT, monkeypatch: pytest.MonkeyPatch):
    encoder = Encoder(model, 64, MEAN, STD, interpolation="bilinear", source="timm:some")
    monkeypatch.setattr("odis.inference.load", lambda source, **how: encoder)
    finders = [build_discoverer("timm:some", LOOSE, "cpu", 0), OurDiscovery(encoder, [LOOSE], "some").finder]
    assert [finder.interpolation.value for finder in finders] == ["bilinear", "bilinear"]
    assert [(finder.mean, finder.size) for finder in finders] == [(MEAN, 64), (MEAN, 64)]


def test_no_image_gives_no_list(model: ObjectViT):
    assert Discoverer(model, MEAN, STD, LOOSE, name="x")([]) == []


def test_the_same_images_give_the_same_objects_in_any_company(model: ObjectViT):
    images = pictures((64, 64), (40, 120), (64, 64), (64, 64))
    finder = Discoverer(model, MEAN, STD, LOOSE, name="x")
    first = finder(images)
    assert finder(images) == first
    for found, expected in zip(finder(images[::-1]), first[::-1], strict=True):
        # At another place in its batch an image meets another part of a kernel, which may round otherwise.
        assert [(o.box, o.mask, o.label) for o in found] == [(o.box, o.mask, o.label) for o in expected]
        assert [o.score for o in found] == pytest.approx([o.score for o in expected], abs=1e-5)
    assert pickle.loads(pickle.dumps(finder))(images) == first


def test_a_model_in_training_is_left_as_it_was():
    torch.manual_seed(1)
    config = ModelConfig(name="vit_tiny_patch16_224", patch_size=8, embed_dim=24, depth=2, num_heads=3)
    model = build_vit(config, 64, drop_path=0.5).train()
    before, state, numpy_state = (
        copy.deepcopy(model.state_dict()),
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),  # noqa: NPY002
    )
    finder = Discoverer(model, MEAN, STD, LOOSE, name="teacher")
    with torch.autocast("cpu", dtype=torch.bfloat16):  # a step's precision is not discovery's
        found = finder(pictures((64, 64), (64, 80)))
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert finder(pictures((64, 64), (64, 80))) == found


def plain(name: str, size: int, **changes: object) -> TimmBaseline:
    torch.manual_seed(0)
    return TimmBaseline(timm.create_model(name, num_classes=0, **changes), size).eval()


def test_models_that_take_squares_alone_see_squares():
    model = plain("vit_tiny_patch16_224", 32, img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3)
    finder = Discoverer(model, MEAN, STD, LOOSE, name="x")
    images = pictures((40, 100), (30, 30))
    shapes: list[tuple[int, ...]] = []
    model.model.patch_embed.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    found = finder(images)
    assert shapes == [(2, 3, 32, 32)], "one batch of squares"
    assert all(object_problem(o, 100, 40) is None for o in found[0])
    with pytest.raises(
        ConfigError, match=r"^discover\.size: size 48: VisionTransformer takes no images of this size"
    ):
        Discoverer(model, MEAN, STD, replace(LOOSE, size=48), name="x")


def test_a_network_without_attention_is_asked_for_its_map():
    model = plain("resnet10t", 96)
    finder = Discoverer(model, MEAN, STD, replace(LOOSE, size=96), name="resnet")
    assert finder.facet == "token"
    assert len(finder(pictures((80, 120)))) == 1
    with pytest.raises(
        ConfigError, match=r"^discover\.facet: is key, but ResNet has no attention over patches"
    ):
        Discoverer(model, MEAN, STD, replace(LOOSE, size=96, facet="key"), name="resnet")
    with pytest.raises(ConfigError, match=r"^discover\.size: is null"):
        Discoverer(model, MEAN, STD, LOOSE, name="resnet")


def test_what_cannot_be_is_refused_before_an_image_is_read(model: ObjectViT):
    with pytest.raises(ConfigError, match=r"^discover\.size: is 60, must be a multiple of the patch size 8$"):
        Discoverer(model, MEAN, STD, replace(LOOSE, size=60), name="x")
    with pytest.raises(ConfigError, match=r"^discover\.tau: is 2, must be from -1 to below 1$"):
        Discoverer(model, MEAN, STD, replace(LOOSE, tau=2), name="x")
