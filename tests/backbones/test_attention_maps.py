"""Attention weights against the outputs that they give."""

import pytest
import torch
from timm.models.vision_transformer import Attention

from odis.backbones.attention_maps import object_attention_weights
from odis.method.attention import object_attention, visible_keys
from odis.method.layout import ObjectTokens, TokenLayout


@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
def test_weights_give_the_outputs(kind: ObjectTokens) -> None:
    torch.manual_seed(0)
    attn = Attention(24, num_heads=3, qkv_bias=True).double()
    queries, patches = (3, 10) if kind == "read-only" else (1, 10)
    masks = torch.rand(2, queries, patches) < 0.4
    x = torch.randn(2, 1 + patches + (0 if kind == "single" else queries), 24, dtype=torch.float64)
    keys = visible_keys(masks, TokenLayout(kind, True, 1, patches, queries, kind == "beside"))
    weights = object_attention_weights(attn, x, keys, kind)  # (B, Q, h, T)
    assert (weights.transpose(1, 2)[~keys.unsqueeze(1).expand(-1, 3, -1, -1)] == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    values = attn.qkv(x)[..., 48:].reshape(2, -1, 3, 8).transpose(1, 2)
    by_hand = attn.proj((weights.transpose(1, 2) @ values).transpose(1, 2).flatten(2))
    whole = object_attention(attn, x, keys, kind)
    torch.testing.assert_close(by_hand, whole[:, :1] if kind == "single" else whole[:, -queries:])
