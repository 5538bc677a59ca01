import copy
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

from odis.backbones.build import build_pair
from odis.config.training import HeadConfig, ModelConfig, OptimConfig, PretrainConfig, ViewsConfig
from odis.train.optim import apply_settings, build_optimizer, clip_gradients, step_if_finite
from odis.train.schedules import Settings

SETTINGS = Settings(
    lr=0.01, weight_decay=0.3, momentum_teacher=0.9, teacher_temp=0.05, last_layer_frozen=False
)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 3))
        self.still = nn.Parameter(torch.randn(3, 3), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.norm(self.linear(x)) + self.cls_token[0]).square().sum()


def test_only_matrices_are_decayed_and_frozen_parameters_left_out() -> None:
    toy = Toy()
    optimizer = build_optimizer(toy, OptimConfig())
    apply_settings(optimizer, SETTINGS)
    decayed, kept = optimizer.param_groups
    assert [p is toy.linear.weight for p in decayed["params"]] == [True]
    assert {id(p) for p in kept["params"]} == {
        id(p) for p in (toy.linear.bias, toy.norm.weight, toy.norm.bias, toy.cls_token)
    }
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert decayed["lr"] == kept["lr"] == 0.01


def published_groups(model: nn.Module) -> tuple[set[str], set[str]]:
    """DINO's and iBOT's rule: neither biases nor what has one dimension is regularized."""
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    shapes = {name: p.shape for name, p in model.named_parameters()}
    kept = {name for name in names if name.endswith(".bias") or len(shapes[name]) == 1}
    return names - kept, kept


@pytest.mark.parametrize("kind", ["single", "read-only", "beside"])
def test_tokens_are_decayed_as_published_or_left_alone(
    kind: Literal["single", "read-only", "beside"],
) -> None:
    model = ModelConfig("vit_tiny_patch16_224", patch_size=8, embed_dim=32, depth=1, num_heads=2)
    student, _ = build_pair(
        PretrainConfig(
            views=ViewsConfig(global_size=32, local_size=16),
            model=replace(model, object_tokens=kind),
            head=HeadConfig(prototypes=24, hidden=20, bottleneck=12, norm_last_layer=False),
        )
    )
    named = {id(p): name for name, p in student.named_parameters()}

    def groups(decay_tokens: bool) -> list[set[str]]:
        optimizer = build_optimizer(student, OptimConfig(decay_tokens=decay_tokens))
        return [{named[id(p)] for p in group["params"]} for group in optimizer.param_groups]

    decayed, kept = published_groups(student)
    assert groups(True) == [decayed, kept]
    tokens = {"backbone.cls_token", "backbone.pos_embed", "backbone.mask_token"}
    tokens |= set() if kind == "single" else {"backbone.object_token"}
    tokens |= {"backbone.object_pos"} if kind == "beside" else set()
    assert groups(False) == [decayed - tokens, kept | tokens]


def test_update_equals_plain_adamw() -> None:
    toy = Toy()
    twin = copy.deepcopy(toy)
    ours = build_optimizer(toy, OptimConfig())
    plain = torch.optim.AdamW(
        [
            {"params": [twin.linear.weight], "weight_decay": 0.3},
            {"params": [twin.linear.bias, twin.norm.weight, twin.norm.bias, twin.cls_token]},
        ],
        lr=0.01,
        weight_decay=0.0,
    )
    for _ in range(5):
        x = torch.randn(6, 4)
        toy(x).backward()
        twin(x).backward()
        apply_settings(ours, SETTINGS)
        assert step_if_finite(ours, clip_gradients(toy, 0, "global"))
        plain.step()
        ours.zero_grad()
        plain.zero_grad()
    for a, b in zip(toy.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("clip", ["global", "parameter"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_gradient_changes_nothing(bad: float, clip: Literal["global", "parameter"]) -> None:
    toy = Toy()
    optimizer = build_optimizer(toy, OptimConfig())
    apply_settings(optimizer, SETTINGS)
    toy(torch.randn(6, 4)).backward()
    assert step_if_finite(optimizer, clip_gradients(toy, 3.0, clip))
    before = copy.deepcopy((toy.state_dict(), optimizer.state_dict()))
    optimizer.zero_grad()
    toy(torch.randn(6, 4)).backward()
    toy.linear.weight.grad[0, 0] = bad
    assert not step_if_finite(optimizer, clip_gradients(toy, 3.0, clip))
    for a, b in zip(before[0].values(), toy.state_dict().values()):
        assert torch.equal(a, b)
    for old, new in zip(before[1]["state"].values(), optimizer.state_dict()["state"].values()):
        assert all(torch.equal(old[k], new[k]) for k in old)


def test_clipping_bounds_the_global_norm() -> None:
    toy = Toy()
    (1000 * toy(torch.randn(6, 4))).backward()
    before = torch.stack([p.grad.norm() for p in toy.parameters() if p.grad is not None]).norm()
    assert torch.isclose(clip_gradients(toy, 2.0, "global"), before)
    after = torch.stack([p.grad.norm() for p in toy.parameters() if p.grad is not None]).norm()
    assert after == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("max_norm", [0.0, 0.3, 3.0])
def test_clipping_by_parameter_is_dinos(max_norm: float) -> None:
    """Each gradient as DINO's `clip_gradients` leaves it, some of them shorter than the bound; the norm is
    the global one.
    """
    toy = Toy()
    toy(torch.randn(6, 4)).backward()
    with torch.no_grad():
        toy.norm.bias.grad.mul_(1e-4)
    toy.cls_token.grad = None  # of a token that no loss reached
    gradients = {name: p.grad.double() for name, p in toy.named_parameters() if p.grad is not None}
    expected = {}
    for name, gradient in gradients.items():
        coefficient = max_norm / (gradient.square().sum().sqrt() + 1e-6)
        expected[name] = gradient * coefficient if max_norm > 0 and coefficient < 1 else gradient
    assert max_norm != 0.3 or 0 < sum(expected[k] is gradients[k] for k in expected) < len(expected)
    norm = clip_gradients(toy, max_norm, "parameter")
    squares = torch.stack([g.square().sum() for g in gradients.values()])
    assert float(norm) == pytest.approx(float(squares.sum().sqrt()), rel=1e-5)
    for name, p in toy.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad.double(), expected.pop(name), rtol=1e-5, atol=0)
    assert not expected
