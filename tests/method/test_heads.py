"""Projection heads against lightly's, and the batch norm against torch's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from lightly.models.modules.heads import DINOProjectionHead
from torch import nn

from odis.config.training import HeadConfig
from odis.machine.batch_norm import BatchNorm
from odis.method.heads import ProjectionHead

SIZES = {"prototypes": 40, "hidden": 24, "bottleneck": 10}


def a_head(**settings) -> ProjectionHead:
    torch.manual_seed(0)
    return ProjectionHead(16, HeadConfig(**{**SIZES, **settings}))


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_logits_and_gradients_equal_lightlys(near, norm_last_layer):
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
    exact = DINOProjectionHead(16, 24, 10, 40, norm_last_layer=norm_last_layer).double()
    exact.load_state_dict(peer.state_dict())
    x, weight = torch.randn(7, 16), torch.randn(7, 40)
    near(head(x), peer(x), exact(x.double()), terms=24)
    for module in (head, peer):
        (module(x) * weight).sum().backward()
    (exact(x.double()) * weight).sum().backward()
    layers = zip(ours, theirs, (m for m in exact.layers if isinstance(m, nn.Linear)))
    for found, usual, right in layers:
        near(found.weight.grad, usual.weight.grad, right.weight.grad, terms=40)
        near(found.bias.grad, usual.bias.grad, right.bias.grad, terms=40)
    last, lightlys, right = head.last_layer, peer.last_layer, exact.last_layer
    near(last.weight.grad, lightlys.weight_v.grad, right.weight_v.grad, terms=40)
    if norm_last_layer:
        assert last.length is None
    else:
        near(last.length.grad, lightlys.weight_g.grad, right.weight_g.grad, terms=40)


def test_batch_norms_stand_after_hidden_layers_and_before_the_l2_norm(near):
    head = a_head(norm="batch")
    x = torch.randn(9, 16)

    def by_hand(head: ProjectionHead, h: torch.Tensor) -> torch.Tensor:
        linears = [m for m in head.mlp if isinstance(m, nn.Linear)]
        for linear in linears[:-1]:
            h = F.gelu(F.batch_norm(linear(h), None, None, training=True))
        h = F.batch_norm(linears[-1](h), None, None, training=True)
        return F.normalize(h) @ F.normalize(head.last_layer.weight).T

    usual, exact = by_hand(head, x), by_hand(copy.deepcopy(head).double(), x.double())
    near(head(x), usual, exact, terms=24)
    near(head.eval()(x), usual, exact, terms=24)  # statistics of the batch, always


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_shape_and_start(layers, norm):
    head = a_head(layers=layers, norm=norm)
    linears = [m for m in head.mlp if isinstance(m, nn.Linear)]
    assert [m.in_features for m in linears] == [16] + [24] * (layers - 1)
    assert head(torch.randn(5, 16)).shape == (5, 40)
    assert all(m.weight.std().item() == pytest.approx(0.02, rel=0.25) for m in linears)


def test_prototypes_start_as_the_weight_of_a_linear_layer():
    """DINO and iBOT put weight norm around `nn.Linear(bottleneck, K, bias=False)` as torch makes it, and set
    the lengths to 1.
    """
    layer = a_head(norm_last_layer=False).last_layer
    ours, theirs = layer.weight.detach(), nn.Linear(10, 4000, bias=False).weight.detach()
    assert ours.abs().max() <= 10**-0.5
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.1)
    assert torch.equal(layer.length, torch.ones(40, 1))


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_mean_of_logits_asks_the_prototypes_once(norm, norm_last_layer):
    head = a_head(norm=norm, norm_last_layer=norm_last_layer)
    x = torch.randn(30, 16)
    with torch.no_grad():
        close = torch.testing.assert_close
        close(head.mean_logits(x), head(x).mean(dim=0, keepdim=True), rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            mean = head.mean_logits(x)
    assert mean.dtype == torch.float32
    assert mean.shape == (1, 40)


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


def test_batch_norm_equals_torchs(near):
    ours, theirs = BatchNorm(6), nn.BatchNorm1d(6, track_running_stats=False)
    with torch.no_grad():
        for module in (ours, theirs):
            module.weight.copy_(torch.linspace(0.5, 2, 6))
            module.bias.copy_(torch.linspace(-1, 1, 6))
    x, weight = 3 + 2 * torch.randn(11, 6), torch.randn(11, 6)

    def run(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
        x = x.clone().requires_grad_()
        y = module(x)
        return [y, *torch.autograd.grad((y * weight).sum(), [x, *module.parameters()])]

    for found, usual, exact in zip(
        run(ours, x), run(theirs, x), run(copy.deepcopy(theirs).double(), x.double())
    ):
        near(found, usual, exact, terms=11)
    assert not list(ours.buffers())
    assert (ours(x[:1]) == ours.bias).all()
