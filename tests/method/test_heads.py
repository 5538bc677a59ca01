"""Projection heads against lightly's, and the batch norm against torch's."""

import pytest
import torch
import torch.nn.functional as F
from lightly.models.modules.heads import DINOProjectionHead
from torch import nn

from odis.config.training import HeadConfig
from odis.method.heads import BatchNorm, ProjectionHead

SIZES = {"prototypes": 40, "hidden": 24, "bottleneck": 10}


def a_head(**settings) -> ProjectionHead:
    torch.manual_seed(0)
    return ProjectionHead(16, HeadConfig(**{**SIZES, **settings}))


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_logits_and_gradients_equal_lightlys(norm_last_layer):
    head = a_head(norm_last_layer=norm_last_layer)
    peer = DINOProjectionHead(16, 24, 10, 40, norm_last_layer=norm_last_layer)
    ours = [m for m in head.mlp if isinstance(m, nn.Linear)]
    theirs = [m for m in peer.layers if isinstance(m, nn.Linear)]
    with torch.no_grad():
        for a, b in zip(ours, theirs):
            b.weight.copy_(a.weight.mul_(5))
            b.bias.copy_(a.bias.normal_())
        peer.last_layer.weight_v.copy_(head.last_layer.weight)
        if not norm_last_layer:
            peer.last_layer.weight_g.copy_(head.last_layer.length.uniform_(0.5, 2))
    x, weight = torch.randn(7, 16), torch.randn(7, 40)
    torch.testing.assert_close(head(x), peer(x))
    (head(x) * weight).sum().backward()
    (peer(x) * weight).sum().backward()
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.weight.grad, b.weight.grad)
        torch.testing.assert_close(a.bias.grad, b.bias.grad)
    torch.testing.assert_close(head.last_layer.weight.grad, peer.last_layer.weight_v.grad)
    if norm_last_layer:
        assert head.last_layer.length is None
    else:
        torch.testing.assert_close(head.last_layer.length.grad, peer.last_layer.weight_g.grad)


def test_batch_norms_stand_after_hidden_layers_and_before_the_l2_norm():
    head = a_head(norm="batch")
    linears = [m for m in head.mlp if isinstance(m, nn.Linear)]
    x = h = torch.randn(9, 16)
    for linear in linears[:-1]:
        h = F.gelu(F.batch_norm(linear(h), None, None, training=True))
    h = F.batch_norm(linears[-1](h), None, None, training=True)
    expected = F.normalize(h) @ F.normalize(head.last_layer.weight).T
    torch.testing.assert_close(head(x), expected)
    torch.testing.assert_close(head.eval()(x), expected)  # statistics of the batch, always


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_shape_and_start(layers, norm):
    head = a_head(layers=layers, norm=norm)
    linears = [m for m in head.mlp if isinstance(m, nn.Linear)]
    assert [m.in_features for m in linears] == [16] + [24] * (layers - 1)
    assert head(torch.randn(5, 16)).shape == (5, 40)
    assert all(m.weight.std().item() == pytest.approx(0.02, rel=0.25) for m in linears)


@pytest.mark.parametrize("rows", [0, 1, 2])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("autocast", [False, True])
def test_few_rows_give_finite_logits_and_a_gradient_everywhere(rows, norm, autocast):
    head = a_head(norm=norm, norm_last_layer=False)
    x = torch.randn(rows, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = head(x)
    assert logits.shape == (rows, 40)
    logits.float().square().sum().backward()
    for tensor in (logits, x.grad, *(p.grad for p in head.parameters())):
        assert tensor.isfinite().all()
    if rows == 0:
        assert all((p.grad == 0).all() for p in head.parameters())


def test_batch_norm_equals_torchs():
    ours, theirs = BatchNorm(6), nn.BatchNorm1d(6, track_running_stats=False)
    with torch.no_grad():
        for module in (ours, theirs):
            module.weight.copy_(torch.linspace(0.5, 2, 6))
            module.bias.copy_(torch.linspace(-1, 1, 6))
    x = (3 + 2 * torch.randn(11, 6)).requires_grad_()
    weight = torch.randn(11, 6)
    torch.testing.assert_close(ours(x), theirs(x))
    a = torch.autograd.grad((ours(x) * weight).sum(), [x, *ours.parameters()])
    b = torch.autograd.grad((theirs(x) * weight).sum(), [x, *theirs.parameters()])
    for mine, torchs in zip(a, b):
        torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-5)
    assert not list(ours.buffers())
    assert (ours(x[:1]) == ours.bias).all()
