"""The MLP in less memory is the MLP: outputs bit for bit where both take the same kernel, gradients to
rounding, and less is kept.
"""

import copy
import gc
import weakref

import pytest
import torch
from timm.layers import GluMlp, Mlp
from torch import nn
from torch.utils.checkpoint import checkpoint

from odis.kernels import choose, mlp


def kept(call, *given: torch.Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, apart from what was given."""
    sizes: dict[int, int] = {}
    theirs = {x.untyped_storage().data_ptr() for x in given}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in theirs:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = call()
    assert result.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("shape", [(3, 5, 16), (1, 1, 16), (0, 4, 16), (7, 16)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_timms(shape: tuple[int, ...], bias: bool):
    torch.manual_seed(0)
    theirs = Mlp(16, 64, bias=bias)
    ours = copy.deepcopy(theirs)
    x, weights = torch.randn(*shape), torch.randn(*shape)
    a, b = (x.clone().requires_grad_() for _ in range(2))
    expected, found = theirs(a), mlp(ours, b)
    assert torch.equal(found, expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(b.grad, a.grad, rtol=1e-5, atol=1e-6)
    for (name, p), q in zip(theirs.named_parameters(), ours.parameters()):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-5, atol=1e-5, msg=name)


def test_gradients_are_those_of_the_function():
    torch.manual_seed(0)
    module = Mlp(3, 5).double()
    assert torch.autograd.gradcheck(
        lambda x: mlp(module, x), (torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True),)
    )


def test_under_autocast_it_is_what_timms_is():
    torch.manual_seed(0)
    theirs = Mlp(32, 128)
    ours = copy.deepcopy(theirs)
    x = torch.randn(4, 6, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = theirs(x), mlp(ours, x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    expected.float().square().sum().backward()
    found.float().square().sum().backward()
    for p, q in zip(theirs.parameters(), ours.parameters()):
        assert q.grad.dtype == torch.float32
        torch.testing.assert_close(q.grad, p.grad, rtol=0.05, atol=0.05 * float(p.grad.abs().max()))


def test_the_activation_is_not_kept():
    module, x = Mlp(16, 64), torch.randn(8, 10, 16)
    hidden = 8 * 10 * 64 * 4
    assert kept(lambda: mlp(module, x), x, *module.parameters()) == hidden
    assert kept(lambda: module(x), x, *module.parameters()) == 2 * hidden


@pytest.mark.parametrize("convolve", [False, True])
def test_checkpointing_keeps_nothing_wide(convolve: bool, monkeypatch: pytest.MonkeyPatch):
    """What is kept has to pass through the hooks of `checkpoint`, or its memory is not saved."""
    monkeypatch.setattr(choose, "_conv_is_faster", lambda x: convolve)
    module, x, wide = Mlp(16, 64), torch.randn(8, 10, 16, requires_grad=True), []
    module.fc1.register_forward_hook(lambda *given: wide.append(weakref.ref(given[-1])))
    y = checkpoint(lambda x: mlp(module, x), x, use_reentrant=False)
    gc.collect()
    assert len(wide) == 1
    assert wide[0]() is None
    y.sum().backward()
    expected = torch.autograd.grad(module(x).sum(), [x, *module.parameters()])
    for name, found, right in zip(
        ["x", "weight", "bias", "weight", "bias"], [x, *module.parameters()], expected
    ):
        torch.testing.assert_close(found.grad, right, rtol=1e-5, atol=1e-5, msg=name)


def test_frozen_weights_get_no_gradient():
    module = Mlp(16, 64)
    module.fc2.requires_grad_(False)
    mlp(module, torch.randn(2, 16)).sum().backward()
    assert module.fc2.weight.grad is None
    assert module.fc1.weight.grad is not None


@pytest.mark.parametrize(
    "module",
    [
        Mlp(16, 64, act_layer=nn.ReLU),
        Mlp(16, 64, drop=0.5),
        Mlp(16, 64, norm_layer=nn.LayerNorm),
        GluMlp(16, 64),
        nn.Linear(16, 16),
        Mlp(16, 64, act_layer=lambda: nn.GELU(approximate="tanh")),
    ],
    ids=lambda m: str(type(m).__name__),
)
def test_any_other_module_is_called_as_it_is(module: nn.Module):
    x = torch.randn(4, 16)
    torch.manual_seed(1)
    expected = module(x)
    torch.manual_seed(1)
    assert torch.equal(mlp(module, x), expected)


@pytest.mark.parametrize("name", ["fc1", "act", "fc2"])
def test_hooks_on_its_parts_are_called(name: str):
    module, seen = Mlp(16, 64), []
    getattr(module, name).register_forward_hook(lambda *_: seen.append(name))
    x = torch.randn(4, 16)
    assert torch.equal(mlp(module, x), module(x))
    with torch.no_grad():
        mlp(module, x)
    assert seen == 3 * [name]


def test_without_gradients_nothing_is_kept():
    with torch.no_grad():
        assert not mlp(Mlp(16, 64), torch.randn(4, 16)).requires_grad
