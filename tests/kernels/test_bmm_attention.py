"""Attention as matrix products against torch's with an explicit mask, in double precision, forwards and
backwards.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import Attention
from torch import Tensor

from odis.kernels import attention as chosen
from odis.kernels import choose
from odis.kernels.bmm_attention import bmm_attention
from odis.method.attention import object_attention, visible_at, visible_keys
from odis.method.layout import TokenLayout

KINDS = ["single", "read-only", "beside"]


def some_keys(generator: torch.Generator, views: int, patches: int, queries: int, kind: str) -> Tensor:
    """Of random masks, one of them empty and one all true."""
    masks = torch.rand(views, queries, patches, generator=generator) < 0.4
    masks[0, 0], masks[-1, -1] = False, True
    return visible_keys(masks, TokenLayout(kind, True, 1, patches, queries, kind == "beside"))


def by_torch(qkv: Tensor, keys: Tensor | None, kind: str) -> Tensor:
    mask = None if keys is None else visible_at(keys, kind, keys.shape[2] - keys.shape[1]).unsqueeze(1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


@settings(max_examples=80, deadline=None)
@given(
    st.data(),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(1, 5),
    st.sampled_from([1, 4000, 2**21]),
)
def test_products_and_their_gradients_equal_torchs(data, views, heads, patches, width, at_once):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    kind = data.draw(st.sampled_from(KINDS))
    queries = data.draw(st.integers(1, 3)) if kind == "read-only" else 1
    keys = some_keys(generator, views, patches, queries, kind) if data.draw(st.booleans()) else None
    tokens = 1 + patches if keys is None else keys.shape[2]
    qkv = torch.randn(
        views, tokens, 3, heads, width, generator=generator, dtype=torch.float64, requires_grad=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("odis.kernels.bmm_attention._CHUNK_BYTES", at_once)  # one view at a time, some, all
        ours = bmm_attention(qkv, keys, kind == "single", kind != "read-only")
        grad = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
        (of_ours,) = torch.autograd.grad(ours, qkv, grad)
    theirs = by_torch(qkv, keys, kind)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(of_ours, torch.autograd.grad(theirs, qkv, grad)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_differences(kind):
    generator = torch.Generator().manual_seed(0)
    keys = some_keys(generator, 3, 4, 1, kind)
    qkv = torch.randn(3, keys.shape[2], 3, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    booleans = kind == "single", kind != "read-only"
    assert torch.autograd.gradcheck(lambda x: bmm_attention(x, keys, *booleans), [qkv])


@pytest.mark.parametrize("kind", [*KINDS, None])
@pytest.mark.parametrize("faster", [True, False])
def test_a_layer_in_half_precision_is_as_near_as_half_precision_can_be(monkeypatch, kind, faster):
    """By the products and by torch's kernel, whichever this machine would take."""
    monkeypatch.setattr(choose, "_has_bf16_instructions", lambda: faster)
    qkv = torch.zeros(2, 5, 3, 2, 4, dtype=torch.bfloat16)
    assert (chosen(qkv, masked=True, dropout=0.0, normed=False) is bmm_attention) == faster
    torch.manual_seed(0)
    attn = Attention(48, num_heads=3, qkv_bias=True)
    keys = None if kind is None else some_keys(torch.Generator().manual_seed(1), 4, 30, 1, kind)
    x = torch.randn(4, 31 if keys is None else keys.shape[2], 48)
    weight = torch.randn_like(x)

    def layer(module: Attention, tokens: Tensor) -> list[Tensor]:
        out = object_attention(module, tokens, keys, kind or "single")
        return [out, *torch.autograd.grad((out * weight.to(out.dtype)).sum(), list(module.parameters()))]

    found = layer(attn.bfloat16(), x.bfloat16())
    for ours, exact in zip(found, layer(attn.double(), x.bfloat16().double())):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - exact).abs().max() < 0.02 * exact.abs().max()


def test_queries_that_are_normed_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(choose, "_has_bf16_instructions", lambda: True)
    attn = Attention(24, num_heads=2, qk_norm=True, norm_layer=torch.nn.LayerNorm).bfloat16()
    x = torch.randn(2, 7, 24, dtype=torch.bfloat16)
    assert torch.equal(object_attention(attn, x, None, "single"), attn(x))
