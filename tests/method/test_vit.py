"""The ViT with object tokens against timm's own forward pass."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch._dynamo
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import (
    Block,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)

from odis.backbones.adapters import adopt
from odis.backbones.build import recomputed
from odis.method.attention import visible_at, visible_keys
from odis.method.layout import TokenLayout
from odis.train.start import compile_blocks

SMALL = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
    "num_classes": 5,
    "dynamic_img_size": True,
}
KINDS = {
    "plain": {},
    "registers": {"reg_tokens": 4, "init_values": 0.5},
    "qk norm": {"qk_norm": True, "init_values": 1e-5},
    "deit3": {"no_embed_class": True, "init_values": 1e-6},
    "clip": {"pre_norm": True},
    "scaled norms": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "residual post-norm": {"block_fn": ResPostBlock, "init_values": 0.5},
    "parallel scaling": {"block_fn": ParallelScalingBlock, "reg_tokens": 1},
    "parallel things": {"block_fn": ParallelThingsBlock},
    "differential": {"attn_layer": "diff", "block_fn": Block},
    "no class token": {"class_token": False, "global_pool": "avg", "reg_tokens": 2, "fc_norm": False},
}


@pytest.fixture(scope="module", autouse=True)
def double() -> Iterator[None]:
    """Networks and images in float64, in which two ways to one sum agree closely on any CPU."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def a_timm_vit(name: str, **more) -> VisionTransformer:
    torch.manual_seed(0)
    vit = VisionTransformer(**SMALL, **KINDS[name], **more)
    for (
        parameter
    ) in vit.parameters():  # timm's tokens and layer scales start near 0, which would hide differences
        parameter.data += 0.2 * torch.randn_like(parameter)
    return vit.eval()


def tokens_of_timm(vit: VisionTransformer, images: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
    x = vit.forward_features(images)
    return x[:, 0] if vit.has_class_token else None, x[:, vit.num_prefix_tokens :]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def random_masks(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(7)) < 0.4


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("kind", "size"), [("read-only", (32, 32)), ("beside", (16, 16)), ("beside", (48, 24))]
)
def test_without_objects_it_is_timm_at_any_size(name, kind, size):
    vit = a_timm_vit(name)
    images = torch.randn(2, 3, *size)
    image, patches = tokens_of_timm(vit, images)
    out = adopt(vit, kind).eval()(images)
    assert out.objects is None
    assert out.grid == (size[0] // 8, size[1] // 8)
    assert torch.equal(out.patches, patches)
    assert image is None or torch.equal(out.image, image)


@pytest.mark.parametrize("sees", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_read_only_tokens_leave_class_and_patch_tokens_as_they_are(name, sees):
    vit = a_timm_vit(name)
    images = torch.randn(2, 3, 24, 32)
    image, patches = tokens_of_timm(vit, images)
    out = adopt(vit, "read-only", sees).eval()(images, random_masks(2, 3, 12))
    close(out.patches, patches)
    assert image is None or close(out.image, image) is None


@pytest.mark.parametrize("sees", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_read_only_tokens_in_one_pass_equal_one_pass_each(name, sees):
    model = adopt(a_timm_vit(name), "read-only", sees).eval()
    images, masks = torch.randn(2, 3, 32, 32), random_masks(2, 4, 16)
    masks[0, 0], masks[1, 2] = False, True
    together = model(images, masks).objects
    for q in range(4):
        close(model(images, masks[:, q : q + 1]).objects[:, 0], together[:, q])


@pytest.mark.parametrize("name", [k for k in KINDS if k != "no class token"])
@pytest.mark.parametrize("kind", ["single", "read-only"])
def test_an_all_true_mask_reads_the_class_token(name, kind):
    vit = a_timm_vit(name)
    images = torch.randn(2, 3, 32, 32)
    image, patches = tokens_of_timm(vit, images)
    out = adopt(vit, kind).eval()(images, torch.ones(2, 1, 16, dtype=torch.bool))
    close(out.objects[:, 0], image)
    close(out.patches, patches)
    assert (out.image is None) == (kind == "single")


@pytest.mark.parametrize("name", [k for k in KINDS if k != "no class token"])
@pytest.mark.parametrize("kind", ["single", "read-only"])
def test_a_mask_changes_the_object_and_equals_timm_with_the_dense_mask(name, kind):
    vit = a_timm_vit(name)
    model = adopt(vit, kind).eval()
    images, masks = torch.randn(2, 3, 32, 32), random_masks(2, 1, 16)
    out = model(images, masks)
    x = vit._pos_embed(vit.patch_embed(images))
    if kind == "read-only":
        x = torch.cat([x, model.object_token.expand(2, 1, -1)], dim=1)
    x = vit.norm_pre(x)
    keys = visible_keys(masks, TokenLayout(kind, True, model.num_prefix_tokens, 16, masks.shape[1]))
    mask = visible_at(keys, kind, keys.shape[2] - 1)[:, None]
    for block in vit.blocks:
        x = block(x, attn_mask=mask)
    expected = vit.norm(x)
    close(out.objects[:, 0], expected[:, 0 if kind == "single" else -1])
    assert not torch.allclose(out.objects[:, 0], tokens_of_timm(vit, images)[0], atol=1e-3)


def test_an_empty_mask_reads_no_pixel_in_a_read_only_token():
    model = adopt(a_timm_vit("plain"), "read-only").eval()
    nothing = torch.zeros(2, 1, 16, dtype=torch.bool)
    close(
        model(torch.randn(2, 3, 32, 32), nothing).objects, model(torch.zeros(2, 3, 32, 32), nothing).objects
    )


def test_which_blocks_attend_with_split_queries():
    native = {name for name in KINDS if adopt(a_timm_vit(name), "read-only").split_queries}
    assert native == set(KINDS) - {"parallel scaling", "parallel things", "differential"}


@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
@pytest.mark.parametrize("name", ["registers", "parallel things"])
def test_checkpointed_blocks_give_the_same_gradients(kind, name):
    images, masks = torch.randn(2, 3, 32, 32), random_masks(2, 1, 16)
    gradients = []
    for checkpointing in (False, True):
        model = adopt(a_timm_vit(name, drop_path_rate=0.5), kind).train()
        if checkpointing:
            model.call = recomputed
        torch.manual_seed(3)  # drop path
        out = model(images, masks, random_masks(2, 16))
        (out.objects.square().sum() + out.patches.square().sum()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients):
        close(a, b)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=32, max_size=32), st.sampled_from(["single", "read-only", "beside"]))
def test_no_mask_gives_nan(bits, kind):
    model = adopt(a_timm_vit("registers"), kind)
    out = model(torch.randn(2, 3, 32, 32), torch.tensor(bits).view(2, 1, 16))
    out.objects.sum().backward()
    assert out.objects.isfinite().all()
    assert all(p.grad.isfinite().all() for n, p in model.named_parameters() if n != "mask_token")


def test_hidden_patches_show_the_mask_token_and_nothing_of_the_image():
    model = adopt(a_timm_vit("plain"), "single").eval()
    images, hidden = torch.randn(2, 3, 32, 32), random_masks(2, 16)
    pixels = hidden.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    out = model(images, prediction_masks=hidden)
    close(out.patches, model(images.masked_fill(pixels, 9.0), prediction_masks=hidden).patches)
    embedded = model.patch_embed(images).flatten(1, 2)
    embedded[hidden] = model.mask_token[0, 0]
    expected = model.norm(model.blocks(model.architecture.add_prefix(model, embedded.view(2, 4, 4, -1))))
    close(out.patches, expected[:, 1:])


def test_masks_of_another_shape_are_refused():
    model, images = adopt(a_timm_vit("plain"), "single"), torch.randn(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"object_masks.*\(2, 1, 16\)"):
        model(images, torch.ones(2, 1, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"prediction_masks.*\(2, 16\)"):
        model(images, prediction_masks=torch.ones(2, 1, 16, dtype=torch.bool))
    for one in (model, adopt(a_timm_vit("plain"), "beside")):
        with pytest.raises(ValueError, match=f"{one.object_tokens} object tokens: one object a view; got 2"):
            one(images, torch.ones(2, 2, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\[CLS\] is the object's, and there is none"):
        adopt(a_timm_vit("no class token"), "single")(images, torch.ones(2, 1, 16, dtype=torch.bool))


@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
@pytest.mark.parametrize("name", ["registers", "parallel things"])
def test_autocast_gives_nearly_the_same(kind, name):
    model = adopt(a_timm_vit(name), kind).float()
    images, masks, hidden = torch.randn(2, 3, 32, 32).float(), random_masks(2, 1, 16), random_masks(2, 16)
    expected = model(images, masks, hidden)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images, masks, hidden)
    for a, b in ((out.objects, expected.objects), (out.patches, expected.patches)):
        assert torch.nn.functional.cosine_similarity(a.float(), b, dim=-1).min() > 0.99
    (out.objects.sum() + out.patches.sum()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
def test_compiled_blocks_equal_eager_ones_and_are_compiled_once_for_all(kind, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # needs no C++ compiler
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = adopt(a_timm_vit("registers", drop_path_rate=0.3), kind).train()
    images, masks = torch.randn(2, 3, 32, 32), random_masks(2, 1, 16)
    torch.manual_seed(0)
    eager = model(images, masks)
    compile_blocks(model)
    torch.manual_seed(0)
    compiled = model(images, masks)
    close(compiled.objects, eager.objects)
    close(compiled.patches, eager.patches)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_the_adopted_model_stays_what_it_was():
    vit = a_timm_vit("plain")
    keys, images = set(vit.state_dict()), torch.randn(1, 3, 32, 32)
    before = vit(images)
    model = adopt(vit, "read-only")
    assert torch.equal(vit(images), before)
    assert set(vit.state_dict()) == keys
    assert set(model.state_dict()) == {k for k in keys if not k.startswith("head.")} | {
        "mask_token",
        "object_token",
    }
