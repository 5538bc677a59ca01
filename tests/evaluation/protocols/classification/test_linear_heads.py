"""Heads that are trained at once against `torch.optim.SGD` on one `nn.Linear` each."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from odis.evaluation.protocols.classification.linear_heads import LinearHeads


def test_every_head_is_a_linear_layer_under_sgd():
    lrs, width, classes = (0.01, 0.3, 2.0), 5, 4
    generator = torch.Generator().manual_seed(1)
    heads = LinearHeads(width, lrs, classes, torch.device("cpu"), seed=0)
    layers = []
    for g in range(len(lrs)):
        layer = nn.Linear(width, classes)
        layer.weight.data = heads.weight[:, g].T.clone()
        nn.init.zeros_(layer.bias)
        layers.append((layer.double(), torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9)))
    for step in range(30):
        x = torch.randn(7, width, generator=generator)
        targets = torch.randint(classes, (7,), generator=generator)
        share = 1 - step / 30
        heads.step(x, targets, share)
        for (layer, optimizer), lr in zip(layers, lrs, strict=True):
            optimizer.param_groups[0]["lr"] = lr * share
            optimizer.zero_grad()
            F.cross_entropy(layer(x.double()), targets).backward()
            optimizer.step()
    x = torch.randn(50, width, generator=generator)
    predicted = heads.predict(x, rows=16)
    for g, (layer, _) in enumerate(layers):
        torch.testing.assert_close(heads.weight[:, g].T.double(), layer.weight, atol=1e-4, rtol=1e-4)
        assert torch.equal(predicted[:, g], layer(x.double()).argmax(1))


def test_weights_start_as_the_references_do():
    heads = LinearHeads(400, (0.1, 1.0), 500, torch.device("cpu"), seed=0)
    assert heads.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert abs(heads.weight.mean().item()) < 1e-4
    assert not heads.bias.any()
    assert torch.equal(heads.weight[:, 0], heads.weight[:, 1])


def test_a_head_that_diverged_is_never_right():
    heads = LinearHeads(3, (0.1, 0.2), 2, torch.device("cpu"), seed=0)
    heads.weight[:, 1] = float("nan")
    predicted = heads.predict(torch.ones(4, 3))
    assert (predicted[:, 1] == -1).all()
    assert (predicted[:, 0] >= 0).all()


def test_a_state_goes_on_where_it_was():
    def steps(heads: LinearHeads, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            targets = torch.randint(2, (6,), generator=generator)
            heads.step(torch.randn(6, 3, generator=generator), targets, 0.5)

    whole, first = (LinearHeads(3, (0.1, 1.0), 2, torch.device("cpu"), seed=0) for _ in range(2))
    steps(whole, 4, 1)
    steps(whole, 3, 2)
    steps(first, 4, 1)
    again = LinearHeads(3, (0.1, 1.0), 2, torch.device("cpu"), seed=5)
    again.load(first.state())
    steps(again, 3, 2)
    assert torch.equal(again.weight, whole.weight)
    assert torch.equal(again.bias, whole.bias)
