"""Linear layers by way of a convolution against torch's own: outputs, gradients, arithmetic counted, and when
they are taken.
"""

import copy
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from odis.backbones.features import patch_features
from odis.kernels import linear as linear_file
from odis.kernels.linear import convolution_is_faster, linear, of_weight
from odis.method.vit import ObjectViT


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Every product is a convolution, on any CPU; the shapes of what was asked."""
    asked: list[tuple[int, ...]] = []

    def faster(x: Tensor, dtype: torch.dtype) -> bool:
        asked.append(tuple(x.shape))
        return True

    monkeypatch.setattr(linear_file, "convolution_is_faster", faster)
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_file, "convolution_is_faster", lambda x, dtype: True)
        found = run(lambda x: linear(ours, x), x, ours, weights)
    expected = run(theirs, x, theirs, weights)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "sizes", [(16, 100, 48, 96), (16, 100, 96, 48), (1, 1600, 64, 64), (40, 41, 33, 7)], ids=str
)
def test_many_rows_are_as_torchs_to_rounding(near, always, dtype, sizes):
    """Large enough that oneDNN takes the convolution, where there is one. Double precision is the oracle,
    torch's own error the scale.
    """
    torch.manual_seed(0)
    views, tokens, inputs, outputs = sizes
    module = nn.Linear(inputs, outputs)
    x, weights = torch.randn(views, tokens, inputs), torch.randn(views, tokens, outputs)
    copies = [copy.deepcopy(module) for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = run(lambda x: linear(copies[0], x), x, copies[0], weights)
        theirs = run(copies[1], x, copies[1], weights)
    module.double()
    expected = run(module, x.double(), module, weights.double())
    of_input = [(views, tokens, outputs)] if dtype == torch.float32 else []  # in bf16 it is a product
    assert always == [(views, tokens, inputs), (views, tokens, inputs), *of_input]
    assert found["y"].dtype == dtype
    terms = {"y": inputs, "x": outputs, "weight": views * tokens, "bias": views * tokens}
    for name, value in expected.items():
        near(found[name], theirs[name], value, terms=terms[name], dtype=dtype, what=name)
        assert found[name].dtype == theirs[name].dtype


def test_a_gradient_of_one_number_is_taken(always):
    """What `sum` hands back is one number in the shape of many."""
    module, x = nn.Linear(4, 6), torch.randn(3, 5, 4, requires_grad=True)
    linear(module, x).sum().backward()
    torch.testing.assert_close(x.grad, module.weight.sum(0).expand(3, 5, 4))


@pytest.mark.parametrize("sizes", [(5, 3), (3, 5), (4, 4)])
def test_gradients_of_weights_are_theirs_whichever_way(sizes):
    torch.manual_seed(0)
    grad, x = torch.randn(2, 7, sizes[0]), torch.randn(2, 7, sizes[1])
    torch.testing.assert_close(of_weight(grad, x), torch.einsum("bto,btd->od", grad, x))


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_whole_vit_is_the_same_with_and_without(near, monkeypatch, dtype, checkpointing):
    """Double precision is the oracle, and torch's own error the scale."""
    torch.manual_seed(0)
    vit = ObjectViT(
        timm.create_model("vit_tiny_patch16_224", img_size=32, dynamic_img_size=True, depth=2, num_classes=0),
        "read-only",
    )
    vit.grad_checkpointing = checkpointing
    images, masks = torch.randn(3, 3, 32, 32), torch.rand(3, 2, 4) < 0.5
    patches, objects = torch.tensor([1, 5, 6]), torch.tensor([0, 3])
    # A sum of squares would not do: of normalised tokens it is constant, so that its gradient is what
    # rounding leaves of terms that cancel.
    weights = {"objects": torch.randn(2, 192), "image": torch.randn(3, 192), "patches": torch.randn(3, 192)}

    def once(vit: ObjectViT, images: Tensor) -> dict[str, Tensor]:
        vit.zero_grad()
        with torch.autocast(
            "cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16 and images.dtype == torch.float32
        ):
            tokens = vit.read(images, masks, None, patches, objects)
        read = {name: getattr(tokens, name) for name in weights}
        # a tensor
        sum((read[name] * weights[name]).sum() for name in weights).backward()  # type: ignore[union-attr]
        grads = {name: p.grad for name, p in vit.named_parameters() if p.grad is not None}
        return {name: t.detach().double() for name, t in (read | grads).items()}

    theirs = once(vit, images)
    exact = once(copy.deepcopy(vit).double(), images.double())
    calls = []
    monkeypatch.setattr(linear_file, "convolution_is_faster", lambda x, dtype: calls.append(x.shape) or True)
    ours = once(vit, images)
    assert len(calls) >= 2 * 4
    assert ours.keys() == theirs.keys() == exact.keys()
    assert len(exact) > 20
    for name, value in exact.items():
        near(ours[name], theirs[name], value, terms=768, dtype=dtype, what=name)  # the longest product is 768


def test_the_same_arithmetic_is_counted(monkeypatch):
    module, x = nn.Linear(48, 96), torch.randn(4, 30, 48, requires_grad=True)

    def counted() -> int:
        with FlopCounterMode(display=False) as counter:
            linear(module, x).sum().backward()
        return counter.get_total_flops()

    without = counted()
    monkeypatch.setattr(linear_file, "convolution_is_faster", lambda x, dtype: True)
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
    vit = ObjectViT(
        timm.create_model("vit_tiny_patch16_224", img_size=32, dynamic_img_size=True, depth=1, num_classes=0),
        "single",
    ).eval()
    with torch.no_grad():
        keys, grid = patch_features(vit, torch.randn(2, 3, 32, 32), "key")
    assert keys.shape == (2, 4, 192)
    assert grid == (2, 2)


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CPU on which it is faster."""
    monkeypatch.setattr(linear_file, "_is_amd", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    return monkeypatch


def test_it_is_taken_of_many_rows_where_it_was_measured(able):
    many, few = torch.empty(16, 96, 8), torch.empty(1535, 8)
    for dtype in (torch.float32, torch.bfloat16):
        assert convolution_is_faster(many, dtype)
        assert not convolution_is_faster(few, dtype)
        assert not convolution_is_faster(many.to("meta"), dtype)
    assert not convolution_is_faster(many, torch.float64)
    assert not convolution_is_faster(many, torch.float16)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not convolution_is_faster(many, torch.float32)
    able.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not convolution_is_faster(many, torch.float32)


def test_it_is_not_taken_elsewhere(able):
    many = torch.empty(16, 96, 8)
    able.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not convolution_is_faster(many, torch.bfloat16)
    able.setattr(linear_file, "_is_amd", lambda: False)
    assert not convolution_is_faster(many, torch.float32)
    able.setattr(linear_file, "_is_amd", lambda: True)
    able.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not convolution_is_faster(many, torch.float32)
    able.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    able.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not convolution_is_faster(many, torch.float32)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("vendor_id : AuthenticAMD\n", True), ("vendor_id : GenuineIntel\n", False), (None, False)],
)
def test_whose_cpu_it_is(monkeypatch, text, expected):
    def read(self: Path) -> str:
        if text is None:
            raise FileNotFoundError(self)
        return text

    monkeypatch.setattr(Path, "read_text", read)
    assert linear_file._is_amd.__wrapped__() is expected
