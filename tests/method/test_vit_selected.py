"""Tokens that are read are those of the whole forward pass, and so are the gradients that they give."""

from functools import partial

import pytest
import torch
import torch._dynamo
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import ParallelThingsBlock, ResPostBlock, VisionTransformer
from torch import Tensor

from odis.backbones.adapters import adopt
from odis.backbones.build import recomputed
from odis.method.vit import ObjectViT
from odis.train.start import compile_blocks
from odis.types import SelectedTokens

VIEWS, PATCHES = 3, 16
HIDDEN = {
    "none": [],
    "some": [0, 3, 17, 18, 40, 47],
    "of one view": [20, 21],
    "all": [*range(VIEWS * PATCHES)],
    "unsorted": [40, 2, 40],
}
SMALL = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 3,
    "num_heads": 2,
    "num_classes": 0,
    "dynamic_img_size": True,
}
KINDS = {
    "plain": {},
    "registers": {"reg_tokens": 4, "init_values": 0.5},
    "qk norm": {"qk_norm": True, "qkv_bias": False},
    "scaled norms": {"scale_attn_norm": True, "scale_mlp_norm": True, "init_values": 0.5},
    "residual post-norm": {"block_fn": ResPostBlock, "init_values": 0.5},
    "parallel things": {"block_fn": ParallelThingsBlock},  # its attention cannot be split by query
    "no class token": {"class_token": False, "global_pool": "avg", "reg_tokens": 2, "fc_norm": False},
}


def a_model(name: str, kind: str, **more) -> ObjectViT:
    """With weights of some size, since timm's tokens and layer scales start near 0; in double precision."""
    torch.manual_seed(0)
    model = adopt(VisionTransformer(**SMALL | KINDS[name] | more), kind)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.double()


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def random_masks(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(7)) < 0.4


def inputs(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    masks = random_masks(VIEWS, 3 if kind == "read-only" else 1, PATCHES)
    masks[1, 0], masks[2, 0] = True, False
    return torch.randn(VIEWS, 3, 32, 32, dtype=torch.float64), masks, random_masks(VIEWS, PATCHES)


def every(masks: Tensor | None) -> Tensor:
    """Positions of all object tokens."""
    return torch.arange(0 if masks is None else masks.shape[:2].numel())


def by_forward(
    model: ObjectViT,
    images: Tensor,
    masks: Tensor | None,
    hidden: Tensor | None,
    rows: Tensor,
    objects: Tensor | None = None,
) -> SelectedTokens:
    out = model(images, masks, hidden)
    found = (
        None
        if out.objects is None
        else out.objects.flatten(0, 1)[every(masks) if objects is None else objects]
    )
    return SelectedTokens(found, out.image, out.patches.flatten(0, 1)[rows])


def parts(tokens: SelectedTokens) -> list[Tensor]:
    return [part for part in (tokens.objects, tokens.image, tokens.patches) if part is not None]


def gradients(model: ObjectViT, tokens: SelectedTokens) -> list[Tensor | None]:
    model.zero_grad(set_to_none=True)
    sum(
        (part * torch.linspace(-1, 1, part.numel()).view(part.shape)).sum() for part in parts(tokens)
    ).backward()
    return [p.grad for p in model.parameters()]


def same(model: ObjectViT, ours: SelectedTokens, theirs: SelectedTokens) -> None:
    assert (ours.objects is None, ours.image is None) == (theirs.objects is None, theirs.image is None)
    for a, b in zip(parts(ours), parts(theirs), strict=True):
        close(a, b)
    for a, b in zip(gradients(model, ours), gradients(model, theirs), strict=True):
        if (
            a is None or b is None
        ):  # a mask token that hides nothing, tokens that nobody reads: no gradient, or one of zeros
            assert all(g is None or not g.any() for g in (a, b))
        else:
            close(a, b)


@pytest.mark.parametrize("rows", HIDDEN)
@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
@pytest.mark.parametrize("name", KINDS)
def test_what_is_read_is_what_forward_gives(name: str, kind: str, rows: str):
    model = a_model(name, kind).train()
    images, masks, hidden = inputs(kind)
    some = torch.tensor(HIDDEN[rows], dtype=torch.int64)
    questions = [(None, None), (None, hidden)]
    if kind != "single" or model.has_class_token:
        questions += [(masks, None), (masks, hidden)]
    for asked, hide in questions:
        same(
            model,
            model.forward_selected(images, asked, hide, some, every(asked)),
            by_forward(model, images, asked, hide, some),
        )


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(["single", "read-only", "beside"]), st.sampled_from(["plain", "registers"]))
def test_any_masks_and_any_patches(data, kind, name):
    queries = data.draw(st.integers(1, 3)) if kind == "read-only" else 1
    bits = data.draw(st.lists(st.booleans(), min_size=2 * queries * PATCHES, max_size=2 * queries * PATCHES))
    masks = torch.tensor(bits).view(2, queries, PATCHES)
    rows = torch.tensor(data.draw(st.lists(st.integers(0, 2 * PATCHES - 1), max_size=8)), dtype=torch.int64)
    objects = torch.tensor(
        data.draw(st.lists(st.integers(0, 2 * queries - 1), unique=True)), dtype=torch.int64
    )
    model, images = a_model(name, kind).train(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    same(
        model,
        model.forward_selected(images, masks, None, rows, objects),
        by_forward(model, images, masks, None, rows, objects),
    )


def test_the_class_token_is_left_out_where_nobody_reads_it():
    model = a_model("registers", "read-only")
    images, masks, hidden = inputs("read-only")
    for rows in (torch.tensor([], dtype=torch.int64), torch.tensor([3])):
        read = model.forward_selected(images, masks, hidden, rows, every(masks), image=False)
        expected = by_forward(model, images, masks, hidden, rows)
        expected.image = None
        same(model, read, expected)
        plain = model.forward_selected(
            images, None, hidden, rows, every(masks), image=False
        )  # there is nothing else to ask about
        close(plain.image, model(images, None, hidden).image)


@pytest.mark.parametrize("size", [(16, 16), (48, 24), (8, 8)])
@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
def test_views_of_other_sizes(kind: str, size: tuple[int, int]):
    model = a_model("registers", kind)
    patches = size[0] * size[1] // 64
    images, masks = torch.randn(2, 3, *size, dtype=torch.float64), random_masks(2, 1, patches)
    rows = torch.tensor([0, 2 * patches - 1])
    same(
        model,
        model.forward_selected(images, masks, None, rows, every(masks)),
        by_forward(model, images, masks, None, rows),
    )


SEEN = {"all": None, "some": [1, 5, 6], "one": [4], "unsorted": [7, 0], "none": []}


@pytest.mark.parametrize("rows", ["none", "some"])
@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("name", KINDS)
def test_object_tokens_that_nobody_reads_are_left_out(name: str, seen: str, rows: str):
    model = a_model(name, "read-only").train()
    images, masks, hidden = inputs("read-only")
    objects, some = (
        every(masks) if SEEN[seen] is None else torch.tensor(SEEN[seen], dtype=torch.int64),
        torch.tensor(HIDDEN[rows]),
    )
    read = model.forward_selected(images, masks, hidden, some.long(), objects)
    same(model, read, by_forward(model, images, masks, hidden, some.long(), objects))


def test_fewer_tokens_are_computed_then():
    model = a_model("plain", "read-only").train()
    images, masks, hidden = inputs("read-only")
    rows = []
    model.blocks[0].mlp.fc1.register_forward_hook(
        lambda module, given, made: rows.append(made.shape[:-1].numel())
    )
    context = VIEWS * (1 + PATCHES)
    for count, computed in {
        9: context + 9,
        8: context + 9,
        7: context + 7,
        1: context + 1,
        0: context,
    }.items():  # one is not worth it
        model.forward_selected(images, masks, hidden, torch.tensor([3]), every(masks)[9 - count :])
        assert rows.pop() == computed


@pytest.mark.parametrize("rows", ["none", "some"])
@pytest.mark.parametrize("seen", ["all", "some"])
@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
@pytest.mark.parametrize("name", ["registers", "residual post-norm", "parallel things"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_drop_path_drops_what_it_drops_in_forward(
    name: str, kind: str, seen: str, rows: str, checkpointing: bool
):
    model = a_model(name, kind, drop_path_rate=0.6).train()
    if checkpointing:
        model.call = recomputed
    images, masks, hidden = inputs(kind)
    some = torch.tensor(HIDDEN[rows], dtype=torch.int64)
    torch.manual_seed(5)
    objects = every(masks) if seen == "all" else every(masks)[1::2]
    ours = model.forward_selected(images, masks, hidden, some, objects)
    torch.manual_seed(5)
    same(model, ours, by_forward(model, images, masks, hidden, some, objects))


@pytest.mark.parametrize("rows", ["none", "some"])
@pytest.mark.parametrize(
    ("kind", "packed"), [("single", False), ("read-only", False), ("read-only", True), ("beside", False)]
)
def test_compiled(kind: str, packed: bool, rows: str, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # needs no C++ compiler
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = a_model("registers", kind, drop_path_rate=0.3).train()
    images, masks, hidden = inputs(kind)
    some = torch.tensor(HIDDEN[rows], dtype=torch.int64)
    objects = every(masks)[:4] if packed else every(masks)
    torch.manual_seed(5)
    expected = by_forward(model, images, masks, hidden, some, objects)
    compile_blocks(model)
    torch.manual_seed(5)
    same(model, model.forward_selected(images, masks, hidden, some, objects), expected)
    for count in range(2, 7 if rows == "some" else 2):  # as many patches as there happen to be
        model.forward_selected(images, masks, hidden, torch.arange(count), objects)
    assert (
        torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
    )  # the two branches of all other blocks, and the last block
    if packed:  # as many objects as views happen to show: sizes that have differed are left open
        for count in range(2, 7):
            model.forward_selected(images, masks, hidden, some, every(masks)[:count])
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 5


@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
def test_under_autocast(kind: str):
    model = a_model("registers", kind).float()
    images, masks, hidden = inputs(kind)
    for rows in HIDDEN.values():
        some = torch.tensor(rows, dtype=torch.int64)
        exact = by_forward(model, images.float(), masks, hidden, some)
        with torch.autocast("cpu", torch.bfloat16):
            read = model.forward_selected(images.float(), masks, hidden, some, every(masks))
        for a, b in zip(parts(read), parts(exact), strict=True):
            assert not len(a) or torch.nn.functional.cosine_similarity(a.float(), b, dim=-1).min() > 0.99
        assert all(g is None or g.isfinite().all() for g in gradients(model, read))
