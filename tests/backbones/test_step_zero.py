"""At step 0 a network with read-only tokens is timm's, and its objects are those of an explicit mask.

The oracle of objects is timm's own blocks on the tokens with a T x T mask, built here by hand.
"""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from odis.backbones.adapters import adopt
from odis.method.vit import ObjectViT

NETWORKS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", 14, {}),
    "DINOv3": ("vit_small_patch16_dinov3", 16, {}),
    "DINOv3 with biases": ("vit_small_patch16_dinov3_qkvb", 16, {}),
    "SigLIP": ("vit_base_patch16_siglip_224", 16, {}),
    "EVA-02": ("eva02_tiny_patch14_224", 14, {}),
    "EVA-02 CLIP": ("eva02_base_patch16_clip_224", 16, {}),
    "EVA": ("eva_large_patch14_196", 14, {}),
    "EVA CLIP, post-norm": ("eva02_enormous_patch14_clip_224", 14, {"mlp_ratio": 2.0}),
    "mixed rotary": ("vit_small_patch16_rope_mixed_224", 16, {}),
    "DeiT-3": ("deit3_small_patch16_224", 16, {}),
    "CLIP": ("vit_base_patch16_clip_224", 16, {}),
    "MAE": ("vit_base_patch16_224.mae", 16, {}),
    "AugReg": ("vit_tiny_patch16_224.augreg_in21k", 16, {}),
    "BEiT": ("beit_base_patch16_224", 16, {}),
    "BEiT v2": ("beitv2_base_patch16_224", 16, {}),
    "ViT-L/14": ("vit_large_patch14_224", 14, {}),
}
SIDE = 3  # patches
READS = [  # the two that pool patches have no `[CLS]` that was trained as a readout, but have one
    name for name in NETWORKS if name != "SigLIP"
]


def built(name: str, side: int = SIDE, **more: Any) -> Any:
    """timm's model, small, with random weights everywhere, in double precision."""
    model, patch, changes = NETWORKS[name]
    torch.manual_seed(1)
    if not model.startswith("beit"):
        changes = changes | {"dynamic_img_size": True}
    size = patch * side
    made = timm.create_model(
        model, img_size=size, num_classes=0, embed_dim=48, depth=2, num_heads=2, **changes, **more
    ).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made.eval()


def images(name: str, rows: int = SIDE, columns: int = SIDE) -> Tensor:
    patch = NETWORKS[name][1]
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 3, rows * patch, columns * patch, generator=generator, dtype=torch.float64)


def final(vit: Any, x: Tensor) -> Tensor:
    """timm has its final norm before or after pooling; the other is an identity."""
    normed: Tensor = vit.fc_norm(x)
    return normed


@pytest.mark.parametrize("name", NETWORKS)
def test_every_output_is_timms(name: str) -> None:
    vit = built(name)
    model = adopt(vit, "read-only").eval()
    first = vit.num_prefix_tokens
    with torch.no_grad():
        expected = final(vit, vit.forward_features(images(name)))
        plain = model(images(name))
        masks = torch.zeros(2, 3, SIDE * SIDE, dtype=torch.bool)
        masks[:, 0], masks[0, 1, 2], masks[1, 1, 4:7] = True, True, True
        asked = model(images(name), masks)
    for tokens in (plain, asked):
        torch.testing.assert_close(tokens.patches, expected[:, first:], rtol=0, atol=1e-6)
        if vit.cls_token is not None:
            torch.testing.assert_close(tokens.image, expected[:, 0], rtol=0, atol=1e-6)
    if vit.cls_token is not None:  # an object token of the whole image is `[CLS]`
        torch.testing.assert_close(asked.objects[:, 0], expected[:, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["DINOv3", "EVA-02", "mixed rotary", "BEiT", "DINOv2 with registers"])
def test_so_it_is_at_other_sizes_and_shapes(name: str) -> None:
    vit = built(name)
    model = adopt(vit, "read-only").eval()
    other = built(name)
    if name == "BEiT":  # timm's takes one size at a time
        other.set_input_size((2 * 16, 5 * 16))
    with torch.no_grad():
        expected = final(other, other.forward_features(images(name, 2, 5)))
        found = model(images(name, 2, 5), torch.ones(2, 1, 10, dtype=torch.bool))
    torch.testing.assert_close(found.patches, expected[:, vit.num_prefix_tokens :], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.objects[:, 0], expected[:, 0], rtol=0, atol=1e-6)
    assert found.grid == (2, 5)


def alone(vit: Any, name: str, mask: Tensor) -> Tensor:
    """`[CLS]` of timm's model when it sees itself and these patches of the first image alone: the patches run
    once as they are, and beside them `[CLS]` on its own.
    """
    x = images(name)[:1]
    first = vit.num_prefix_tokens
    seen: list[Tensor] = []
    handles = [block.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for block in vit.blocks]
    vit.forward_features(x)
    for handle in handles:
        handle.remove()
    token = seen[0][:, :1]
    kept = torch.cat([torch.tensor([0]), first + mask.nonzero()[:, 0]])
    for block, tokens in zip(vit.blocks, seen):
        token = _one_token(vit, block, torch.cat([token, tokens[:, 1:]], dim=1), kept)
    return final(vit, vit.norm(token))[0, 0]


def _one_token(vit: Any, block: Any, tokens: Tensor, kept: Tensor) -> Tensor:
    """The first token after a block that attends from it to the kept ones, by softmax."""
    every = torch.arange(tokens.shape[1])
    hidden = torch.tensor([i for i in every.tolist() if i not in kept.tolist()], dtype=torch.long)
    mask = torch.zeros(1, 1, len(every), len(every), dtype=tokens.dtype)
    mask[..., 0, hidden] = float("-inf")
    if hasattr(block.attn, "relative_position_bias_table"):
        return block(tokens, shared_rel_pos_bias=mask)[:, :1]
    rope = getattr(vit, "rope", None)
    if rope is None:
        return block(tokens, attn_mask=mask)[:, :1]
    embed = rope.get_embed(shape=[SIDE, SIDE])
    if embed.ndim == 4:
        embed = embed[next(i for i, one in enumerate(vit.blocks) if one is block)]
    return block(tokens, rope=embed, attn_mask=mask)[:, :1]


@pytest.mark.parametrize("name", READS)
def test_an_object_token_is_timms_class_token_that_sees_its_patches_alone(name: str) -> None:
    vit = built(name)
    model = adopt(vit, "read-only").eval()
    mask = torch.tensor([False, True, True, False, False, True, False, False, False])
    both = torch.stack([mask, ~mask])[None]
    with torch.no_grad():
        found = model(images(name)[:1], both).objects[0]
        for row, seen in zip(found, both[0]):
            torch.testing.assert_close(row, alone(vit, name, seen), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
@pytest.mark.parametrize("name", ["DINOv3", "BEiT", "DINOv2 with registers"])
def test_selected_tokens_and_gradients_are_those_of_all_tokens(name: str, kind: Any) -> None:
    model: ObjectViT = adopt(built(name), kind)
    queries = 2 if kind == "read-only" else 1
    masks = torch.rand(2, queries, SIDE * SIDE) < 0.6
    hidden = torch.rand(2, SIDE * SIDE) < 0.3
    patches, objects = torch.tensor([1, 5, 12]), torch.arange(2 * queries)
    gradients = []
    for selected in (False, True):
        model.zero_grad()
        if selected:
            out = model.forward_selected(images(name), masks, hidden, patches, objects, image=False)
            parts = [out.objects, out.patches]
        else:
            whole = model(images(name), masks, hidden)
            parts = [whole.objects.flatten(0, 1), whole.patches.flatten(0, 1)[patches]]
        (parts[0].pow(3).sum() + parts[1].pow(3).sum()).backward()
        gradients.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert "mask_token" in gradients[0]
    for key, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][key], rtol=1e-9, atol=1e-9)


def test_rotations_are_made_in_full_precision_after_a_cast() -> None:
    vit = timm.create_model("vit_small_patch16_dinov3", depth=1, embed_dim=48, num_heads=2, num_classes=0)
    model: Any = adopt(vit, "read-only")
    before = model.rope.periods.clone()
    model.to(torch.bfloat16)
    assert model.rope.periods.dtype == torch.float32
    assert torch.equal(model.rope.periods, before)


def test_two_passes_in_eval_mode_are_equal() -> None:
    model = adopt(built("DINOv3"), "read-only").eval()
    masks = torch.ones(2, 1, SIDE * SIDE, dtype=torch.bool)
    with torch.no_grad():
        first, second = model(images("DINOv3"), masks), model(images("DINOv3"), masks)
    assert torch.equal(first.patches, second.patches)
    assert torch.equal(first.objects, second.objects)
