"""Where kernels are used, and that `reference()` turns all of them off."""

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import Mlp
from torch import Tensor, nn

from odis import kernels
from odis.backbones.adapters import adopt
from odis.backbones.build import recomputed
from odis.errors import ConfigError
from odis.kernels import PackedTokens, choose
from odis.kernels.bmm_attention import bmm_attention
from odis.method.vit import ObjectViT


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CPU on which every kernel is used."""
    monkeypatch.setattr(choose, "_mkl_is_slow", lambda: True)
    monkeypatch.setattr(choose, "_has_bf16_instructions", lambda: True)
    return monkeypatch


@pytest.fixture
def fresh() -> Iterator[None]:
    """The environment is read again, as at a start; asked for before `monkeypatch`, it ends after it."""
    choose._from_environment.cache_clear()
    yield
    choose._from_environment.cache_clear()


def asked(qkv: Tensor, dropout: float = 0.0, normed: bool = False) -> object:
    return kernels.attention(qkv, masked=True, dropout=dropout, normed=normed)


def test_where_attention_is_done_in_products(able):
    qkv = torch.zeros(2, 5, 3, 2, 4, dtype=torch.bfloat16)
    assert asked(qkv) is bmm_attention
    assert asked(qkv, dropout=0.1) is None
    assert asked(qkv, normed=True) is None
    for other in (qkv.float(), qkv.double(), qkv.half(), qkv.to("meta"), qkv.repeat(1, 200, 1, 1, 1)):
        assert asked(other) is None
    able.setattr(torch.compiler, "is_compiling", lambda: True)
    assert asked(qkv) is None


def test_without_bf16_instructions_attention_is_torchs(able):
    able.setattr(choose, "_has_bf16_instructions", lambda: False)
    assert asked(torch.zeros(2, 5, 3, 2, 4, dtype=torch.bfloat16)) is None


def test_where_linear_layers_are_convolutions(able):
    many, few = torch.empty(16, 96, 8), torch.empty(1535, 8)
    assert choose._conv_is_faster(many)
    assert not choose._conv_is_faster(few)
    for other in (many.to("meta"), many.double(), many.half(), many.bfloat16()):
        assert not choose._conv_is_faster(other)
    with torch.autocast("cpu", torch.bfloat16):
        assert not choose._conv_is_faster(many)
    able.setattr(choose, "_mkl_is_slow", lambda: False)
    assert not choose._conv_is_faster(many)


@pytest.mark.parametrize(
    ("text", "capability", "onednn", "expected"),
    [
        ("vendor_id : AuthenticAMD\n", "AVX512", True, True),
        ("vendor_id : AuthenticAMD\n", "AVX2", True, False),
        ("vendor_id : AuthenticAMD\n", "AVX512", False, False),
        ("vendor_id : GenuineIntel\n", "AVX512", True, False),
        (None, "AVX512", True, False),
    ],
)
def test_on_which_cpu_mkl_is_slow(monkeypatch, text, capability, onednn, expected):
    def read(self: Path, encoding: str) -> str:
        if text is None:
            raise FileNotFoundError(self)
        return text

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    assert choose._mkl_is_slow.__wrapped__() is expected


def test_tokens_are_packed_where_enough_are_left_out():
    read = torch.arange(4)
    assert isinstance(kernels.packing(4, 30, 2, read), PackedTokens)  # 4 of 128 are spared
    assert kernels.packing(4, 31, 2, read) is None  # 4 of 132
    assert kernels.packing(4, 30, 0, read[:0]) is None
    with kernels.reference():
        assert kernels.packing(4, 30, 2, read) is None


def test_reference_turns_all_off_and_nests(able):
    qkv, layer = torch.zeros(2, 5, 3, 2, 4, dtype=torch.bfloat16), nn.Linear(8, 4)
    calls: list[str] = []
    able.setattr(
        choose, "conv_linear", lambda x, w, b: calls.append("linear") or nn.functional.linear(x, w, b)
    )
    able.setattr(
        choose,
        "gelu_linear",
        lambda hidden, layer, convolve: calls.append("mlp") or layer(nn.functional.gelu(hidden)),
    )

    def use() -> list[str]:
        calls.clear()
        kernels.linear(layer, torch.randn(1600, 8))
        kernels.mlp(Mlp(8, 16), torch.randn(3, 8))
        return [*calls, *(["attention"] if asked(qkv) else [])]

    everything = ["linear", "mlp", "attention"]
    assert use() == everything
    with kernels.reference():
        assert use() == []
        with kernels.reference():
            assert use() == []
        assert use() == []
        with pytest.raises(KeyError), kernels.reference():
            raise KeyError
        assert use() == []
    assert use() == everything


@pytest.mark.parametrize(("value", "expected"), [("", False), ("auto", False), ("reference", True)])
def test_the_environment_turns_all_off(value: str, expected: bool, fresh, monkeypatch):
    monkeypatch.setenv("ODIS_KERNELS", value)
    assert choose.uses_reference() is expected


def test_another_value_is_refused_in_one_line(fresh, monkeypatch):
    monkeypatch.setenv("ODIS_KERNELS", "off")
    with pytest.raises(ConfigError, match=r"^ODIS_KERNELS: is 'off', must be auto or reference$"):
        choose.uses_reference()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_whole_vit_is_the_same_with_and_without(near, able, dtype, checkpointing):
    """Double precision is the oracle, and torch's own error the scale."""
    torch.manual_seed(0)
    vit = adopt(
        timm.create_model("vit_tiny_patch16_224", img_size=32, dynamic_img_size=True, depth=2, num_classes=0),
        "read-only",
    )
    if checkpointing:
        vit.call = recomputed
    images, masks = torch.randn(3, 3, 32, 32), torch.rand(3, 2, 4) < 0.5
    patches, objects = torch.tensor([1, 5, 6]), torch.tensor([0, 3])
    # A sum of squares would not do: of normalised tokens it is constant, so that its gradient is what
    # rounding leaves of terms that cancel.
    weights = {"objects": torch.randn(2, 192), "image": torch.randn(3, 192), "patches": torch.randn(3, 192)}

    def once(vit: ObjectViT, images: Tensor) -> dict[str, Tensor]:
        vit.zero_grad()
        half = dtype == torch.bfloat16 and images.dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            tokens = vit.forward_selected(images, masks, None, patches, objects)
        read = {name: getattr(tokens, name) for name in weights}
        torch.stack([(read[name] * weights[name]).sum() for name in weights]).sum().backward()
        grads = {name: p.grad for name, p in vit.named_parameters() if p.grad is not None}
        return {name: t.detach().double() for name, t in (read | grads).items()}

    with kernels.reference():
        theirs = once(vit, images)
        exact = once(copy.deepcopy(vit).double(), images.double())
    able.setattr(choose, "MANY_ROWS", 1)
    used: set[str] = set()
    for name in ("conv_linear", "bmm_attention", "gelu_linear", "PackedTokens"):
        _watch(able, name, used)
    ours = once(vit, images)
    assert used == {
        "gelu_linear",
        "PackedTokens",
        "conv_linear" if dtype == torch.float32 else "bmm_attention",
    }
    assert ours.keys() == theirs.keys() == exact.keys()
    assert len(exact) > 20
    for name, value in exact.items():
        near(ours[name], theirs[name], value, terms=768, dtype=dtype, what=name)  # the longest product is 768


def _watch(patch: pytest.MonkeyPatch, name: str, used: set[str]) -> None:
    kernel = getattr(choose, name)
    patch.setattr(choose, name, lambda *given, **more: used.add(name) or kernel(*given, **more))


def test_compiling_a_block_warns_of_nothing() -> None:
    """Dynamo warns of each cached function that it meets, by name."""
    code = """
import warnings; warnings.simplefilter("error")
import torch
from torch import nn
from odis.kernels import choose
def block(x, layer):
    choose.attention(x.reshape(1, 2, 3, 2, 2), masked=False, dropout=0.0, normed=False)
    return choose.linear(layer, x)
torch.compile(block, backend="eager")(torch.randn(2, 12), nn.Linear(12, 12))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
