"""Linear layers by way of a convolution against torch's own: outputs, gradients, arithmetic counted."""

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from odis.backbones.adapters import adopt
from odis.backbones.features import patch_features
from odis.kernels import choose, linear
from odis.kernels.conv_linear import conv_linear


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Every plain linear layer is a convolution, on any CPU; the shapes of what was asked."""
    asked: list[tuple[int, ...]] = []

    def faster(x: Tensor) -> bool:
        asked.append(tuple(x.shape))
        return True

    monkeypatch.setattr(choose, "_mkl_is_slow", lambda: False)
    monkeypatch.setattr(choose, "_conv_is_faster", faster)
    return asked


def run(call, x: Tensor, module: nn.Module, weights: Tensor) -> dict[str, Tensor]:
    """What a call makes of x, and all gradients of its weighted sum."""
    x = x.clone().requires_grad_()
    y = call(x)
    (y * weights).sum().backward()
    # backward gave it
    return {"y": y.detach(), "x": x.grad} | {name: p.grad for name, p in module.named_parameters()}  # type: ignore[dict-item]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_a_layer_and_its_gradients_are_torchs(data, inputs, outputs, bias):
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    shape = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    theirs = nn.Linear(inputs, outputs, bias=bias).double()
    ours = copy.deepcopy(theirs)
    x, weights = torch.randn(*shape, inputs).double(), torch.randn(*shape, outputs).double()
    if data.draw(st.booleans()):  # not contiguous
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    found = run(lambda x: conv_linear(x, ours.weight, ours.bias), x, ours, weights)
    expected = run(theirs, x, theirs, weights)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    "sizes", [(16, 100, 48, 96), (16, 100, 96, 48), (1, 1600, 64, 64), (40, 41, 33, 7)], ids=str
)
def test_many_rows_are_as_torchs_to_rounding(near, always, sizes):
    """Large enough that oneDNN takes the convolution, where there is one. Double precision is the oracle,
    torch's own error the scale.
    """
    torch.manual_seed(0)
    views, tokens, inputs, outputs = sizes
    module = nn.Linear(inputs, outputs)
    x, weights = torch.randn(views, tokens, inputs), torch.randn(views, tokens, outputs)
    copies = [copy.deepcopy(module) for _ in range(2)]
    found = run(lambda x: linear(copies[0], x), x, copies[0], weights)
    theirs = run(copies[1], x, copies[1], weights)
    module.double()
    expected = run(module, x.double(), module, weights.double())
    assert always == [(views, tokens, inputs)]
    terms = {"y": inputs, "x": outputs, "weight": views * tokens, "bias": views * tokens}
    for name, value in expected.items():
        near(found[name], theirs[name], value, terms=terms[name], what=name)
        assert found[name].dtype == theirs[name].dtype


def test_a_gradient_of_one_number_is_taken(always):
    """What `sum` hands back is one number in the shape of many."""
    module, x = nn.Linear(4, 6), torch.randn(3, 5, 4, requires_grad=True)
    linear(module, x).sum().backward()
    torch.testing.assert_close(x.grad, module.weight.sum(0).expand(3, 5, 4))


def test_frozen_layers_and_inputs_get_no_gradient(always):
    module, x = nn.Linear(4, 6), torch.randn(3, 4)
    linear(module, x).sum().backward()
    assert module.weight.grad is not None
    module.weight.grad = None
    module.requires_grad_(False)
    x.requires_grad_()
    linear(module, x).sum().backward()
    assert module.weight.grad is None
    assert x.grad is not None
    with torch.no_grad():
        assert not linear(module, x).requires_grad


def test_the_same_arithmetic_is_counted(monkeypatch):
    module, x = nn.Linear(48, 96), torch.randn(4, 30, 48, requires_grad=True)

    def counted() -> int:
        with FlopCounterMode(display=False) as counter:
            linear(module, x).sum().backward()
        return counter.get_total_flops()

    without = counted()
    monkeypatch.setattr(choose, "_conv_is_faster", lambda x: True)
    assert counted() == without == 3 * 2 * 4 * 30 * 48 * 96


def test_a_hooked_or_other_layer_is_called(always):
    seen = []
    module, x = nn.Linear(4, 6), torch.randn(3, 4)
    handle = module.register_forward_hook(lambda *_: seen.append("after"))
    linear(module, x)
    handle.remove()
    handle = module.register_forward_pre_hook(lambda *_: seen.append("before"))
    linear(module, x)
    handle.remove()
    assert seen == ["after", "before"]
    assert not always

    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    other = Scaled(4, 6)
    assert torch.equal(linear(other, x), other(x))
    # as timm puts it where there is no projection
    assert torch.equal(linear(nn.Identity(), x), x)  # type: ignore[arg-type]
    assert not always
    linear(module, x)
    assert always


def test_keys_of_attention_are_read_of_many_tokens(always):
    """They are taken by a hook on a projection."""
    torch.manual_seed(0)
    vit = adopt(
        timm.create_model("vit_tiny_patch16_224", img_size=32, dynamic_img_size=True, depth=1, num_classes=0),
        "single",
    ).eval()
    with torch.no_grad():
        keys, grid = patch_features(vit, torch.randn(2, 3, 32, 32), "key")
    assert keys.shape == (2, 4, 192)
    assert grid == (2, 2)
