"""Each kind of object token against a network written out: a dense T x T attention in double precision, by
who sees whom in words.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from odis.backbones.adapters import adopt
from odis.method.vit import ObjectViT

VIEWS, PATCHES, SIDE = 5, 9, 24
SETTINGS = {  # kind of object token, whether it sees `[CLS]`, objects a view
    "single": ("single", None, 1),
    "read-only": ("read-only", None, 3),
    "read-only, sees cls": ("read-only", True, 3),
    "beside": ("beside", None, 1),
    "beside, blind to cls": ("beside", False, 1),
}


def network(kind: str, sees: bool | None, registers: int = 0, depth: int = 2) -> ObjectViT:
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=16, depth=depth, num_heads=2, num_classes=0,
        reg_tokens=registers, dynamic_img_size=True,
    )  # fmt: skip
    model = adopt(vit, kind, sees)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.double().eval()


def masks_of_every_kind(objects: int) -> Tensor:
    """Random, empty, one patch, all, and several within one view."""
    masks = torch.rand(VIEWS, objects, PATCHES, generator=torch.Generator().manual_seed(3)) < 0.5
    masks[1], masks[2], masks[3] = False, False, True
    masks[2, :, 4] = True
    masks[4, 0], masks[4, -1, 2:4] = True, False
    return masks


def sees_by_the_words(kind: str, sees_cls: bool, one: str, other: str, mask: dict[str, Tensor]) -> bool:
    """Whether a token sees another; tokens are `cls`, `register 0`, `patch 0`, `object 0`."""
    if kind == "single" and one == "cls":
        one = "object 0"
        other = "object 0" if other == "cls" else other
    if not one.startswith("object"):
        return kind != "read-only" or not other.startswith("object")
    if other.startswith("object"):
        return other == one
    if other == "cls":
        return sees_cls
    if other.startswith("register"):
        return bool(mask[one].all())
    return bool(mask[one][int(other.split()[1])])


def by_hand(model: ObjectViT, images: Tensor, masks: Tensor, hidden: Tensor) -> Tensor:
    """All tokens (B, T, D) after the final norm, in the order of `layout.py`."""
    kind, views, objects = model.object_tokens, *masks.shape[:2]
    patches = model.patch_embed(images).flatten(1, 2)
    patches = torch.where(hidden[..., None], model.mask_token, patches)
    prefix = [model.cls_token] + ([] if model.reg_token is None else [model.reg_token])
    x = torch.cat([*(token.expand(views, -1, -1) for token in prefix), patches], dim=1) + model.pos_embed
    names = ["cls", *(f"register {i}" for i in range(x.shape[1] - 1 - PATCHES))]
    names += [f"patch {i}" for i in range(PATCHES)]
    if kind != "single":
        token = model.object_token if kind == "read-only" else model.object_token + model.object_pos
        x = torch.cat([x, token.expand(views, objects, -1)], dim=1)
        names += [f"object {i}" for i in range(objects)]
    visible = torch.tensor(
        [
            [[sees_by_the_words(kind, model.object_sees_cls, a, b, of_view) for b in names] for a in names]
            for of_view in ({f"object {i}": mask for i, mask in enumerate(one)} for one in masks)
        ]
    )
    for block in model.blocks:
        qkv = block.attn.qkv(block.norm1(x)).view(views, len(names), 3, 2, 8).permute(2, 0, 3, 1, 4)
        scores = (qkv[0] @ qkv[1].transpose(2, 3) / 8**0.5).masked_fill(~visible[:, None], float("-inf"))
        gathered = (scores.softmax(dim=-1) @ qkv[2]).transpose(1, 2).flatten(2)
        x = x + block.attn.proj(gathered)
        x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
    return model.norm(x)


def parts(model: ObjectViT, x: Tensor, objects: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """Objects, image and patches of all tokens."""
    first = x.shape[1] - PATCHES - (0 if model.object_tokens == "single" else objects)
    patches = x[:, first : first + PATCHES]
    if model.object_tokens == "single":
        return x[:, :1], None, patches
    return x[:, first + PATCHES :], x[:, 0], patches


Parts = tuple[Tensor | None, Tensor | None, Tensor | None]


def agree(model: ObjectViT, ours: Parts, theirs: Parts) -> None:
    """Tokens, and the gradients of a sum in which every number has a weight of its own."""
    assert [one is None for one in ours] == [one is None for one in theirs]
    of_both = []
    for found in (ours, theirs):
        there = [one for one in found if one is not None]
        total = sum((one * torch.linspace(-1, 1, one.numel()).view(one.shape)).sum() for one in there)
        parameters = list(model.parameters())
        of_both.append([*there, *torch.autograd.grad(total, parameters, materialize_grads=True)])
    for one, other in zip(*of_both, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_tokens_and_gradients_are_those_of_the_network_written_out(name: str, registers: int):
    kind, sees, objects = SETTINGS[name]
    model, masks = network(kind, sees, registers), masks_of_every_kind(objects)
    images = torch.randn(VIEWS, 3, SIDE, SIDE, dtype=torch.float64)
    hidden = torch.rand(VIEWS, PATCHES) < 0.3
    tokens = model(images, masks, hidden)
    expected = parts(model, by_hand(model, images, masks, hidden), objects)
    agree(model, (tokens.objects, tokens.image, tokens.patches), expected)


@pytest.mark.parametrize("rows", [[], [0, 5, 12, 44]])
@pytest.mark.parametrize("read", [[0, 2, 4], [3], [4, 0, 1, 2, 3]])
@pytest.mark.parametrize("name", SETTINGS)
def test_selected_tokens_and_their_gradients_are_too(name: str, read: list[int], rows: list[int]):
    kind, sees, objects = SETTINGS[name]
    model, masks = network(kind, sees, registers=1), masks_of_every_kind(objects)
    images = torch.randn(VIEWS, 3, SIDE, SIDE, dtype=torch.float64)
    hidden = torch.rand(VIEWS, PATCHES) < 0.3
    which, patches = torch.tensor(read), torch.tensor(rows, dtype=torch.int64)
    of_objects, image, of_patches = parts(model, by_hand(model, images, masks, hidden), objects)
    expected = (of_objects.flatten(0, 1)[which], image, of_patches.flatten(0, 1)[patches])
    tokens = model.forward_selected(images, masks, hidden, patches, which)
    agree(model, (tokens.objects, tokens.image, tokens.patches), expected)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.booleans(), min_size=PATCHES, max_size=PATCHES),
    st.sampled_from(["beside", "beside, blind to cls", "read-only", "read-only, sees cls"]),
    st.integers(0, 2),
)
def test_in_every_block_an_object_token_moves_with_what_it_sees_and_with_nothing_else(bits, name, registers):
    """So what is outside of its mask can reach it only through the tokens that it sees, a block later."""
    kind, sees, _ = SETTINGS[name]
    model, mask = network(kind, sees, registers), torch.tensor(bits)
    images = torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)
    x, keys, layout, _ = model.embed(images, mask.view(1, 1, -1), None)
    for block in model.blocks:
        x = x.detach().requires_grad_()
        out = model.apply_blocks([block], x, keys, layout)
        (moved,) = torch.autograd.grad(out[0, layout.object_slice].square().sum(), x, retain_graph=True)
        reached = moved[0].abs().sum(dim=-1) > 0
        assert reached[layout.patch_slice].tolist() == bits
        assert reached[0] == model.object_sees_cls
        assert reached[1 : layout.prefix].tolist() == [all(bits)] * registers
        assert reached[layout.object_slice].all()
        (back,) = torch.autograd.grad(out[0, : layout.context].square().sum(), x)
        assert bool(back[0, layout.object_slice].any()) == (kind == "beside")  # who sees it
        x = out


@pytest.mark.parametrize(("name", "reaches"), [("beside", True), ("beside, blind to cls", False)])
def test_the_rest_of_the_image_reaches_an_empty_mask_through_the_class_token_alone(name: str, reaches: bool):
    """A view without the object: `[OBJ]` sees `[CLS]` and itself."""
    kind, sees, _ = SETTINGS[name]
    one, other = torch.randn(2, 1, 3, SIDE, SIDE, dtype=torch.float64)
    nothing = torch.zeros(1, 1, PATCHES, dtype=torch.bool)
    for depth in (1, 2):
        model = network(kind, sees, depth=depth)
        same = torch.equal(model(one, nothing).objects, model(other, nothing).objects)
        assert same == (not reaches or depth == 1), "the first block's [CLS] knows no image"


def test_beside_changes_what_the_others_become_and_one_without_masks_does_not():
    model = network("beside", None)
    images = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    plain = model(images)
    whole = model(images, torch.ones(2, 1, PATCHES, dtype=torch.bool))
    assert plain.objects is None
    assert not torch.allclose(plain.image, whole.image, atol=1e-3)
    assert not torch.allclose(whole.objects[:, 0], whole.image, atol=1e-3)
