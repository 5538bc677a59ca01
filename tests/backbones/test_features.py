"""Facets equal what the last attention computes: read off timm's own modules by other means."""

import copy
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odis.backbones.adapters import adopt
from odis.backbones.baseline import TimmBaseline
from odis.backbones.build import build_vit
from odis.backbones.features import (
    FACETS,
    has_attention,
    keeps_aspect,
    last_blocks,
    patch_features,
    project,
)
from odis.config.training import ModelConfig
from odis.errors import ConfigError
from odis.method.vit import ObjectViT

TINY = {"embed_dim": 24, "depth": 2, "num_heads": 3}


def object_vit(**changes: object) -> ObjectViT:
    torch.manual_seed(0)
    settings = {"name": "vit_tiny_patch16_224", "patch_size": 8, **TINY} | changes
    return build_vit(ModelConfig(**settings), 32)


def plain(name: str, size: int, **changes: object) -> TimmBaseline:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TimmBaseline(timm.create_model(name, num_classes=0, **changes), size).eval()


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """Plain attention from facets (B, T, D)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return ((q @ k.transpose(-2, -1) * scale).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(
    ("name", "qk_norm"),
    [
        ("vit_tiny_patch16_224", False),
        ("vit_tiny_patch16_224", True),
        ("eva02_tiny_patch14_224", False),
        ("eva02_tiny_patch14_224", True),
        ("beit_base_patch16_224", False),
    ],
)
def test_facets_make_what_the_attention_makes(name: str, qk_norm: bool):
    """Softmax of the queries and keys, times the values, is what timm projects: the facets are those the
    attention used.
    """
    model = timm.create_model(name, num_classes=0, patch_size=8, img_size=32, **TINY)
    attention = model.blocks[-1].attn.eval()
    if qk_norm:
        attention.q_norm, attention.k_norm = nn.LayerNorm(8), nn.LayerNorm(8)
    torch.manual_seed(0)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    if name.startswith("beit"):
        nn.init.zeros_(attention.relative_position_bias_table)
    x = torch.randn(2, 17, 24)
    with torch.no_grad():
        q, k, v = (project(attention, x, facet) for facet in ("query", "key", "value"))
        inner = attended(q, k, v, 3, attention.scale)
        out = attention.proj(getattr(attention, "norm", nn.Identity())(inner))
        assert torch.allclose(out, attention(x), atol=1e-5)


def test_beside_is_asked_with_its_object_token_among_the_keys():
    model = object_vit(object_tokens="beside").eval()
    found = {facet: patch_features(model, images(16, 48), facet) for facet in FACETS}
    whole = torch.ones(2, 1, 12, dtype=torch.bool)
    with torch.no_grad():
        x, keys, layout, _ = model.embed(images(16, 48), whole, None)
        x = model.apply_blocks(model.blocks[:1], x, keys, layout)
        qkv = model.blocks[1].attn.qkv(model.blocks[1].norm1(x))[:, 1:13]
        for place, facet in enumerate(("query", "key", "value")):
            assert found[facet][1] == (2, 6)
            assert torch.allclose(found[facet][0], qkv[..., 24 * place : 24 * (place + 1)], atol=1e-6), facet
        tokens = model(images(16, 48), whole)
        assert torch.equal(found["token"][0], tokens.patches)
        ((cls, patches),) = last_blocks(model, images(16, 48), 1)
        assert torch.allclose(cls, tokens.image, atol=1e-6)
        assert torch.allclose(patches, tokens.patches, atol=1e-6)


@pytest.mark.parametrize("shape", [(32, 32), (16, 48)], ids=str)
def test_object_vit_answers_with_the_facets_of_its_patches(shape: tuple[int, int]):
    model = object_vit().eval()
    rows, columns = shape[0] // 8, shape[1] // 8
    found = {facet: patch_features(model, images(*shape), facet) for facet in FACETS}
    assert all(grid == (rows, columns) for _, grid in found.values())
    with torch.no_grad():
        x = model.embed(images(*shape), None, None)[0]
        x = model.blocks[0](x)
        qkv = model.blocks[1].attn.qkv(model.blocks[1].norm1(x))[:, 1:]
        for place, facet in enumerate(("query", "key", "value")):
            assert torch.allclose(found[facet][0], qkv[..., 24 * place : 24 * (place + 1)], atol=1e-6), facet
        assert torch.equal(found["token"][0], model(images(*shape)).patches)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "cait_xxs24_224"])
def test_timm_models_answer_as_hooks_on_their_projections_do(name: str):
    changes = {"embed_dim": 24, "num_heads": 3, "depth": 2, "img_size": 32}
    model = plain(name, 32, **changes)
    attention = model.model.blocks[-1].attn
    seen: list[Tensor] = []
    handle = attention.qkv.register_forward_hook(lambda *a: seen.append(a[2]))
    inputs: list[Tensor] = []
    before = attention.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    tokens = model.model.forward_features(images(32, 32))
    handle.remove()
    before.remove()
    qkv = (
        seen[-1] if seen else F.linear(inputs[-1], attention.qkv.weight)
    )  # Eva evaluates its projection without calling it
    first = qkv.shape[1] - 4
    for place, facet in enumerate(("query", "key", "value")):
        features, grid = patch_features(model, images(32, 32), facet)
        assert grid == (2, 2)
        assert torch.allclose(features, qkv[:, first:, 24 * place : 24 * (place + 1)], atol=1e-6)
    assert torch.allclose(patch_features(model, images(32, 32), "token")[0], tokens[:, -4:], atol=1e-6)


def test_a_model_of_any_shape_answers_for_its_patches_in_their_places():
    """Without positions and other patches to look at, a patch's feature is a function of its pixels alone."""
    model = object_vit(depth=1)
    nn.init.zeros_(model.pos_embed)
    picture = images(16, 40)
    features, grid = patch_features(model, picture, "key")
    assert grid == (2, 5)
    for row, column in ((0, 0), (0, 4), (1, 2)):
        patch = picture[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert torch.allclose(
            patch_features(model, patch, "key")[0][:, 0], features[:, 5 * row + column], atol=1e-5
        )


def test_separate_projections_are_read_too():
    model = plain("eva02_tiny_patch14_224", 32, patch_size=8, img_size=32, qkv_fused=False, **TINY)
    attention = model.model.blocks[-1].attn
    assert attention.qkv is None
    seen: list[Tensor] = []
    attention.k_proj.register_forward_hook(lambda *a: seen.append(a[2]))
    features, grid = patch_features(model, images(32, 32), "key")
    assert grid == (4, 4)
    assert torch.equal(features, seen[0][:, 1:])


def test_a_model_without_such_attention_has_tokens_only():
    model = plain("resnet10t", 64)
    assert not has_attention(model)
    assert not keeps_aspect(model)
    features, grid = patch_features(model, images(64, 64), "token")
    assert features.shape == (2, 4, 512)
    assert grid == (2, 2)
    with pytest.raises(
        ConfigError, match=r"^discover\.facet: is key, but ResNet has no attention over patches .* use token$"
    ):
        patch_features(model, images(64, 64), "key")


def test_a_model_without_a_map_of_features_is_refused():
    class Vector(nn.Module):
        num_features, global_pool = 4, "avg"

        def forward_features(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3))

        def forward_head(self, x: Tensor, pre_logits: bool) -> Tensor:
            return x

    with pytest.raises(ConfigError, match=r"is token, but Vector has no map of features$"):
        patch_features(TimmBaseline(Vector(), 32), images(32, 32), "token")


def test_models_say_whether_they_take_any_shape():
    assert keeps_aspect(object_vit())
    assert keeps_aspect(plain("vit_small_patch16_dinov3", 32, img_size=32, **TINY))
    assert not keeps_aspect(plain("vit_tiny_patch16_224", 32, img_size=32, **TINY))
    oblong = patch_features(
        plain("vit_small_patch16_dinov3", 32, img_size=32, **TINY), images(16, 48), "token"
    )
    assert oblong[0].shape == (2, 3, 24)
    assert oblong[1] == (1, 3)


@pytest.mark.parametrize("facet", FACETS)
@pytest.mark.parametrize("training", [True, False])
def test_a_model_in_training_is_left_as_it_was(facet: str, training: bool):
    model = object_vit(drop_path=0.5).train(training)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    first, _ = patch_features(model, images(32, 32), facet)
    again, _ = patch_features(model, images(32, 32), facet)
    assert torch.equal(first, again), "drop path is off"
    assert not first.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training == training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_is_left_as_it_was_even_when_it_fails():
    model = object_vit().train()
    with pytest.raises(AssertionError):
        patch_features(model, images(31, 32), "key")
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_compiled_blocks_are_seen_through():
    """Compiled code calls no hook that came after it; so it must not run."""
    model = object_vit().eval()
    expected, _ = patch_features(model, images(32, 32), "key")
    model.attention_branch = torch.compile(model.attention_branch, backend="eager")
    model(images(32, 32))
    assert torch.equal(patch_features(model, images(32, 32), "key")[0], expected)


@pytest.mark.parametrize("blocks", [1, 3])
def test_the_last_blocks_are_timms_intermediates(blocks: int):
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, embed_dim=32, depth=4, num_heads=2, img_size=32
    ).eval()
    images = torch.randn(2, 3, 32, 32)
    expected = model.forward_intermediates(
        images,
        indices=blocks,
        norm=True,
        return_prefix_tokens=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    flexible = timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=0,
        embed_dim=32,
        depth=4,
        num_heads=2,
        img_size=32,
        dynamic_img_size=True,
    )
    flexible.load_state_dict(model.state_dict())
    for given in (adopt(flexible, "single"), TimmBaseline(model, 32)):
        found = last_blocks(given.eval(), images, blocks)
        assert len(found) == blocks
        for (cls, patches), (of_patches, of_prefix) in zip(found, expected, strict=True):
            torch.testing.assert_close(cls, of_prefix[:, 0])
            torch.testing.assert_close(patches, of_patches)
        with pytest.raises(ConfigError, match="has 4 blocks, not 5"):
            last_blocks(given, images, 5)


@pytest.mark.parametrize(
    "name", ["vit_small_patch16_dinov3", "eva02_base_patch16_clip_224", "beit_base_patch16_224"]
)
def test_facets_and_last_blocks_of_rotary_and_relative_backbones_are_those_of_timms_model(name: str):
    torch.manual_seed(0)
    dynamic = {} if name.startswith("beit") else {"dynamic_img_size": True}
    timm_model = timm.create_model(name, num_classes=0, img_size=48, **TINY, **dynamic)
    for parameter in timm_model.parameters():
        nn.init.normal_(parameter, std=0.3)
    baseline = TimmBaseline(timm_model, 48).eval()
    for kind in ("read-only", "beside", "single"):
        model = adopt(timm_model, kind).eval()
        for facet in ("key", "query", "value"):
            found, grid = patch_features(model, images(48, 48), facet)
            expected, _ = patch_features(baseline, images(48, 48), facet)
            assert grid == (3, 3)
            if kind != "beside":  # there patches see the object token
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    with torch.no_grad():
        x, patches = last_blocks(adopt(timm_model, "read-only").eval(), images(48, 48), 2)[-1]
        whole = timm_model.fc_norm(timm_model.forward_features(images(48, 48)))
    torch.testing.assert_close(
        torch.cat([x[:, None], patches], 1), whole[:, [0, *range(-9, 0)]], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "vit_tiny_patch16_224"])
def test_patches_of_a_model_that_pools_by_average_are_normalised_too(name: str):
    """timm has the final norm of such a model behind the pooling, and none for its tokens."""
    torch.manual_seed(0)
    patch = 14 if name.startswith("eva") else 16
    model = timm.create_model(
        name, global_pool="avg", img_size=3 * patch, embed_dim=48, depth=2, num_heads=2, num_classes=0
    ).eval()
    assert isinstance(model.norm, torch.nn.Identity)
    with torch.no_grad():
        model.cls_token.normal_(std=5)
        for block in model.blocks:
            block.mlp.fc2.bias.normal_(std=9)
    plain, images = TimmBaseline(model, 3 * patch).eval(), torch.randn(2, 3, 3 * patch, 3 * patch)
    with torch.no_grad():
        patches = plain(images).patches
        expected = torch.nn.functional.layer_norm(
            model.forward_features(images)[:, model.num_prefix_tokens :], (48,), eps=model.fc_norm.eps
        )
    torch.testing.assert_close(patches, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(patches.std(-1, correction=0), torch.ones(2, 9), rtol=0, atol=1e-3)
    cls, last = last_blocks(plain, images, 2)[-1]
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(cls.std(-1, correction=0), torch.ones(2), rtol=0, atol=1e-3)
