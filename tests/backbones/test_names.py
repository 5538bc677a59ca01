"""What is said of a model's name that cannot be used: one line with names that can."""

import pytest

from odis.backbones.names import name_fault


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_224",
        "vit_small_patch16_224.dino",
        "deit3_small_patch16_224",
        "hf-hub:timm/anything",
    ],
)
def test_names_that_can_be_trained(name: str) -> None:
    assert name_fault(name, vision_transformer=True) is None
    assert name_fault(name) is None


@pytest.mark.parametrize("name", ["resnet50", "swin_tiny_patch4_window7_224", "convnext_tiny"])
def test_other_architectures_are_baselines_and_train_nothing(name: str) -> None:
    assert name_fault(name) is None
    said = str(name_fault(name, vision_transformer=True))
    assert said.startswith(f"{name} is not a timm VisionTransformer but of its module ")
    assert "must be a plain VisionTransformer: vit_*, deit3_*" in said


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("vit_smal_patch16_224", "vit_small_patch16_224"),
        ("vit_small_patch16_244.dino", "vit_small_patch16_224"),
        ("resnet5", "resnet50"),
    ],
)
def test_a_mistyped_name_has_close_ones(name: str, close: str) -> None:
    said = str(name_fault(name))
    assert said.startswith(f"timm has no model {name}; did you mean ")
    assert close in said


def test_a_mistyped_tag_has_those_that_there_are() -> None:
    said = name_fault("vit_small_patch16_224.dinoo")
    assert said == "timm has no weights 'dinoo' of vit_small_patch16_224; it has dino"
    assert "it has augreg" in str(name_fault("vit_small_patch16_224.augreg_in22k"))


def test_a_name_like_none_says_where_they_are_listed() -> None:
    assert name_fault("xyzzy") == "timm has no model xyzzy; timm.list_models('vit_*') lists them"
