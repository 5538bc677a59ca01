"""Attention weights against the outputs that they give."""

import pytest
import torch
from timm.models.vision_transformer import Attention

from odis.backbones.attention_maps import (
    object_attention_layers,
    object_attention_maps,
    object_attention_weights,
)
from odis.backbones.build import build_vit
from odis.config.training import ModelConfig
from odis.errors import ConfigError
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


@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
def test_layers_in_one_pass_are_those_asked_one_by_one(kind: ObjectTokens) -> None:
    torch.manual_seed(0)
    config = ModelConfig(embed_dim=24, depth=3, num_heads=2, patch_size=8, object_tokens=kind)
    model = build_vit(config, 32, drop_path=0.0).eval()
    images, masks = torch.randn(2, 3, 32, 40), torch.rand(2, 1, 20) < 0.5
    masks[:, :, 0] = True
    maps = object_attention_layers(model, images, masks)
    for layer in range(3):
        torch.testing.assert_close(maps[layer], object_attention_maps(model, images, masks, layer))
    model.split_queries = False
    with pytest.raises(ConfigError, match="timm's common attention"):
        object_attention_layers(model, images, masks)
