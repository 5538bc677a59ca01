"""Backbones from configs: what is built, and what is refused."""

import pytest
import timm
import torch

from odis.backbones.build import build_vit, recomputed
from odis.config.training import ModelConfig
from odis.errors import ConfigError

TINY = {"name": "vit_tiny_patch16_224", "embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}


def test_build_vit_follows_the_config():
    model = build_vit(
        ModelConfig(**TINY, object_tokens="read-only", drop_path=0.2, grad_checkpointing=True), 48
    )
    reference = timm.create_model(
        TINY["name"], num_classes=0, img_size=48, **{k: v for k, v in TINY.items() if k != "name"}
    )
    assert set(model.state_dict()) == set(reference.state_dict()) | {"mask_token", "object_token"}
    assert model.patch_embed.grid_size == (6, 6)
    assert model.call is recomputed
    assert model.blocks[1].drop_path1.drop_prob == pytest.approx(0.2)
    assert isinstance(
        build_vit(ModelConfig(**TINY, drop_path=0.2), 48, drop_path=0.0).blocks[1].drop_path1,
        torch.nn.Identity,
    )


@pytest.mark.parametrize(
    ("settings", "size", "message"),
    [
        (
            {"name": "vit_smal_patch16_224"},
            224,
            r"model.name: .*vit_smal_patch16_224; did you mean vit_small_patch16_224",
        ),
        ({"name": "resnet18"}, 224, r"model.name: resnet18 is not a timm VisionTransformer"),
        ({"name": "deit_tiny_distilled_patch16_224"}, 224, r"model.name: .*VisionTransformerDistilled"),
        ({**TINY, "num_heads": 5}, 32, r"model.name: .*num_heads.*divisible"),
        ({"name": "vit_tiny_r_s16_p8_224", "depth": 1}, 64, r"model.name: .*HybridEmbed"),
        (
            {"name": "vit_base_patch16_gap_224", "weights": "timm", "depth": 1},
            32,
            r"model.weights: timm's weights .*No pretrained weights",
        ),
        (TINY, 36, r"model.patch_size: is 8 .* must divide the image size 36"),
        ({"name": "vit_medium_patch16_gap_240", "depth": 1}, 32, r"model.name: .*no class token.*read-only"),
        (
            {
                "name": "vit_medium_patch16_gap_240",
                "depth": 1,
                "object_tokens": "beside",
                "object_sees_cls": True,
            },
            32,
            r"model.object_sees_cls: is true, but vit_medium_patch16_gap_240 has no class token",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(settings, size, message):
    with pytest.raises(ConfigError, match=message):
        build_vit(ModelConfig(**settings), size)


@pytest.mark.parametrize(
    ("kind", "given", "sees"),
    [
        ("single", None, False),
        ("read-only", None, False),
        ("read-only", True, True),
        ("beside", None, True),
        ("beside", False, False),
    ],
)
def test_which_object_tokens_see_the_class_token(kind: str, given: bool | None, sees: bool):
    assert (
        build_vit(ModelConfig(**TINY, object_tokens=kind, object_sees_cls=given), 32).object_sees_cls == sees
    )


def test_a_model_without_class_token_reads_objects_read_only():
    config = ModelConfig(name="vit_medium_patch16_gap_240", depth=1, object_tokens="read-only")
    model = build_vit(config, 32)
    out = model(torch.randn(2, 3, 32, 32), torch.tensor([[[True, False, False, True]]]).expand(2, 2, 4))
    assert out.image is None
    assert out.objects.shape == (2, 2, 512)
    assert model.object_token.std().item() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_an_image_that_patches_do_not_tile_is_refused_and_never_padded(name: str):
    model = build_vit(ModelConfig(**TINY | {"name": name, "patch_size": 16}), 32)
    assert model.patch_embed.dynamic_img_pad is False  # timm would add patches of zeros that nothing masks
    with pytest.raises(AssertionError, match="should be divisible by patch size"):
        model(torch.zeros(1, 3, 32, 40))
