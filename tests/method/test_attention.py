"""Split-query attention against a masked softmax written out by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from odis.method.attention import object_attention, visible_at, visible_keys
from odis.method.layout import ObjectTokens, TokenLayout

D, PATCHES = 24, 6


def keys_of(
    masks: Tensor, kind: ObjectTokens, class_token: bool = True, registers: int = 0, sees: bool = False
) -> Tensor:
    _, queries, patches = masks.shape
    prefix = int(class_token) + registers
    return visible_keys(masks, TokenLayout(kind, class_token, prefix, patches, queries, sees))


def dense_mask(keys: Tensor, kind: ObjectTokens) -> Tensor:
    """bool (B, T, T): who sees whom."""
    return visible_at(keys, kind, keys.shape[2] - keys.shape[1])


def by_hand(attn: Attention, x: Tensor, visible: Tensor) -> Tensor:
    """Softmax attention one view, head and query at a time; `visible` is bool (B, T, T), queries x keys."""
    views, tokens, _ = x.shape
    width = attn.num_heads * attn.head_dim
    q, k, v = (x @ attn.qkv.weight.T + (attn.qkv.bias if attn.qkv.bias is not None else 0)).split(
        width, dim=-1
    )
    out = torch.zeros(views, tokens, width, dtype=x.dtype)
    for b in range(views):
        for h in range(attn.num_heads):
            part = slice(h * attn.head_dim, (h + 1) * attn.head_dim)
            qs, ks = attn.q_norm(q[b, :, part]), attn.k_norm(k[b, :, part])
            for t in range(tokens):
                seen = visible[b, t].nonzero()[:, 0]
                score = torch.exp(qs[t] @ ks[seen].T / attn.head_dim**0.5)
                out[b, t, part] = (score / score.sum()) @ v[b, seen, part]
    out = attn.norm(out)
    if attn.gate is not None:
        out = out * torch.sigmoid(attn.gate(x))
    return attn.proj(out)


def visible_by_rule(
    masks: Tensor, kind: str, class_token: bool, registers: int, sees: bool = False
) -> Tensor:
    """Who sees whom, from the rule's words: an object itself, its patches, registers if it is everything,
    `[CLS]` if it is told so; the rest all context, and the object if it is `beside`.
    """
    views, objects, patches = masks.shape
    prefix = int(class_token) + registers
    context = prefix + patches
    tokens = context if kind == "single" else context + objects
    visible = torch.zeros(views, tokens, tokens, dtype=torch.bool)
    for b in range(views):
        visible[b, :context, :context] = True
        if kind == "beside":
            visible[b] = True
        for o in range(objects):
            row = 0 if kind == "single" else context + o
            visible[b, row] = False
            visible[b, row, row] = True
            if sees and class_token and kind != "single":
                visible[b, row, 0] = True
            for p in range(patches):
                visible[b, row, prefix + p] = masks[b, o, p]
            if all(masks[b, o]):
                visible[b, row, int(class_token) : prefix] = True
    return visible


def some_masks(objects: int, generator: torch.Generator) -> Tensor:
    """Five views: random, empty, one patch, all true, and a mixture within one view."""
    masks = torch.rand(5, objects, PATCHES, generator=generator) < 0.5
    masks[1] = False
    masks[2] = False
    masks[2, :, 4] = True
    masks[3] = True
    masks[4, 0] = True
    masks[4, -1] = objects == 1
    return masks


CASES = [  # kind, objects, whether there is a class token, registers, whether objects see it
    ("single", 1, True, 0, False),
    ("single", 1, True, 2, False),
    ("read-only", 1, True, 0, False),
    ("read-only", 3, True, 2, False),
    ("read-only", 2, False, 1, False),
    ("read-only", 3, True, 2, True),
    ("beside", 1, True, 0, True),
    ("beside", 1, True, 2, True),
    ("beside", 1, True, 1, False),
    ("beside", 1, False, 1, True),
]
OPTIONS = [
    {"qkv_bias": True},
    {"qk_norm": True, "norm_layer": nn.LayerNorm},
    {"scale_norm": True, "gated": True, "attn_head_dim": 8, "norm_layer": nn.LayerNorm},
]


@pytest.mark.parametrize(("kind", "objects", "class_token", "registers", "sees"), CASES)
@pytest.mark.parametrize("options", OPTIONS)
def test_split_queries_equal_a_masked_softmax_by_hand(
    near, kind, objects, class_token, registers, sees, options
):
    torch.manual_seed(1)
    attn = Attention(D, num_heads=2, **options)
    for parameter in attn.parameters():
        nn.init.normal_(parameter, std=0.3)
    exact = copy.deepcopy(attn).double()
    masks = some_masks(objects, torch.Generator().manual_seed(2))
    visible = visible_by_rule(masks, kind, class_token, registers, sees)
    x = torch.randn(5, visible.shape[1], D)
    keys = keys_of(masks, kind, class_token, registers, sees)
    assert torch.equal(dense_mask(keys, kind), visible)
    expected = by_hand(exact, x.double(), visible)
    torch.testing.assert_close(object_attention(exact, x.double(), keys, kind), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(exact(x.double(), attn_mask=visible[:, None]), expected, rtol=0, atol=1e-10)
    near(object_attention(attn, x, keys, kind), attn(x, attn_mask=visible[:, None]), expected, terms=3 * D)


def test_without_keys_it_is_timms_attention():
    attn = Attention(D, num_heads=2)
    x = torch.randn(2, 7, D)
    assert torch.equal(object_attention(attn, x, None, "single"), attn(x))


@pytest.mark.parametrize(("kind", "objects", "class_token", "registers", "sees"), CASES)
def test_gradients_equal_those_of_the_dense_mask(kind, objects, class_token, registers, sees):
    torch.manual_seed(0)
    attn = Attention(D, num_heads=2, qkv_bias=True).double()
    masks = some_masks(objects, torch.Generator().manual_seed(3))
    keys = keys_of(masks, kind, class_token, registers, sees)
    visible = visible_by_rule(masks, kind, class_token, registers, sees)
    x = torch.randn(5, keys.shape[-1], D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    inputs = [x, *attn.parameters()]
    split = torch.autograd.grad((object_attention(attn, x, keys, kind) * weight).sum(), inputs)
    dense = torch.autograd.grad((attn(x, attn_mask=visible[:, None]) * weight).sum(), inputs)
    for a, b in zip(split, dense):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    kind=st.sampled_from(["single", "read-only", "beside"]),
    registers=st.integers(0, 2),
    sees=st.booleans(),
)
def test_no_mask_gives_nan(data, kind, registers, sees):
    objects = data.draw(st.integers(1, 3)) if kind == "read-only" else 1
    bits = data.draw(st.lists(st.booleans(), min_size=2 * objects * PATCHES, max_size=2 * objects * PATCHES))
    masks = torch.tensor(bits).view(2, objects, PATCHES)
    attn = Attention(D, num_heads=2)
    keys = keys_of(masks, kind, True, registers, sees)
    x = (100 * torch.randn(2, keys.shape[-1], D)).requires_grad_()
    out = object_attention(attn, x, keys, kind)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in attn.parameters())


def test_attention_dropout_acts_in_training_only():
    torch.manual_seed(0)
    attn = Attention(D, num_heads=2, attn_drop=0.5)
    keys = keys_of(torch.ones(2, 2, PATCHES, dtype=torch.bool), "read-only", True, 0)
    x = torch.randn(2, keys.shape[-1], D)
    assert not torch.equal(
        object_attention(attn, x, keys, "read-only"), object_attention(attn, x, keys, "read-only")
    )
    attn.eval()
    assert torch.equal(
        object_attention(attn, x, keys, "read-only"), object_attention(attn, x, keys, "read-only")
    )


@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
def test_no_mask_is_as_tall_as_the_tokens(kind: ObjectTokens, monkeypatch) -> None:
    """Of three views with 30 patches and 1 or 4 objects: a row for each object query, and no other."""
    import odis.method.attention as module

    masks = torch.rand(3, 4 if kind == "read-only" else 1, 30) < 0.5
    keys = keys_of(masks, kind, sees=kind == "beside")
    shapes: list[tuple[int, ...] | None] = []
    attention = F.scaled_dot_product_attention

    def noted(*qkv: Tensor, attn_mask: Tensor | None = None, **more: float) -> Tensor:
        shapes.append(None if attn_mask is None else tuple(attn_mask.shape))
        return attention(*qkv, attn_mask=attn_mask, **more)

    monkeypatch.setattr(module.F, "scaled_dot_product_attention", noted)
    object_attention(Attention(D, num_heads=2), torch.randn(3, keys.shape[2], D), keys, kind)
    assert shapes == [(3, 1, *keys.shape[1:]), None]
