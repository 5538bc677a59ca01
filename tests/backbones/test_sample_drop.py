"""Drop path that skips views, against a slow version that computes everything and multiplies."""

import contextlib
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from odis import kernels
from odis.backbones.adapters import adopt
from odis.backbones.build import build_vit, recomputed
from odis.backbones.sample_drop import SampleDrop, SkippingViT, skip_views
from odis.config.training import ModelConfig
from odis.errors import ConfigError
from odis.method.pair import Network, teacher_of
from odis.method.vit import ObjectViT

SIDE, VIEWS = 3, 8


def network(kind: Any, rate: float = 0.4, name: str = "vit_tiny_patch16_224") -> ObjectViT:
    torch.manual_seed(0)
    settings: dict[str, Any] = {} if name.startswith("beit") else {"dynamic_img_size": True}
    vit = timm.create_model(
        name, img_size=16 * SIDE, embed_dim=32, depth=3, num_heads=2, num_classes=0, **settings
    ).double()
    model = adopt(vit, kind, skips_views=True).train()
    skip_views(model, rate)
    return model


@pytest.mark.parametrize(("views", "rate", "kept"), [(8, 0.1, 7), (8, 0.4, 4), (1, 0.9, 1), (10, 0.3, 7)])
def test_a_fixed_number_is_kept_and_scaled_by_what_is_left(views: int, rate: float, kept: int) -> None:
    drop = SampleDrop(rate).train()
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        out = drop(torch.ones(views, 2, 3))
        assert (out[:, 0, 0] > 0).sum() == kept
        assert torch.equal(out[out != 0], torch.full_like(out[out != 0], views / kept))
        seen.add(tuple((out[:, 0, 0] > 0).tolist()))
    assert len(seen) > 1 or views == 1
    assert torch.equal(drop.eval()(torch.ones(views, 1)), torch.ones(views, 1))


class Slow(torch.nn.Module):
    """A drop path with the views of one draw: 0, or what is left to scale by."""

    training = True
    drop_prob = 0.4

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_skipping_equals_multiplying_with_masks_and_packed_tokens(
    kind: Any, packs: bool, checkpointing: bool
) -> None:
    fast = network(kind)
    if checkpointing:
        fast.call = recomputed
    assert type(fast) is SkippingViT
    slow = network(kind)
    torch.manual_seed(5)
    for block in slow.blocks:  # the draws that the fast one is going to make
        for name in ("drop_path1", "drop_path2"):
            indices, scale = SampleDrop(0.4).kept(VIEWS)
            factors = torch.zeros(VIEWS).index_fill(0, indices, scale)
            setattr(block, name, Slow(factors))
    queries = 3 if kind == "read-only" else 1
    images = torch.randn(VIEWS, 3, 48, 48, dtype=torch.float64)
    masks = torch.rand(VIEWS, queries, SIDE * SIDE) < 0.5
    hidden = torch.rand(VIEWS, SIDE * SIDE) < 0.3
    patches = torch.tensor([1, 4, 17])
    objects = torch.arange(VIEWS * queries)[:: 2 if kind == "read-only" else 1]
    gradients = []
    outputs = []
    for model in (fast, slow):
        torch.manual_seed(5)
        with contextlib.nullcontext() if packs else kernels.reference():
            out = model.forward_selected(images, masks, hidden, patches, objects, image=False)
            assert out.objects is not None
            (out.objects.pow(3).sum() + out.patches.pow(3).sum()).backward()
        outputs.append(torch.cat([out.objects, out.patches]))
        gradients.append({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-9, atol=1e-9)
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-7, atol=1e-7)


def test_skipped_views_cost_no_branch() -> None:
    model = network("read-only")
    rows: list[int] = []
    model.blocks[0].mlp.fc1.register_forward_hook(lambda _, args, out: rows.append(len(args[0])))
    model(torch.randn(VIEWS, 3, 48, 48, dtype=torch.float64))
    assert rows in ([], [4])  # a kernel may not call the module


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "beit_base_patch16_224"])
def test_other_backbones_multiply(name: str) -> None:
    model = network("read-only", name=name)
    assert all(isinstance(block.drop_path1, SampleDrop) for block in model.blocks)
    images = torch.randn(VIEWS, 3, 48, 48, dtype=torch.float64)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(images).patches)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_the_config_gives_every_block_one_rate_and_the_teacher_none() -> None:
    config = ModelConfig(
        "vit_tiny_patch16_224", embed_dim=32, depth=3, num_heads=2, drop_path=0.3, drop_path_kind="dinov2"
    )
    model = build_vit(config, 32)
    rates = [float(drop.drop_prob) for block in model.blocks for drop in (block.drop_path1, block.drop_path2)]
    assert rates == [0.3] * 6
    assert type(model) is SkippingViT
    head = torch.nn.Linear(2, 2)
    teacher = teacher_of(Network(model, head))  # type: ignore[arg-type]
    assert all(float(block.drop_path1.drop_prob) == 0 for block in teacher.backbone.blocks)
    plain = build_vit(config, 32, drop_path=0.0)
    assert type(plain) is ObjectViT
    with pytest.raises(ConfigError, match="has no two branches to skip"):
        build_vit(ModelConfig("vit_base_patch16_xp_224", embed_dim=48, depth=1, num_heads=2, drop_path=0.3,
                              drop_path_kind="dinov2"), 32)  # fmt: skip
